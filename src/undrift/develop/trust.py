"""What may be opened: the loader's policy on model formats, and the opening of native model files under it.

An artifact never decides about itself. ONNX and booster files hold numbers; skops files name the types they are made
of, and only types known to hold data are made; pickles, Python files, MLflow folders and networks' files can run code,
upstream declarations send requests to other servers, and each needs its word in trust.formats.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from undrift.develop.networks import Network, is_torch_program, open_keras, open_torch, open_torch_pickle
from undrift.develop.pyfunc import PyfuncModel, packed_folder
from undrift.develop.upstream import UpstreamModel, read_upstream
from undrift.errors import CorruptModelError, ModelError, UndriftError, UntrustedModelError
from undrift.ids import content_hash
from undrift.plugins import resolve_path
from undrift.settings import TrustSettings

__all__ = ["SAFE_TYPES", "PythonModel", "check_format", "open_model", "save_model", "untrusted_types"]

#: Array types, and compiled parts of scikit-learn that hold arrays and are rebuilt from them without calling anything
#: else. skops leaves them to the loader because a wrong array in them can crash a process; it cannot run code.
SAFE_TYPES: Final = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
)

_DANGERS: Final = {
    "pickle": "opening a pickle runs whatever code is in it",
    "python": "opening it runs its code",
    "pyfunc": "loading an MLflow model runs the code that it names",
    "torch": "PyTorch's own loader of such files can run code, and what undrift refuses of them is a list of its own",
    "keras": "Keras' safe mode has been broken before",
    "upstream": "it sends the rows to another server",
}
_CATBOOST_CLASSIFIES: Final = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")
_EXTRAS: Final = {"lightgbm": ("lightgbm:Booster", "lightgbm"), "xgboost": ("xgboost:Booster", "xgboost")}


def check_format(format: str, trust: TrustSettings, *, what: str) -> None:  # noqa: A002  the word of the manifest
    """Refuse a format that the loader's settings do not name.

    Raises
    ------
    UntrustedModelError : says what to write in undrift.toml.
    """
    if format in trust.formats:
        return
    wanted = ", ".join(f'"{name}"' for name in (*trust.formats, format))
    danger = _DANGERS.get(format, "it is not on the list")
    raise UntrustedModelError(
        f"{what} is in the format {format!r}, which trust.formats does not allow: {danger}.",
        hint=f"If you trust where it comes from, write in undrift.toml:  [trust]  formats = [{wanted}]",
    )


def untrusted_types(content: bytes, trust: TrustSettings) -> list[str]:
    """The types a skops file is made of that neither skops, this loader nor the settings know to be safe."""
    from skops.io import get_untrusted_types

    known = {*SAFE_TYPES, *trust.skops_types}
    return sorted(set(get_untrusted_types(data=content)) - known)


def open_model(path: Path, format: str, trust: TrustSettings) -> Any:  # noqa: A002
    """Open a native model file: an estimator, a booster, a class in a Python file, or a model on another server.

    ONNX files are opened by compile.py and inference/predictor.py.

    Raises
    ------
    UntrustedModelError : the settings do not allow the format, or a skops file holds types they do not name.
    CorruptModelError : the file cannot be read as what it is said to be.
    MissingExtraError : the library that reads it is not installed.
    """
    check_format(format, trust, what=str(path))
    try:
        content = packed_folder(path) if format == "pyfunc" and path.is_dir() else path.read_bytes()
    except OSError as error:
        raise CorruptModelError(f"{path} cannot be read: {error}.") from error
    opener: dict[str, Callable[[bytes, Path, TrustSettings], Any]] = {
        "skops": _open_skops,
        "pickle": _open_pickle,
        "lightgbm": _open_lightgbm,
        "xgboost": _open_xgboost,
        "catboost": _open_catboost,
        "torch": lambda content, path, trust: open_torch(content, str(path)),
        "keras": lambda content, path, trust: open_keras(content, str(path)),
        "pyfunc": lambda content, path, trust: PyfuncModel(content, str(path)),
        "python": _open_python,
        "upstream": _open_upstream,
    }
    if format not in opener:
        raise ModelError(f"{path}: {format!r} is no native format; known are {', '.join(sorted(opener))}.")
    try:
        return opener[format](content, path, trust)
    except UndriftError:
        raise
    except Exception as error:
        raise CorruptModelError(
            f"{path} cannot be opened as {format}: {type(error).__name__}: {error}.",
            hint="The file is damaged, or was written by a version of its library that this one cannot read.",
        ) from error


def save_model(model: Any, trust: TrustSettings, *, width: int = 0) -> tuple[str, bytes]:
    """The format and file content to keep a fitted model in: its library's own file, skops, or pickle where allowed.

    Parameters
    ----------
    width : how many inputs it takes; networks are exported for so many.

    Raises
    ------
    UntrustedModelError : skops cannot keep it (or not with types that the settings allow to be opened again), and
        pickle is not allowed.
    """
    if isinstance(model, UpstreamModel):
        return "upstream", msgspec.json.format(msgspec.json.encode(model.declared))
    if isinstance(model, PythonModel):
        return "python", model.source
    if isinstance(model, PyfuncModel):
        return "pyfunc", model.content
    if isinstance(model, Network):
        return _save_network(model, width, trust)
    booster = _booster(model)
    if booster is not None:
        return booster
    from skops import io as skops_io

    try:
        content: bytes = skops_io.dumps(model)
        strange = untrusted_types(content, trust)
        reason = f"it holds types that are not known to be safe: {', '.join(strange)}" if strange else ""
    except Exception as error:  # noqa: BLE001  any failure of skops means the same: this model needs another way
        strange, reason = [], f"skops cannot keep it ({type(error).__name__}: {error})"
    if not reason:
        return "skops", _reproducible(content)
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if "pickle" in trust.formats:
        return "pickle", pickle.dumps(model)
    listed = ", ".join(f'"{t}"' for t in (*trust.skops_types, *strange))
    advice = f"skops_types = [{listed}]" if strange else 'formats = ["onnx", "skops", "pickle"]'
    raise UntrustedModelError(
        f"the trained {name} cannot be stored so that it may be opened again: {reason}.",
        hint=f"If that code is yours, write in undrift.toml:  [trust]  {advice}",
    )


def _save_network(model: Network, width: int, trust: TrustSettings) -> tuple[str, bytes]:
    content = model.content(width)
    kept = "keras" if model.library == "keras" else "torch" if is_torch_program(content) else "pickle"
    if kept not in trust.formats:
        raise UntrustedModelError(
            f"the network could be stored as {kept!r} only, which trust.formats does not allow to be opened again.",
            hint=f'If that code is yours, write in undrift.toml:  [trust]  formats = ["onnx", "skops", "{kept}"]',
        )
    return kept, content


def _reproducible(content: bytes) -> bytes:
    """The same skops file without the times and memory addresses of its making: equal models get equal hashes."""
    names: dict[str, str] = {}

    def place(found: re.Match[str]) -> str:
        return names.setdefault(found[0], str(len(names)))

    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    pattern = r'(?<="__id__": )\d+|(?<=")\d+(?=\.np[yz]")'
    schema = re.sub(pattern, place, source.read("schema.json").decode())
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        parts = {
            re.sub(r"^\d+(?=\.np[yz]$)", place, n): source.read(n) for n in source.namelist() if n != "schema.json"
        }
        for name, part in sorted({**parts, "schema.json": schema.encode()}.items()):
            out.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), part, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def _booster(model: Any) -> tuple[str, bytes] | None:
    library = type(model).__module__.partition(".")[0]
    if library == "lightgbm":
        return "lightgbm", getattr(model, "booster_", model).model_to_string().encode()
    if library == "xgboost":
        booster = model.get_booster() if hasattr(model, "get_booster") else model
        return "xgboost", bytes(booster.save_raw("ubj"))
    if library == "catboost":
        with tempfile.TemporaryDirectory(prefix="undrift-") as folder:
            file = Path(folder) / "model.cbm"
            model.save_model(str(file))
            return "catboost", file.read_bytes()
    return None


def _open_skops(content: bytes, path: Path, trust: TrustSettings) -> Any:
    from skops.io import get_untrusted_types, loads

    strange = untrusted_types(content, trust)
    if strange:
        listed = ", ".join(f'"{t}"' for t in (*trust.skops_types, *strange))
        raise UntrustedModelError(
            f"{path} holds types that are not known to be safe: {', '.join(strange)}.",
            hint=f"If you trust them, write in undrift.toml:  [trust]  skops_types = [{listed}]",
        )
    return loads(content, trusted=get_untrusted_types(data=content))


def _open_pickle(content: bytes, path: Path, trust: TrustSettings) -> Any:
    network = open_torch_pickle(content, str(path))
    if network is not None:
        return network
    import joblib

    return joblib.load(io.BytesIO(content))  # reads plain pickles too


class PythonModel:
    """An instance of the class ``Model`` of a Python file, and the file's text, which is how the model is kept.

    The class takes no arguments and has ``predict``, or ``predict_proba`` for a classifier; it may say ``inputs``,
    ``task`` and ``classes``.
    """

    def __init__(self, source: bytes, what: str) -> None:
        # under its content's name, as the code of transforms: two versions of a file do not see each other
        module = types.ModuleType(f"_undrift_model_{content_hash(source)[:16]}")
        sys.modules[module.__name__] = module  # dataclasses look their module up here
        exec(compile(source, what, "exec"), module.__dict__)
        kind = getattr(module, "Model", None)
        if not isinstance(kind, type) or not (hasattr(kind, "predict") or hasattr(kind, "predict_proba")):
            raise ModelError(f"{what} has no class `Model` with `predict` or `predict_proba`.")
        self.source = source
        self.model = kind()
        self.predict = getattr(self.model, "predict", None)
        if hasattr(self.model, "predict_proba"):
            self.predict_proba = self.model.predict_proba
        self.concurrency = int(getattr(self.model, "concurrency", 1))


def _open_python(content: bytes, path: Path, trust: TrustSettings) -> Any:
    return PythonModel(content, path.name)


def _open_upstream(content: bytes, path: Path, trust: TrustSettings) -> Any:
    form: Literal["toml", "json"] = "toml" if path.suffix == ".toml" else "json"
    return UpstreamModel(read_upstream(content, str(path), form=form))


def _open_lightgbm(content: bytes, path: Path, trust: TrustSettings) -> Any:
    target, extra = _EXTRAS["lightgbm"]
    booster = resolve_path(target, wanted_for=str(path), extra=extra)
    return booster(model_str=content.decode())


def _open_xgboost(content: bytes, path: Path, trust: TrustSettings) -> Any:
    target, extra = _EXTRAS["xgboost"]
    booster = resolve_path(target, wanted_for=str(path), extra=extra)(params={"nthread": 1})
    booster.load_model(bytearray(content))
    return booster


def _open_catboost(content: bytes, path: Path, trust: TrustSettings) -> Any:
    plain = resolve_path("catboost:CatBoost", wanted_for=str(path), extra="catboost")()
    plain.load_model(blob=content)
    if plain.get_all_params().get("loss_function", "") not in _CATBOOST_CLASSIFIES:
        return plain
    model = resolve_path("catboost:CatBoostClassifier", wanted_for=str(path), extra="catboost")()
    model.load_model(blob=content)
    return model
