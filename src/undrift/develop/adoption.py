"""Adoption: a model that exists already, with an example of its rows, made into a bundle like a trained one.

The file is opened as far as the loader's trust goes. Names, task and classes come from the model, types, ranges and the
reference profile from the example; with labels in it, the expected performance as well (on rows the model may have
seen: the manifest says so under ``trained["measured_on"]``).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from undrift.data.inspect import infer
from undrift.develop.bundle import Fed, Interface, Manifest, Task, revision_id
from undrift.develop.folds import labels, times
from undrift.develop.foreign import describe_onnx, onnx_model
from undrift.develop.networks import Network, as_model, is_torch_program
from undrift.develop.packing import pack
from undrift.develop.performance import Scored, label_text
from undrift.develop.pyfunc import PyfuncModel
from undrift.develop.trust import PythonModel, check_format, open_model
from undrift.develop.upstream import UpstreamModel
from undrift.errors import DataError, ModelError, NotFoundError
from undrift.settings import TrustSettings
from undrift.state.ports import Artifacts

if TYPE_CHECKING:
    from undrift.develop.registry import MlflowRegistry

__all__ = ["Adopted", "adopt"]

SUFFIXES: Final[Mapping[str, str]] = {
    ".bst": "xgboost",
    ".cbm": "catboost",
    ".cloudpickle": "pickle",
    ".joblib": "pickle",
    ".json": "xgboost",
    ".keras": "keras",
    ".lgb": "lightgbm",
    ".onnx": "onnx",
    ".pickle": "pickle",
    ".pkl": "pickle",
    ".pt": "torch",
    ".pt2": "torch",
    ".pth": "torch",
    ".py": "python",
    ".skops": "skops",
    ".toml": "upstream",
    ".txt": "lightgbm",
    ".ubj": "xgboost",
    ".xgb": "xgboost",
}
_FLAVORS: Final = {
    # MLflow's flavour: the key naming its file, the file if the key is missing, our format (None: by the file's suffix)
    "onnx": ("data", "model.onnx", "onnx"),
    "lightgbm": ("data", "model.lgb", "lightgbm"),
    "xgboost": ("data", "model.xgb", "xgboost"),
    "catboost": ("data", "model.cb", "catboost"),
    "sklearn": ("pickled_model", "model.pkl", None),
}


@dataclass(frozen=True)
class Adopted:
    """An adopted model, bundled but not yet registered. ``scored`` has no labels if the example has none."""

    bundle: str
    revision: str
    manifest: Manifest
    scored: Scored
    labelled: bool


@dataclass(frozen=True)
class _Foreign:
    """What a model says about itself; empty where it says nothing."""

    model: Any
    names: tuple[str, ...]
    width: int
    task: Task | None
    classes: tuple[str, ...]
    fed: Fed
    onnx: bytes = b""


def adopt(
    source: str | Path,
    example: pa.Table,
    *,
    name: str,
    artifacts: Artifacts,
    trust: TrustSettings | None = None,
    label: str = "",
    interface: Interface | None = None,
    task: Task | None = None,
    key: str = "",
    time: str = "",
    segments: Sequence[str] = (),
    threshold: float = 0.5,
    registry: MlflowRegistry | None = None,
    code: Mapping[str, str] | None = None,
    quantised: bool = False,
) -> Adopted:
    """Make a bundle of an existing model.

    Parameters
    ----------
    source : a file (its suffix says the format), an MLflow model folder, or ``models:/NAME@ALIAS``.
    example : rows as requests will send them, at least the model's inputs; with labels if there are any.
    name : the model's name here.
    interface : what the model is asked and answers; made from the model and the example if left out.
    task : where neither the model nor ``interface`` says it.
    code : source text of the modules that transforms of ``interface`` name.
    quantised : whether the compiled model shall have 8-bit weights, if it judges as well.

    Raises
    ------
    NotFoundError : no such file or MLflow model.
    UntrustedModelError : the format may run code and the settings do not allow it; says what to write.
    CorruptModelError, ModelError : the file cannot be read, or is of no known kind.
    DataError : the example lacks inputs of the model.
    MissingExtraError : a library that the model needs is not installed.
    """
    allowed = trust or TrustSettings()
    with ExitStack() as stack:
        path = _local(str(source), registry, stack)
        file, form = _model_file(path)
        foreign = _open(file, form, allowed)
    if interface is None:
        interface = _propose(foreign, example, name, label, task, key, time, tuple(segments), threshold)
    given = [i.name for i in interface.inputs]
    if foreign.names and list(foreign.names) != given:
        raise DataError(f"the model takes {list(foreign.names)} in this order, but its interface gives {given}.")
    if foreign.width and foreign.width != len(given):
        raise DataError(f"the model takes {foreign.width} inputs, but its interface gives {len(given)}: {given}.")
    if foreign.classes and interface.task != "regression" and set(foreign.classes) != set(interface.classes):
        raise DataError(f"the model knows the classes {foreign.classes}, but its interface names {interface.classes}.")
    labelled = bool(interface.label) and interface.label in example.column_names
    if labelled:
        example = example.filter(example.column(interface.label).is_valid())
    if example.num_rows == 0:
        raise DataError("the example has no rows" + (f" with a value in {interface.label!r}." if labelled else "."))
    onnx = onnx_model(foreign.onnx, interface) if foreign.onnx else b""
    packed = pack(
        foreign.model,
        interface,
        inputs_of=example,
        rows=example,
        label=labels(interface, example) if labelled else None,
        time=times(interface, example) if interface.time in example.column_names else None,
        outputs=() if foreign.classes == interface.classes else foreign.classes,
        fed=foreign.fed,
        onnx=onnx,
        code=code,
        quantised=quantised,
        trust=allowed,
        artifacts=artifacts,
        trained={"adopted_from": Path(str(source)).name, "rows": example.num_rows, "measured_on": "example"},
    )
    return Adopted(packed.bundle, revision_id(packed.bundle), packed.manifest, packed.scored, labelled)


def _local(source: str, registry: MlflowRegistry | None, stack: ExitStack) -> Path:
    if source.startswith("models:/"):
        if registry is None:
            raise ModelError(f"{source} is a model in MLflow, but no MLflow was given (stores.tracking).")
        return registry.download(source, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="undrift-"))))
    path = Path(source)
    if not path.exists():
        raise NotFoundError(f"there is no model at {path.absolute()}.")
    return path


def _model_file(path: Path) -> tuple[Path, str]:
    """The file that holds the model, and its format."""
    if path.is_dir():
        return _mlflow_file(path)
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        known = ", ".join(sorted(SUFFIXES))
        raise ModelError(f"{path.name}: the suffix {path.suffix!r} names no known format.", hint=f"Known are {known}.")
    if form == "torch" and not is_torch_program(path.read_bytes()):
        form = "pickle"  # TorchScript, a pickled module, or weights: PyTorch's loader of these is no safe one
    return path, form


def _mlflow_file(folder: Path) -> tuple[Path, str]:
    import yaml

    described = folder / "MLmodel"
    try:
        flavors = yaml.safe_load(described.read_text(encoding="utf-8"))["flavors"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} is no MLflow model: {described.name} cannot be read ({error}).") from error
    for flavor, (key, default, form) in _FLAVORS.items():
        if flavor in flavors:
            file = folder / flavors[flavor].get(key, default)
            return file, form or SUFFIXES.get(file.suffix.lower(), "pickle")
    if "python_function" in flavors:
        return folder, "pyfunc"
    raise ModelError(
        f"the MLflow model has the flavours {', '.join(sorted(flavors))}; known are {', '.join(sorted(_FLAVORS))}.",
        hint="Log the model in one of these or as a pyfunc, or export it to ONNX.",
    )


def _open(file: Path, form: str, trust: TrustSettings) -> _Foreign:
    if form != "onnx":
        return _describe(as_model(open_model(file, form, trust)))
    check_format(form, trust, what=str(file))
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error}.") from error
    names, width, task, classes = describe_onnx(content, str(file))
    return _Foreign(None, names, width, task, classes, "double", content)


def _describe(model: Any) -> _Foreign:
    if isinstance(model, UpstreamModel):
        said = model.declared
        return _Foreign(model, tuple(c.name for c in said.inputs), len(said.inputs), said.task, said.classes, "double")
    if isinstance(model, PythonModel):
        return _describe_python(model, model.model)
    if isinstance(model, Network):
        return _Foreign(model, (), 0, None, (), "single")
    if isinstance(model, PyfuncModel):
        named = model.outputs if len(model.outputs) > 1 else ()
        kind: Task | None = ("binary" if len(named) == 2 else "multiclass") if named else None
        return _Foreign(model, model.inputs, len(model.inputs), kind, named, "frame")
    library = type(model).__module__.partition(".")[0]
    if library == "lightgbm":
        return _describe_lightgbm(model)
    if library == "xgboost":
        return _describe_xgboost(model)
    if library == "catboost":
        return _describe_catboost(model)
    if not hasattr(model, "predict") and not hasattr(model, "predict_proba"):
        raise ModelError(f"the file holds a {type(model).__name__}, which has no `predict`: it is no model.")
    if not hasattr(model, "__sklearn_tags__"):
        return _describe_python(model, model)
    from sklearn.base import is_classifier, is_regressor

    names = tuple(str(n) for n in getattr(model, "feature_names_in_", ()))
    classes: tuple[str, ...] = ()
    task: Task | None = "regression" if is_regressor(model) else None
    if is_classifier(model) and hasattr(model, "classes_"):
        classes = tuple(label_text(c) for c in model.classes_.tolist())
        task = "binary" if len(classes) == 2 else "multiclass"
        if not hasattr(model, "predict_proba"):
            raise ModelError(
                f"{type(model).__name__} gives classes without probabilities, which cannot be watched or compared.",
                hint="Wrap it in sklearn.calibration.CalibratedClassifierCV, or fit it with probability=True.",
            )
    width = int(getattr(model, "n_features_in_", 0))
    return _Foreign(model, names, width, task, classes, "frame" if names else "double")


def _describe_python(model: Any, said: Any) -> _Foreign:
    """A class of somebody's own: what it says of itself, by the names of a `Model` or by those of scikit-learn."""
    kind = type(said).__name__
    names = tuple(str(name) for name in getattr(said, "inputs", getattr(said, "feature_names_in_", ())))
    task: Any = getattr(said, "task", None)
    if task not in (None, "binary", "multiclass", "regression"):
        raise ModelError(f"the class {kind} says its task is {task!r}; binary, multiclass or regression was expected.")
    classes = tuple(label_text(c) for c in getattr(said, "classes", getattr(said, "classes_", ())))
    if task is None and classes:
        task = "binary" if len(classes) == 2 else "multiclass"
    return _Foreign(model, names, len(names), task, classes, "double")


