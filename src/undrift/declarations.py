"""What people want: the Model declaration and the loading of a project's declarations module.

A Model ties contract, features, training function, gate, rollout, monitors and retraining together. Declarations are
frozen values; they are hashed, shown as a diff and take effect only by `apply`. Nothing here reads or writes state.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from undrift.data.contract import Contract
from undrift.data.features import FeatureView, Source, Transform
from undrift.data.features import check as check_view
from undrift.data.text import MEASURED
from undrift.deploy.rollout import Rollout
from undrift.develop.bundle import Interface, Task
from undrift.develop.segments import AND, fields_of
from undrift.errors import ContractError, DeclarationError, UndriftError
from undrift.ids import content_hash, duration
from undrift.improve.triggers import Retrain
from undrift.monitor.monitors import Monitor
from undrift.validate.gate import Gate

__all__ = ["Declarations", "Model", "differences", "load_declarations", "resolve_function"]

if TYPE_CHECKING:
    Function = str | Callable[..., Any]
else:
    Function = Any  # msgspec, which reads applied declarations back, knows no type for functions


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its owner wants it.

    Parameters
    ----------
    name : lower-case name, used in URLs and table names.
    task : ``binary``, ``multiclass`` or ``regression``.
    label : the column to predict.
    contract : the request contract, or the path of its ODCS YAML beside undrift.toml.
    train : ``module:function`` (or the function) taking TrainingData and returning a fitted estimator.
    data : where training rows come from: a CSV or Parquet file, or ``module:function`` returning an Arrow-able table.
    baseline : like ``train``; what a candidate must beat when there is no champion yet.
    key, unit, time : request fields naming the prediction, the unit of assignment and the event time.
    views, transforms : features beside those in the request.
    segments : request fields whose values are watched and gated one by one; ``carrier & origin`` for those of two
        together.
    bands : for segments that are numbers, the ascending cuts between which their values count as one.
    rare : for other segments, values too rare to be judged alone, which are also looked at together.
    maturity : how long after the prediction its label can be expected.
    folds, holdout : growing folds of the time-ordered cross-validation, and the share of latest rows held out.
    seed : for whatever is random in training.
    quantise : whether a compiled network shall have 8-bit weights, if it judges as well then.
    """

    name: str
    task: Task
    label: str
    contract: Contract | str
    train: Function = ""
    data: Function = ""
    baseline: Function = ""
    key: str = ""
    unit: str = ""
    time: str = ""
    views: tuple[FeatureView, ...] = ()
    transforms: tuple[Transform, ...] = ()
    segments: tuple[str, ...] = ()
    bands: dict[str, tuple[float, ...]] = {}
    rare: dict[str, tuple[str, ...]] = {}
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    maturity: str = "1d"
    folds: int = 3
    holdout: float = 0.2
    seed: int = 0
    quantise: bool = False
    gate: Gate = Gate()
    rollout: Rollout = Rollout()
    monitors: tuple[Monitor, ...] = ()
    retrain: Retrain | None = None
    owner: str = ""
    description: str = ""

    def interface(self, classes: tuple[str, ...] = ()) -> Interface:
        """What the model is asked, fed and answers; classes as given, else as declared."""
        if isinstance(self.contract, str):
            raise DeclarationError(f"model {self.name!r}: its contract {self.contract!r} has not been read yet.")
        return Interface(
            model=self.name,
            task=self.task,
            contract=self.contract,
            label=self.label,
            key=self.key,
            unit=self.unit,
            time=self.time,
            views=self.views,
            transforms=self.transforms,
            segments=self.segments,
            bands=self.bands,
            rare=self.rare,
            classes=classes or self.classes,
            threshold=self.threshold,
        )

    def declared(self) -> dict[str, Any]:
        """The declaration as plain JSON values; functions as ``module:name``.

        Raises
        ------
        DeclarationError : a value is not of its type; says which.
        """
        plain = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("train", "data", "baseline"):
            plain[name] = function_path(plain[name])
        # by way of what the event log gives back, so that 5 and 5.0 are one value and tuples become lists
        try:
            typed = msgspec.json.decode(msgspec.json.encode(plain), type=Model)
        except (msgspec.ValidationError, TypeError) as error:
            raise DeclarationError(f"model {self.name!r}: {error}.") from error
        built: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(typed))
        return built

    @property
    def hash(self) -> str:
        """SHA-256 of the declaration."""
        return content_hash(self.declared())


