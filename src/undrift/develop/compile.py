"""Compilation to ONNX, and the check that the compiled model still says what the trained one says.

Converters are silently wrong for some models (trees with native categories, isotonic calibration), so nothing that is
compiled serves unless it agreed with the original on the rows of the held-out tail and on rows with absent and unseen
values."""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from undrift.develop.bundle import Input, Interface
from undrift.develop.graphs import dense, finished, one_tensor_per_input
from undrift.develop.rows import answer, in_order
from undrift.develop.session import Session
from undrift.errors import ModelError, PredictionError
from undrift.plugins import resolve_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["TOLERANCE", "Compiled", "Parity", "compare", "compile_model", "run_onnx"]

#: Largest difference of a probability (or, for regression, of a value in standard deviations of the predictions)
#: between the two forms of a model. float32 against float64 gives about 1e-6; a tree that splits wrongly gives 1e-2.
TOLERANCE: Final = 1e-4
_OPSET: Final = {"": 17, "ai.onnx.ml": 3}
_UNSEEN: Final = "\N{EMPTY SET} never seen"
_PROBES: Final = 25

Predict = Callable[[Mapping[str, Any]], "Floats"]


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison of two forms of a model saw.

    ``max_difference``: of probabilities, or of values in standard deviations. ``flips``: rows with another class.
    ``rows``: rows compared. ``reason``: why it does not hold, empty if it does.
    """

    held: bool
    max_difference: float
    flips: int
    rows: int
    reason: str = ""


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled model (empty if the conversion itself failed) and how it compared with the original."""

    content: bytes
    parity: Parity


def compile_model(
    model: Any, interface: Interface, native: Predict, columns: Mapping[str, Any], outputs: Sequence[str] = ()
) -> Compiled:
    """Convert a fitted model and check it; never raises for a model that cannot be converted.

    Parameters
    ----------
    model : scikit-learn estimator or pipeline, LightGBM or XGBoost model.
    native : the original's own output for encoded columns.
    columns : encoded columns of validation rows, as `rows.table_columns` gives them.
    outputs : the class each probability column means.

    Raises
    ------
    MissingExtraError : the packages of the extra ``onnx`` are not installed.
    """
    resolve_path("onnxruntime:InferenceSession", wanted_for="compiling a model", extra="onnx")
    resolve_path("skl2onnx:convert_sklearn", wanted_for="compiling a model", extra="onnx")
    tried: list[Compiled] = []
    for convert in _conversions(model, interface.inputs):
        try:
            with warnings.catch_warnings(), _quiet("skl2onnx", "onnxmltools", "onnx"):
                warnings.simplefilter("ignore")  # deprecations inside the converters; what matters is compared
                content = convert(model, interface.inputs)
            run = run_onnx(content, interface)
        except Exception as error:  # noqa: BLE001  a converter may fail in any way; the model is then served natively
            text = " ".join(str(error).split())[:300]
            reason = f"it cannot be converted: {type(error).__name__}: {text}"
            parity = Parity(held=False, max_difference=0.0, flips=0, rows=0, reason=reason)
            tried.append(Compiled(content=b"", parity=parity))
            continue
        tried.append(Compiled(content=content, parity=compare(interface, native, run, columns, outputs)))
        if tried[-1].parity.held:
            return _fast(tried[-1], interface, native, columns, outputs)
    return next((found for found in tried if found.content), tried[-1])  # one that could be compared says more


def _fast(
    found: Compiled, interface: Interface, native: Predict, columns: Mapping[str, Any], outputs: Sequence[str]
) -> Compiled:
    """The dense form of a graph that holds, if that holds too; the graph itself otherwise."""
    try:
        content = dense(found.content)
        parity = compare(interface, native, run_onnx(content, interface), columns, outputs)
    except Exception:  # noqa: BLE001  a graph of unknown parts may not bear the change; as it is, it holds
        return found
    return Compiled(content=content, parity=parity) if parity.held else found


def run_onnx(content: bytes, interface: Interface) -> Predict:
    """A compiled model as a function of columns, run on one thread as it is when it serves.

    Raises
    ------
    ModelError : its inputs are not those of the interface, or it cannot be loaded.
    """
    return Session(content, interface.inputs, interface.task).run


