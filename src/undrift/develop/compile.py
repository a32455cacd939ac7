"""Compilation to ONNX, and the check that the compiled model still says what the trained one says.

Converters are silently wrong for some models (trees with native categories, isotonic calibration), so nothing that is
compiled serves unless it agreed with the original on the rows of the held-out tail and on rows with absent and unseen
values."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from undrift.develop.boundaries import boundary_rows
from undrift.develop.bundle import Fed, Interface
from undrift.develop.converters import conversions
from undrift.develop.graphs import dense, take_single
from undrift.develop.rows import answer, in_order
from undrift.develop.session import Session
from undrift.errors import PredictionError
from undrift.plugins import resolve_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["TOLERANCE", "Compiled", "Parity", "compare", "compile_model", "dense_if_equal", "run_onnx"]

#: Largest difference of a probability (or, for regression, of a value in standard deviations of the predictions)
#: between the two forms of a model. float32 against float64 gives about 1e-6; a tree that splits wrongly gives 1e-2.
TOLERANCE: Final = 1e-4
_UNSEEN: Final = "\N{EMPTY SET} never seen"
_PROBES: Final = 25
_BOUNDARY: Final = "values at the model's thresholds"

Predict = Callable[[Mapping[str, Any]], "Floats"]


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison of two forms of a model saw.

    ``max_difference``: of probabilities, or of values in standard deviations. ``flips``: rows with another class.
    ``rows``: rows compared. ``reason``: why it does not hold, empty if it does. ``precision``: in which the compiled
    form computes, ``single`` or ``double``. ``boundary_rows``: how many of the rows lie at the model's thresholds.
    """

    held: bool
    max_difference: float
    flips: int
    rows: int
    reason: str = ""
    precision: str = ""
    boundary_rows: int = 0


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled model (empty if the conversion itself failed) and how it compared with the original."""

    content: bytes
    parity: Parity


def compile_model(
    model: Any,
    interface: Interface,
    native: Predict,
    columns: Mapping[str, Any],
    outputs: Sequence[str] = (),
    *,
    fed: Fed = "single",
) -> Compiled:
    """Convert a fitted model and check it; never raises for a model that cannot be converted.

    Parameters
    ----------
    model : scikit-learn estimator or pipeline, LightGBM or XGBoost model.
    native : the original's own output for encoded columns.
    columns : encoded columns of validation rows, as `rows.table_columns` gives them.
    outputs : the class each probability column means.
    fed : ``single`` if the original sees numbers rounded to float32: then the compiled form takes float32 too.

    Raises
    ------
    MissingExtraError : the packages of the extra ``onnx`` are not installed.
    """
    resolve_path("onnxruntime:InferenceSession", wanted_for="compiling a model", extra="onnx")
    resolve_path("skl2onnx:convert_sklearn", wanted_for="compiling a model", extra="onnx")
    tried: list[Compiled] = []
    probes: list[tuple[str, dict[str, Any]]] | None = None
    for way in conversions(model, interface.inputs):
        try:
            with warnings.catch_warnings(), _quiet("skl2onnx", "onnx"):
                warnings.simplefilter("ignore")  # deprecations inside the converters; what matters is compared
                content = way.convert(model, interface.inputs)
            run = run_onnx(take_single(content) if fed == "single" else content, interface)
        except Exception as error:  # noqa: BLE001  a converter may fail in any way; the model is then served natively
            text = " ".join(str(error).split())[:300]
            reason = f"it cannot be converted: {type(error).__name__}: {text}"
            parity = Parity(held=False, max_difference=0.0, flips=0, rows=0, reason=reason)
            tried.append(Compiled(content=b"", parity=parity))
            continue
        if probes is None:
            probes = probe_rows(interface, native, columns, fed)
        parity = msgspec.structs.replace(_compare(interface, native, run, probes, outputs), precision=way.precision)
        if parity.held:
            return _fast(content, parity, interface, native, probes, outputs, fed)
        tried.append(Compiled(content=content, parity=parity))
    return next((found for found in tried if found.content), tried[-1])  # one that could be compared says more


def _fast(
    content: bytes,
    parity: Parity,
    interface: Interface,
    native: Predict,
    probes: Sequence[tuple[str, dict[str, Any]]],
    outputs: Sequence[str],
    fed: Fed,
) -> Compiled:
    """The dense form of a graph that holds, if that holds too; the graph itself otherwise."""
    plain = take_single(content) if fed == "single" else content
    try:
        whole = take_single(dense(content)) if fed == "single" else dense(content)
        again = _compare(interface, native, run_onnx(whole, interface), probes, outputs)
    except Exception:  # noqa: BLE001  a graph of unknown parts may not bear the change; as it is, it holds
        return Compiled(content=plain, parity=parity)
    if not again.held:
        return Compiled(content=plain, parity=parity)
    return Compiled(content=whole, parity=msgspec.structs.replace(again, precision=parity.precision))


def dense_if_equal(
    content: bytes, interface: Interface, columns: Mapping[str, Any], outputs: Sequence[str] = ()
) -> bytes:
    """The dense form of a graph that others made, where it answers what the graph answers; otherwise the graph."""
    given = run_onnx(content, interface)
    probes = _probes(interface, columns)
    try:
        whole = dense(content)
        same = _compare(interface, given, run_onnx(whole, interface), probes, outputs)
    except Exception:  # noqa: BLE001  a graph of unknown parts may not bear the change; as it is, it serves
        return content
    return whole if same.held and same.max_difference == 0.0 else content


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
    the original refuses such rows, the compiled form must refuse them as well. Rows at the original's own thresholds
    are compared too (boundaries.py).
    """
    return _compare(interface, native, compiled, probe_rows(interface, native, columns, "single"), outputs)


def probe_rows(
    interface: Interface, native: Predict, columns: Mapping[str, Any], fed: Fed
) -> list[tuple[str, dict[str, Any]]]:
    """All rows on which two forms of a model are compared, by what is special about them."""
    probes = _probes(interface, columns)
    continuous = [i.name for i in interface.inputs if i.type == "number"]
    found = boundary_rows(native, probes[0][1], continuous, single=fed == "single")
    if found:
        probes.append((_BOUNDARY, found))
    return probes


def _compare(
    interface: Interface,
    native: Predict,
    compiled: Predict,
    probes: Sequence[tuple[str, dict[str, Any]]],
    outputs: Sequence[str],
) -> Parity:
    import numpy as np

    rows = flips = near = 0
    worst, reasons = 0.0, []
    scale = 1.0
    for name, probe in probes:
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
            near += len(wanted) if name == _BOUNDARY else 0
            if difference > TOLERANCE:
                over = np.abs(wanted - got).reshape(len(wanted), -1).max(axis=1) / scale > TOLERANCE
                reasons.append(
                    f"{int(over.sum())} of {len(wanted)} rows ({name}) differ by up to {difference:.2g}, "
                    f"more than {TOLERANCE:g}"
                )
    reason = "; ".join(reasons[:3])
    held = not reasons and rows > 0
    return Parity(held=held, max_difference=worst, flips=flips, rows=rows, reason=reason, boundary_rows=near)


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