def _describe_lightgbm(model: Any) -> _Foreign:
    booster = getattr(model, "booster_", model)
    names = tuple(booster.feature_name())
    own = () if all(n == f"Column_{i}" for i, n in enumerate(names)) else names
    k = int(booster.num_model_per_iteration())
    objective = str(booster.dump_model(num_iteration=1).get("objective", ""))
    task, classes = _by_objective(objective, k)
    frames = bool(getattr(booster, "pandas_categorical", None))
    return _Foreign(booster, own, booster.num_feature(), task, classes, "frame" if frames else "double")


def _describe_xgboost(model: Any) -> _Foreign:
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    names = tuple(booster.feature_names or ())
    own = () if all(n == f"f{i}" for i, n in enumerate(names)) else names
    learner = json.loads(booster.save_config())["learner"]
    k = max(int(learner["learner_model_param"].get("num_class", 0)), 1)
    task, classes = _by_objective(learner["objective"]["name"], k)
    return _Foreign(booster, own, booster.num_features(), task, classes, "double")


def _describe_catboost(model: Any) -> _Foreign:
    names = tuple(str(name) for name in model.feature_names_)
    own = () if all(name == str(place) for place, name in enumerate(names)) else names
    classes = tuple(label_text(c) for c in model.classes_) if hasattr(model, "predict_proba") else ()
    task: Task = "regression" if not classes else "binary" if len(classes) == 2 else "multiclass"
    return _Foreign(model, own, len(names), task, classes, "single")