def compare(
    interface: Interface, native: Predict, compiled: Predict, columns: Mapping[str, Any], outputs: Sequence[str] = ()
) -> Parity:
    """Compare two forms of a model on given rows and on copies of some with values made absent and unseen.

    Values are made absent only where they can be: nullable fields, and everything that views and transforms give. If
    the original refuses such rows, the compiled form must refuse them as well.
    """
    import numpy as np

    rows = flips = 0
    worst, reasons = 0.0, []
    scale = 1.0
    for name, probe in _probes(interface, columns):
        wanted, got = _try(native, probe, interface, outputs), _try(compiled, probe, interface, outputs)
        if isinstance(wanted, str) and name == "given":
            reasons.append(f"the original does not answer the validation rows: {wanted}")
        elif isinstance(wanted, str):
            if not isinstance(got, str):
                reasons.append(f"it answers rows with {name}, which the original refuses")
        elif isinstance(got, str):
            reasons.append(f"it does not answer rows with {name}: {got}")
        else:
            if name == "given" and interface.task == "regression":
                scale = float(np.std(wanted)) or 1.0
            difference = float(np.abs(wanted - got).max(initial=0.0)) / scale
            turned = _flips(interface, wanted, got)
            rows, flips, worst = rows + len(wanted), flips + turned, max(worst, difference)
            if difference > TOLERANCE:
                over = np.abs(wanted - got).reshape(len(wanted), -1).max(axis=1) / scale > TOLERANCE
                reasons.append(
                    f"{int(over.sum())} of {len(wanted)} rows ({name}) differ by up to {difference:.2g}, "
                    f"more than {TOLERANCE:g}"
                )
    reason = "; ".join(reasons[:3])
    return Parity(held=not reasons and rows > 0, max_difference=worst, flips=flips, rows=rows, reason=reason)


def _try(predict: Predict, columns: Mapping[str, Any], interface: Interface, outputs: Sequence[str]) -> Floats | str:
    try:
        return in_order(interface, predict(columns), outputs)
    except PredictionError as error:
        return error.message


def _flips(interface: Interface, wanted: Floats, got: Floats) -> int:
    before, after = answer(interface, wanted).label, answer(interface, got).label
    return sum(a != b for a, b in zip(before or (), after or (), strict=True))


