"""Running a revision's model: columns of values in, scores and labels out.

A compiled model runs in onnxruntime with one thread (requests are what runs in parallel); one that could not be
compiled runs in the library it was trained with, opened as the loader's trust settings allow. Before a predictor is
handed out it has answered its bundle's golden requests as it did when it was registered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from undrift.develop.bundle import GoldenRow, Manifest, model_path, read_golden, read_manifest
from undrift.develop.rows import Answers, answer, answer_few, ask, native_rows
from undrift.develop.session import Session
from undrift.develop.trust import check_format, open_model
from undrift.develop.upstream import UpstreamModel
from undrift.errors import CorruptModelError, ModelError, PredictionError
from undrift.settings import TrustSettings

__all__ = ["NativePredictor", "OnnxPredictor", "Outputs", "Predictor", "check_golden", "differing", "load"]

Outputs = Answers
"""One entry per row: ``score`` (list of floats), ``scores`` (multiclass only) and ``label`` (None for regression)."""

GOLDEN_TOLERANCE: Final = 1e-4
WARM_UP: Final = 5


class Predictor(Protocol):
    """What runs a model. It is called from one thread at a time."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        ...

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> Outputs:
        """Scores and labels of the rows given as one list per input, absent values None.

        Raises PredictionError if the model raises or answers no prediction.
        """
        ...


class OnnxPredictor:
    """A compiled model in onnxruntime.

    Raises
    ------
    CorruptModelError : the file is no model that onnxruntime can run.
    MissingExtraError : onnxruntime is not installed.
    """

    def __init__(self, manifest: Manifest, path: Path) -> None:
        self.manifest = manifest
        try:
            self._session = Session(path, manifest.interface.inputs, manifest.interface.task)
        except ModelError as error:
            raise CorruptModelError(f"{path} cannot serve: {error.message}") from error

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> Outputs:
        """See Predictor."""
        session, manifest = self._session, self.manifest
        few = session.rows(columns) if session.bound else 0
        if 0 < few <= session.most:
            return answer_few(manifest.interface, session.few(columns, few), manifest.outputs)
        return answer(manifest.interface, session.run(columns), manifest.outputs)


class NativePredictor:
    """A model in the library it was trained with, in Python code of its own, or on another server.

    ``concurrency``: calls of `predict` that may run at once; one, except where the model says more.
    """

    def __init__(self, manifest: Manifest, model: Any) -> None:
        self.manifest = manifest
        self.concurrency: int = getattr(model, "concurrency", 1)
        self._model = model

    @property
    def upstream(self) -> UpstreamModel | None:
        """The model, if another server runs it."""
        return self._model if isinstance(self._model, UpstreamModel) else None

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> Outputs:
        """See Predictor."""
        interface = self.manifest.interface
        raw = ask(self._model, interface.task, native_rows(self.manifest, columns))
        return answer(interface, raw, self.manifest.outputs)


def load(folder: Path, trust: TrustSettings) -> Predictor:
    """Open the model of a bundle, warm it up and check it against the golden requests.

    Raises
    ------
    CorruptModelError : files are missing, changed or unreadable, or the model answers other than it did.
    UntrustedModelError : its format is not one the trust settings allow.
    MissingExtraError : the library it needs is not installed.
    """
    manifest = read_manifest(folder)
    path = model_path(folder, manifest)
    predictor: Predictor
    compared = True
    if manifest.format == "onnx":
        check_format("onnx", trust, what=str(path))
        predictor = OnnxPredictor(manifest, path)
    else:
        model = open_model(path, manifest.format, trust)
        predictor = NativePredictor(manifest, model)
        if isinstance(model, UpstreamModel) and not model.declared.version:
            compared = False  # whatever that server runs under the name is the model
    check_golden(predictor, read_golden(folder), str(folder), compared=compared)
    return predictor


def check_golden(predictor: Predictor, golden: Sequence[GoldenRow], where: str, *, compared: bool = True) -> None:
    """Ask the golden requests, all at once and one by one, and compare with the answers on record unless told not to.

    Raises
    ------
    CorruptModelError : an answer differs by more than 1e-4 (absolutely or relatively).
    """
    if not golden:
        return
    names = [given.name for given in predictor.manifest.interface.inputs]
    try:
        together = predictor.predict({name: [row.inputs.get(name) for row in golden] for name in names})
        for row in golden[:WARM_UP]:
            predictor.predict({name: [row.inputs.get(name)] for name in names})
    except (PredictionError, ValueError, TypeError) as error:
        raise ModelError(f"{where}: the model cannot answer its golden requests: {error}") from error
    for number, value, wanted in differing(predictor.manifest, together, golden) if compared else ():
        raise CorruptModelError(
            f"{where}: golden request {number} is answered {value:.6g}; on record is {wanted:.6g}.",
            hint="The model or a library it runs in is not what it was when the version was registered.",
        )


def differing(manifest: Manifest, outputs: Outputs, golden: Sequence[GoldenRow]) -> list[tuple[int, float, float]]:
    """The golden requests whose answer differs from the one on record by more than 1e-4 (absolutely or relatively).

    Each as its number, the first value that differs, and that on record.
    """
    found: list[tuple[int, float, float]] = []
    for number, row in enumerate(golden):
        expected = row.raw[1:] if manifest.interface.task == "binary" else row.raw
        said = outputs.scores[number] if outputs.scores is not None else [outputs.score[number]]
        found += [
            (number, value, wanted)
            for value, wanted in zip(said, expected, strict=True)
            if not math.isclose(value, wanted, rel_tol=GOLDEN_TOLERANCE, abs_tol=GOLDEN_TOLERANCE)
        ][:1]
    return found
