"""Neural networks of PyTorch and Keras as models: asked by rows, kept as a file, opened again, drawn as an ONNX graph.

The doorway of both libraries; neither is imported before a network is met. A network takes one matrix of float32
numbers of shape (n, d) and answers probabilities or values. What a .pt2 file may hold stands in torch_archive.py,
whether a graph is right in compile.py.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.develop.torch_archive import check_archive
from undrift.errors import CorruptModelError, ModelError, PredictionError
from undrift.plugins import resolve_path

__all__ = ["Network", "as_model", "is_torch_program", "network_graph", "open_keras", "open_torch", "open_torch_pickle"]

_NOISY: Final = ("torch.onnx._internal.exporter._registration", "torch.onnx", "onnxscript", "onnx_ir", "torch.export")
_LIBRARIES: Final = {"torch": "torch:Tensor", "keras": "keras:Model"}


class Network:
    """A network that answers rows. PyTorch computes on one thread for a call: requests are what runs in parallel.

    Parameters
    ----------
    module : a ``torch.nn.Module`` (a scripted one as well) or a ``keras.Model``.
    library : ``torch`` or ``keras``.
    """

    def __init__(self, module: Any, library: str) -> None:
        self.module, self.library = module, library
        if library == "torch" and type(module).__name__ != "GraphModule":  # an exported one is in its final state
            module.eval()

    def get_params(self) -> dict[str, Any]:
        """What a tracked run says of it: the name of its class, and how many weights it has."""
        if self.library == "torch":
            weights = sum(int(part.numel()) for part in self.module.parameters())
        else:
            weights = int(self.module.count_params())
        return {"model": type(self.module).__name__, "weights": weights}

    def predict(self, rows: Any) -> Any:
        """Its answers, float64 of shape (n,) or (n, k); one column is taken for values or P(positive).

        Raises
        ------
        PredictionError : a row holds text, or the network raised.
        """
        import numpy as np

        try:
            given = np.ascontiguousarray(rows, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise PredictionError(f"a network takes rows of numbers: {error}.", hint=_ENCODE) from error
        found = np.asarray(self._torch(given) if self.library == "torch" else self._keras(given), dtype=np.float64)
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found

    def _torch(self, given: Any) -> Any:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad():  # its stricter twin breaks some TorchScript
                found = self.module(torch.from_numpy(given))
        finally:
            torch.set_num_threads(threads)
        if not isinstance(found, torch.Tensor):
            raise PredictionError(f"the network answered a {type(found).__name__}; one tensor was expected.")
        return found.detach().numpy()

    def _keras(self, given: Any) -> Any:
        convert = resolve_path("keras:ops", wanted_for="a Keras model", extra="keras").convert_to_numpy
        return convert(self.module(given, training=False))

    def content(self, width: int) -> bytes:
        """The file to keep it in: an exported program (.pt2), a .keras archive, or TorchScript as it came.

        Parameters
        ----------
        width : how many inputs it takes.

        Raises
        ------
        ModelError : the library cannot export it.
        """
        if self.library == "keras":
            with tempfile.TemporaryDirectory(prefix="undrift-") as folder:
                file = Path(folder) / "model.keras"
                self.module.save(file)
                return _without_times(file.read_bytes())
        import torch

        target = io.BytesIO()
        with _quietly():
            if isinstance(self.module, torch.jit.ScriptModule):
                torch.jit.save(self.module, target)
                return target.getvalue()
            program = self._program(width)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # lines of its author's files, and where they lie
            torch.export.save(program, target)
        return target.getvalue()

    def _program(self, width: int) -> Any:
        """The module traced for any number of rows."""
        import torch

        try:
            rows = torch.zeros(2, width)
            return torch.export.export(self.module, (rows,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise ModelError(
                f"torch.export does not take {type(self.module).__name__} for rows of {width} numbers, any number of "
                f"them: {type(error).__name__}: {text}.",
                hint="Its forward must take one float tensor of shape (n, d), and be exported with a dynamic n.",
            ) from error

    def onnx(self, width: int) -> Any:
        """Its graph as an ONNX model with one input of shape (n, d)."""
        if self.library == "keras":
            return _keras_onnx(self.module, width)
        import torch

        if isinstance(self.module, torch.jit.ScriptModule):
            return _script_onnx(self.module, width)
        resolve_path("onnxscript:opset18", wanted_for="compiling a PyTorch model", extra="torch")
        drawn = torch.onnx.export(
            self._program(width), (torch.zeros(2, width),), dynamo=True, input_names=["undrift_input"], verbose=False
        )
        return drawn.model_proto


_ENCODE: Final = (
    "Encode text in a Transform, or put the network into a scikit-learn pipeline after an encoder "
    "(a class with fit and predict_proba that holds it)."
)


def as_model(found: Any) -> Any:
    """What was fitted or loaded, a bare network as one that answers rows; anything else as it is."""
    for library, kind in (("keras", "Model"), ("torch", "nn.Module")):
        known: Any = sys.modules.get(library)  # a network of a library that is not loaded cannot be given
        for part in kind.split("."):
            known = getattr(known, part, None)
        if known is not None and isinstance(found, known):
            return Network(found, library)
    return found


def network_graph(model: Network, width: int) -> Any:
    """The graph of a network, without what names its author's code.

    Raises
    ------
    MissingExtraError : onnxscript, by which PyTorch draws graphs, is not installed.
    """
    with _quietly():
        graph = model.onnx(width)
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    graph.graph.doc_string = ""
    for part in (*graph.graph.node, *graph.graph.initializer, *graph.graph.value_info, *graph.graph.input):
        part.doc_string = ""
        del part.metadata_props[:]
    return graph


def is_torch_program(content: bytes) -> bool:
    """Whether a file is an exported program (.pt2), of what PyTorch writes the only one that can be looked into."""
    return any(name.endswith("models/model.json") for name in _names(content))


def open_torch(content: bytes, what: str) -> Network:
    """An exported program, if it holds nothing but tensors and operators of PyTorch's own.

    Raises
    ------
    MissingExtraError : PyTorch is not installed.
    UntrustedModelError : it holds more, which would run when it is opened.
    """
    _library("torch", what)
    check_archive(content, what)
    import torch

    with _quietly():
        return Network(torch.export.load(io.BytesIO(content)).module(), "torch")


def open_torch_pickle(content: bytes, what: str) -> Network | None:
    """A TorchScript archive or a pickled module; None if the file is of another kind. Opening runs what is in it.

    Raises
    ------
    ModelError : it holds weights alone.
    """
    names = _names(content)
    if not any(name.endswith("/data.pkl") for name in names):
        return None
    _library("torch", what)
    import torch

    with _quietly():
        if any(name.endswith("/constants.pkl") for name in names):
            return Network(torch.jit.load(io.BytesIO(content), map_location="cpu"), "torch")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    if not isinstance(found, torch.nn.Module):
        raise ModelError(
            f"{what} holds a {type(found).__name__}, not a network: weights alone do not say what to compute.",
            hint="Load them into their module, and export that: torch.export.save(torch.export.export(...), file).",
        )
    return Network(found, "torch")


def open_keras(content: bytes, what: str) -> Network:
    """A .keras archive, opened in Keras' safe mode: no code of Lambda layers, no classes that are not registered.

    Raises
    ------
    MissingExtraError : Keras, or the backend it is set to, is not installed.
    CorruptModelError : it cannot be opened so; says why.
    """
    saving = _library("keras", what, "keras:saving")
    with tempfile.TemporaryDirectory(prefix="undrift-") as folder, _quietly():
        file = Path(folder) / "model.keras"
        file.write_bytes(content)
        try:
            return Network(saving.load_model(file, compile=False, safe_mode=True), "keras")
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise CorruptModelError(f"{what} cannot be opened in Keras' safe mode: {text}") from error


def _library(name: str, what: str, target: str = "") -> Any:
    return resolve_path(target or _LIBRARIES[name], wanted_for=what, extra=name)


def _names(content: bytes) -> list[str]:
    try:
        return zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile:
        return []


def _script_onnx(module: Any, width: int) -> Any:
    """TorchScript is drawn by PyTorch's older exporter only."""
    import torch
    from onnx import load_model_from_string

    target = io.BytesIO()
    torch.onnx.export(
        module, (torch.zeros(2, width),), target, dynamo=False, input_names=["undrift_input"],
        output_names=["undrift_answer"], dynamic_axes={"undrift_input": {0: "n"}, "undrift_answer": {0: "n"}},
    )  # fmt: skip
    return load_model_from_string(target.getvalue())


def _keras_onnx(model: Any, width: int) -> Any:
    from onnx import load

    spec = resolve_path("keras:InputSpec", wanted_for="compiling a Keras model", extra="keras")
    with tempfile.TemporaryDirectory(prefix="undrift-") as folder:
        file = Path(folder) / "model.onnx"
        signature = [spec(shape=(None, width), dtype="float32", name="undrift_input")]
        model.export(file, format="onnx", input_signature=signature, verbose=False)
        return load(file)


def _without_times(content: bytes) -> bytes:
    """The same archive without the times of its making: equal models get equal hashes."""
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for name in sorted(source.namelist()):
            part = source.read(name)
            if name == "metadata.json":
                part = msgspec.json.encode({**msgspec.json.decode(part), "date_saved": ""})
            out.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), part)
    return target.getvalue()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings and advice of exporters, which are not about the model; what matters is compared."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