def _probes(interface: Interface, columns: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    import numpy as np

    whole = {i.name: columns[i.name] for i in interface.inputs}
    n = len(next(iter(whole.values())))
    some = np.unique(np.linspace(0, n - 1, min(_PROBES, n)).astype(int))
    few = {name: values[some] for name, values in whole.items()}
    fixed = {f.name for f in interface.contract.fields if not f.nullable}
    probes = [("given", whole)]
    gone = dict(few)
    for given in interface.inputs:
        text = given.type == "string"
        absent = np.full(len(some), "" if text else np.nan, dtype=object if text else np.float64)
        if given.name not in fixed:
            probes.append((f"no {given.name}", {**few, given.name: absent}))
            gone[given.name] = absent
        if text:
            unseen = np.full(len(some), _UNSEEN, dtype=object)
            probes.append((f"an unseen {given.name}", {**few, given.name: unseen}))
    if len(probes) > 2:
        probes.append(("nothing that may be absent", gone))
    return probes


def _conversions(model: Any, inputs: Sequence[Input]) -> list[Callable[[Any, Sequence[Input]], bytes]]:
    """The ways to convert a model, the likeliest first."""
    library = type(model).__module__.partition(".")[0]
    if library in ("lightgbm", "xgboost"):
        return [_convert_booster]
    alike = len({i.type == "string" for i in inputs}) == 1
    return [_convert_columns, _convert_matrix] if alike and len(inputs) > 1 else [_convert_columns]


def _convert_columns(model: Any, inputs: Sequence[Input]) -> bytes:
    """What begins with a ColumnTransformer or the like, which picks its columns from one tensor per input."""
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    kinds = {i.name: StringTensorType if i.type == "string" else FloatTensorType for i in inputs}
    # converters want identifiers for names, so the graph's inputs get their own names back afterwards; but a model that
    # picks columns by name has to find them
    by_name = hasattr(model, "feature_names_in_")
    names = [i.name if by_name else f"input_{place}" for place, i in enumerate(inputs)]
    types = [(name, kinds[i.name]([None, 1])) for name, i in zip(names, inputs, strict=True)]
    return finished(_convert_sklearn(model, types), {name: i.name for name, i in zip(names, inputs, strict=True)})


def _convert_matrix(model: Any, inputs: Sequence[Input]) -> bytes:
    """An estimator that takes its rows whole: the converters of most know one matrix only."""
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    kind = StringTensorType if inputs[0].type == "string" else FloatTensorType
    return one_tensor_per_input(_convert_sklearn(model, [("rows", kind([None, len(inputs)]))]), inputs)


def _convert_sklearn(model: Any, types: list[tuple[str, Any]]) -> Any:
    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier

    _register_boosters()
    options = {"zipmap": False} if is_classifier(model) else None
    return convert_sklearn(_single_thresholds(model), initial_types=types, options=options, target_opset=_OPSET)


def _single_thresholds(model: Any) -> Any:
    """The model with the thresholds of its histogram trees rounded down to float32.

    The converter rounds them to the nearest, which may be the very value that has to go left. Inputs are float32, so
    rounding down moves no row. (For its other trees the converter does the same by itself.)
    """
    import numpy as np

    changed = copy.deepcopy(model)
    for part in _parts(changed):
        for predictor in [p for iteration in getattr(part, "_predictors", ()) for p in iteration]:
            exact = predictor.nodes["num_threshold"]
            single = exact.astype(np.float32)
            predictor.nodes["num_threshold"] = np.where(
                single > exact, np.nextafter(single, np.float32(-np.inf)), single
            )
    return changed


def _parts(model: Any) -> Iterator[Any]:
    """A model and all estimators inside it: steps, columns, members of ensembles."""
    if isinstance(model, list | tuple):
        for item in model:
            yield from _parts(item)
    elif hasattr(model, "get_params"):
        yield model
        for value in vars(model).values():
            yield from _parts(value)


def _convert_booster(model: Any, inputs: Sequence[Input]) -> bytes:
    library = type(model).__module__.partition(".")[0]
    if any(i.type == "string" for i in inputs):
        raise ModelError(f"{library} takes text only as categories, which its converter does not carry over")
    from onnxmltools import convert
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("rows", FloatTensorType([None, len(inputs)]))]
    if library == "lightgbm":
        graph = convert.convert_lightgbm(model, initial_types=types, zipmap=False, target_opset=15)
    else:
        graph = convert.convert_xgboost(model, initial_types=types, target_opset=15)
    return one_tensor_per_input(graph, inputs)


def _register_boosters() -> None:
    """Teach the scikit-learn converter LightGBM and XGBoost steps, if a pipeline can hold any (they are loaded)."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes as classifier,
    )
    from skl2onnx.common.shape_calculator import (
        calculate_linear_regressor_output_shapes as regressor,
    )

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    if "lightgbm" in sys.modules:
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        kinds = sys.modules["lightgbm"]
        update_registered_converter(
            kinds.LGBMClassifier, "LightGbmLGBMClassifier", classifier, convert_lightgbm, options=options
        )
        update_registered_converter(kinds.LGBMRegressor, "LightGbmLGBMRegressor", regressor, convert_lightgbm)
    if "xgboost" in sys.modules:
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

        kinds = sys.modules["xgboost"]
        update_registered_converter(
            kinds.XGBClassifier, "XGBoostXGBClassifier", classifier, convert_xgboost, options=options
        )
        update_registered_converter(kinds.XGBRegressor, "XGBoostXGBRegressor", regressor, convert_xgboost)


class _quiet:  # noqa: N801  used like a function
    """Loggers of converters, silent while a block runs; the root logger is not touched."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]
        self.levels = [logger.level for logger in self.loggers]

    def __enter__(self) -> None:
        for logger in self.loggers:
            logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