def _by_objective(objective: str, k: int) -> tuple[Task, tuple[str, ...]]:
    if k > 1:
        return "multiclass", tuple(str(i) for i in range(k))
    if objective.startswith(("binary", "cross_entropy")):
        if "logitraw" in objective or "hinge" in objective:
            raise ModelError(f"the booster's objective {objective!r} gives no probabilities.")
        return "binary", ("0", "1")
    return "regression", ()


def _propose(
    foreign: _Foreign,
    example: pa.Table,
    name: str,
    label: str,
    task: Task | None,
    key: str,
    time: str,
    segments: tuple[str, ...],
    threshold: float,
) -> Interface:
    """The interface that follows from the model and the example."""
    had = example.column_names
    missing = [c for c in (*foreign.names, *filter(None, (label, key, time)), *segments) if c not in had]
    if missing:
        raise DataError(f"the example has no column {', '.join(map(repr, missing))}; it has {', '.join(had)}.")
    beside = {label, key, time}
    names = list(foreign.names) or [c for c in example.column_names if c not in beside]
    if foreign.width and len(names) != foreign.width:
        raise DataError(
            f"the model takes {foreign.width} inputs and names none, but the example has {len(names)} columns: "
            f"{', '.join(names)}.",
            hint="Leave only the model's inputs, in their order, beside the label, key and time.",
        )
    context = [c for c in dict.fromkeys((key, time, *segments)) if c and c not in names]
    contract = infer(example.select([*names, *context]), name, context=tuple(context), keys=(key,) if key else ())
    kind = task or foreign.task
    if kind is None:
        raise ModelError("the model does not say whether it classifies or regresses.", hint="Give `task`.")
    classes = foreign.classes
    if kind != "regression" and not classes and label:
        classes = tuple(sorted({label_text(v) for v in example.column(label).drop_null().to_pylist()}))
    if kind != "regression" and len(classes) < 2:
        raise ModelError("the model does not name its classes.", hint="Give an example with labels, and `label`.")
    return Interface(
        model=name,
        task=kind,
        contract=contract,
        label=label or "label",
        key=key,
        time=time,
        segments=segments,
        classes=() if kind == "regression" else classes,
        threshold=threshold,
    )