class Declarations(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one project declares."""

    models: dict[str, Model]
    sources: dict[str, Source]
    histories: dict[str, str]

    def model(self, name: str = "") -> Model:
        """The model of that name, or the only one there is.

        Raises
        ------
        DeclarationError : no such model, or several and none named.
        """
        if not name and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            what = f"no model {name!r} is declared" if name else "which model? several are declared"
            raise DeclarationError(f"{what}; declared: {known}.")
        return self.models[name]


def function_path(function: str | Callable[..., Any]) -> str:
    """``module:name`` of a function, or the text as it is."""
    if isinstance(function, str):
        return function
    return f"{function.__module__}:{function.__qualname__}"


def read_anew(root: Path) -> None:
    """Let the next import of each of the project's modules read its file, as it is then."""
    _forget_modules(root.resolve(), own=True)


def _forget_modules(root: Path, *, own: bool = False) -> None:
    """Drop modules named like files of this project: those of another project's folder, with ``own`` also this one's.

    Two projects may both have a ``features.py``, and what changed on disk since must be read anew.
    """
    stems = {file.stem for file in root.glob("*.py")}
    for name in stems & set(sys.modules):
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and (own or Path(file).resolve().parent != root):
            del sys.modules[name]


def import_project_module(root: Path, name: str) -> ModuleType:
    """Import a module that stands in the project's folder.

    Raises
    ------
    DeclarationError : it does not exist or raises on import; says where.
    """
    root = root.resolve()
    if sys.path[:1] != [str(root)]:  # first, so that no other project's file of that name is found
        sys.path[:] = [str(root), *(path for path in sys.path if path != str(root))]
    _forget_modules(root)
    importlib.invalidate_caches()
    written = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # a file changed within the second of its .pyc would be read as it was before
    try:
        return importlib.import_module(name)
    except UndriftError as error:
        text = f"{name}.py of the project in {root} cannot be loaded: {error.message} ({_place(root)})"
        raise DeclarationError(text, hint=error.hint) from error
    except SyntaxError as error:  # where the text is wrong, not where it was being read
        where = f"{Path(error.filename or '?').name}:{error.lineno}"
        raise DeclarationError(
            f"{name}.py of the project in {root} cannot be loaded: SyntaxError: {error.msg} ({where})."
        ) from error
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise DeclarationError(
            f"{name}.py of the project in {root} cannot be loaded: {text} ({_place(root)})."
        ) from error
    finally:
        sys.dont_write_bytecode = written


def _place(root: Path) -> str:
    """The line of the project's own code that an exception being handled came through last, else its origin."""
    frames = inspect.trace()
    own = [frame for frame in frames if Path(frame.filename).resolve().parent == root]
    place = (own or frames)[-1]
    return f"{Path(place.filename).name}:{place.lineno}"


def resolve_function(root: Path, path: str | Callable[..., Any], *, what: str) -> Callable[..., Any]:
    """The function behind ``module:name`` in the project's folder.

    Raises
    ------
    DeclarationError : the module or function is not there, or it is not callable.
    """
    if not isinstance(path, str):
        return path
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise DeclarationError(f"{what} = {path!r} is not `module:function`.")
    module = import_project_module(root, module_name)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise DeclarationError(f"{what} = {path!r}: {module_name}.py has no function {attribute!r}.")
    return function  # type: ignore[no-any-return]


def _read_contract(root: Path, model: Model) -> Contract:
    if isinstance(model.contract, Contract):
        return model.contract
    file = root / model.contract
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DeclarationError(f"model {model.name!r}: its contract {file} cannot be read: {error}.") from error
    try:
        return Contract.from_odcs(text)
    except ContractError as error:
        raise DeclarationError(f"model {model.name!r}: {file}: {error.message}", hint=error.hint) from error


def _check(model: Model, contract: Contract, sources: Mapping[str, Source]) -> None:
    """Say everything that contradicts itself before anything is built on it."""
    known = {f.name for f in contract.fields}
    wrong: list[str] = []
    if not model.name.isidentifier() or model.name != model.name.lower():
        wrong.append(f"name {model.name!r} must be lower-case letters, digits and underscores")
    for role in ("key", "unit", "time"):
        field = getattr(model, role)
        if field and field not in known:
            wrong.append(f"{role} = {field!r} is no field of the contract ({', '.join(sorted(known))})")
    unit = model.rollout.unit
    if unit and unit not in known:
        wrong.append(f"rollout: unit = {unit!r} is no field of the contract ({', '.join(sorted(known))})")
    if model.rollout.without_unit == "champion" and not (unit or model.unit):
        wrong.append("rollout: without_unit = 'champion' needs a unit field, in the rollout or the model")
    wrong += [f"segment {s!r} is no field of the contract" for s in fields_of(model.segments, known) if s not in known]
    for segment in model.segments:
        parts = [segment] if segment in known else segment.split(AND)
        if len(set(parts)) < len(parts):
            wrong.append(f"segment {segment!r} names a field twice")
    types = {f.name: f.type for f in contract.fields}
    for which, groups in (("bands", model.bands), ("rare", model.rare)):
        wrong += [f"{which} of {name!r}, which is no segment" for name in groups if name not in model.segments]
    for name, cuts in model.bands.items():
        if list(cuts) != sorted(set(cuts)) or not cuts or name in model.rare:
            wrong.append(f"bands of {name!r} must be numbers that grow, and such a segment has no rare values")
        if name in model.segments and name not in known:
            wrong.append(f"bands of {name!r}: declare those of its numbers alone")
        if types.get(name, "number") not in ("number", "integer"):
            wrong.append(f"bands of {name!r}, which is no number but {types[name]}")
    for view in model.views:
        if view.source not in sources:
            wrong.append(f"view {view.name!r}: no source {view.source!r} is declared")
        if view.entity not in known:
            wrong.append(f"view {view.name!r}: its entity {view.entity!r} is no field of the contract")
        if view.source in sources:
            try:
                check_view(view, sources[view.source])
            except DeclarationError as error:
                wrong.append(error.message.rstrip("."))
    for transform in model.transforms:
        wrong += [f"transform {transform.name!r}: input {i!r} is no field" for i in transform.inputs if i not in known]
    names = [i.name for i in model.interface().inputs] if not isinstance(model.contract, str) else []
    wrong += [f"input {name!r} is defined twice" for name in sorted({n for n in names if names.count(n) > 1})]
    named = [monitor.name for monitor in model.monitors]
    columns = {*known, *names, "score", "label"}
    measured = {f"{field.name}.{what}" for field in contract.fields if field.text for what in MEASURED}
    for monitor in model.monitors:
        lost = (
            [c for c in monitor.columns if c.partition("[")[0] not in columns | measured]
            if monitor.kind == "drift"
            else []
        )
        wrong += [f"monitor {monitor.name!r}: {c!r} is no column ({', '.join(sorted(columns))})" for c in lost]
    wrong += [f"two monitors are named {name!r}" for name in sorted({n for n in named if named.count(n) > 1})]
    if model.retrain is not None and not model.train:
        wrong.append("retrain needs a `train` function")
    if model.views and not model.time:
        wrong.append("views are looked up as known at a time, so the model needs a `time` field")
    try:
        duration(model.maturity)
    except ValueError as error:
        wrong.append(f"maturity: {error}")
    if not 0 < model.holdout < 1 or model.folds < 0:
        wrong.append(f"holdout must lie in (0, 1) and folds be 0 or more, not {model.holdout} and {model.folds}")
    if wrong:
        raise DeclarationError(f"model {model.name!r}: " + "; ".join(wrong) + ".")


def _instances(module: ModuleType, kind: type) -> Iterable[Any]:
    for value in vars(module).values():
        items = value if isinstance(value, list | tuple) else (value,)
        yield from (item for item in items if isinstance(item, kind))


def load_declarations(root: Path, file: str) -> Declarations:
    """Load the declarations module of a project.

    Every Model and Source at the top level of the module counts, alone or in a list. ``histories`` is an optional
    mapping from a source's name to the file or ``module:function`` that gives its past rows.

    Raises
    ------
    DeclarationError : the file is missing, raises, declares nothing, or contradicts itself.
    """
    if not (root / file).is_file():
        raise DeclarationError(f"{root / file} does not exist, but undrift.toml names it as project.declarations.")
    module_name = Path(file).stem
    read_anew(root)
    module = import_project_module(root, module_name)
    sources = {source.name: source for source in _instances(module, Source)}
    models: dict[str, Model] = {}
    for model in _instances(module, Model):
        contract = _read_contract(root, model)
        model = msgspec.structs.replace(model, contract=contract)
        model.declared()  # the types, before anything is made of the values
        _check(model, contract, sources)
        if model.name in models and models[model.name] != model:
            raise DeclarationError(f"two different models are both named {model.name!r} in {file}.")
        models[model.name] = model
    if not models:
        raise DeclarationError(f"{root / file} declares no model.", hint="Add `model = undrift.Model(name=..., ...)`.")
    histories = {name: function_path(path) for name, path in getattr(module, "histories", {}).items()}
    for name in histories:
        if name not in sources:
            raise DeclarationError(f"histories names the source {name!r}, which is not declared.")
    return Declarations(models=models, sources=sources, histories=histories)


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        flat: dict[str, Any] = {}
        for key, part in value.items():
            flat.update(_flatten(part, f"{path}.{key}" if path else str(key)))
        return flat
    if isinstance(value, list) and value and all(isinstance(v, dict) and "name" in v for v in value):
        flat = {}
        for part in value:
            flat.update(_flatten(part, f"{path}[{part['name']}]"))
        return flat
    return {path: value}


def differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> tuple[str, ...]:
    """What changes from one declaration to another, one line per value: ``+``, ``-`` or ``~``, the path, the values."""
    before, after = _flatten(dict(old or {})), _flatten(dict(new))
    lines = []
    for path in sorted({*before, *after}):
        if path not in before:
            lines.append(f"+ {path} = {after[path]!r}")
        elif path not in after:
            lines.append(f"- {path} (was {before[path]!r})")
        elif before[path] != after[path]:
            lines.append(f"~ {path}: {before[path]!r} -> {after[path]!r}")
    return tuple(lines)
