"""How values reach a model and come back: the one layout that training, the parity check and serving share.

Absent text is ``""``, an absent number is NaN, a boolean is 0 or 1, a timestamp is days since 1970-01-01 UTC. A model
trained here sees its numbers rounded to float32 (``fed = "single"``), because the compiled model takes float32: both
forms then split trees at the same side. An adopted model keeps float64 (``double``) or gets a data frame (``frame``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from undrift.data.contract import FieldType
from undrift.develop.bundle import Input, Interface, Manifest
from undrift.errors import DataError, PredictionError, SettingsError
from undrift.plugins import resolve_path

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Matrix = NDArray[np.object_]
    Floats = NDArray[np.float64]

__all__ = [
    "Answers",
    "answer",
    "answer_few",
    "ask",
    "encode",
    "from_tensors",
    "in_order",
    "matrix",
    "native_rows",
    "table_columns",
    "tensors",
]

_DAY: Final = 86400.0
_LEAST, _MOST = -1e-6, 1 + 1e-6  # a probability, and what rounding may add to one
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Answers(NamedTuple):
    """What a model answered, one entry per row.

    ``score``: P(positive class) for binary, P(predicted class) for multiclass, the predicted value for regression.
    ``scores``: probabilities in the order of ``interface.classes``, shape (n, k); None except for multiclass.
    ``label``: the predicted class; None for regression.
    """

    score: list[float]
    scores: list[list[float]] | None
    label: list[str] | None


def encode(values: Sequence[Any], type: FieldType) -> list[Any]:  # noqa: A002  the word of the contract
    """One column of request values as the model sees them: text with ``""`` or floats with NaN for what is absent.

    >>> encode(["UA", None], "string"), encode([True, None, 3], "number")
    (['UA', ''], [1.0, nan, 3.0])
    """
    if type == "string":
        return ["" if v is None else v if isinstance(v, str) else str(v) for v in values]
    if type == "timestamp":
        return [float("nan") if v is None else _days(v) for v in values]
    return [float("nan") if v is None else float(v) for v in values]


def _days(value: Any) -> float:
    if isinstance(value, datetime):
        at = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return (at - _EPOCH).total_seconds() / _DAY
    return float(value) / 1e6 / _DAY  # on the wire time is microseconds


def matrix(inputs: Sequence[Input], columns: Mapping[str, Sequence[Any]], *, single: bool = True) -> Matrix:
    """An object array of shape (n, d), columns in the order of ``inputs``; numbers rounded to float32 if ``single``.

    Raises
    ------
    PredictionError : a column is missing.
    """
    import numpy as np

    encoded = [_column(i, columns) for i in inputs]
    out = np.empty((len(encoded[0]) if encoded else 0, len(encoded)), dtype=object)
    for place, (given, values) in enumerate(zip(inputs, encoded, strict=True)):
        if given.type == "string" or not single:
            out[:, place] = values
        else:
            out[:, place] = np.asarray(values, dtype=np.float32).astype(np.float64)
    return out


def tensors(
    inputs: Sequence[Input], columns: Mapping[str, Sequence[Any]], *, doubles: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """What a compiled model takes: per input one array of shape (n, 1), text as objects, numbers as float32.

    ``doubles`` names the inputs that are float64 instead.
    """
    import numpy as np

    feeds: dict[str, Any] = {}
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite
        for given in inputs:
            number: Any = np.float64 if given.name in doubles else np.float32
            kind = object if given.type == "string" else number
            feeds[given.name] = np.asarray(_column(given, columns), dtype=kind).reshape(-1, 1)
    return feeds


def _column(given: Input, columns: Mapping[str, Any]) -> Any:
    if given.name not in columns:
        raise PredictionError(f"the model's input {given.name!r} is missing; given: {', '.join(sorted(columns))}.")
    values = columns[given.name]
    return values if hasattr(values, "dtype") else encode(values, given.type)


def from_tensors(task: str, found: Sequence[Any]) -> Floats:
    """A compiled model's own output, like `ask`: the last output of a classifier holds its probabilities.

    Also takes what foreign ONNX files answer: one mapping per row (zipmap), or P(positive) alone.
    """
    import numpy as np

    last = found[-1]
    if isinstance(last, list) and last and isinstance(last[0], dict):
        last = [list(row.values()) for row in last]
    raw = np.asarray(last, dtype=np.float64)
    if task == "regression":
        return raw.reshape(-1)
    if raw.ndim == 1 or raw.shape[1] == 1:
        raw = np.column_stack([1.0 - raw.reshape(-1), raw.reshape(-1)])
    return raw


def table_columns(inputs: Sequence[Input], table: pa.Table) -> dict[str, Any]:
    """The inputs' columns of an Arrow table as encoded NumPy arrays; equal to `encode` of each, but column-wise.

    Raises
    ------
    DataError : a column is missing, or cannot be read as the type it is declared to have.
    """
    import numpy as np
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for given in inputs:
        if given.name not in table.column_names:
            raise DataError(f"the table has no column {given.name!r}, an input of the model; it has "
                            f"{', '.join(table.column_names)}.")  # fmt: skip
        column = table.column(given.name)
        try:
            if given.type == "string":
                columns[given.name] = column.cast(pa.string()).fill_null("").to_numpy().astype(object)
                continue
            if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
                micros = column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64(), safe=False)
                columns[given.name] = np.array(micros.to_numpy(), dtype=np.float64) / 1e6 / _DAY
            else:
                number = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
                columns[given.name] = np.array(number.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"column {given.name!r} is {column.type}, and cannot be read as {given.type}: {error}."
            ) from error
    return columns


def native_rows(manifest: Manifest, columns: Mapping[str, Sequence[Any]]) -> Any:
    """The rows for the model in its native format, as the manifest's ``fed`` says.

    A booster file takes a float matrix; an estimator takes the object matrix (of floats, if no input is text), or a
    data frame with the columns' names.

    Raises
    ------
    MissingExtraError : the model was trained on data frames and pandas is not installed.
    """
    import numpy as np

    inputs = manifest.interface.inputs
    if manifest.fed == "frame":
        frame = resolve_path("pandas:DataFrame", wanted_for="a model trained on data frames", extra="pandas")
        rows = frame({i.name: _frame_column(i, columns) for i in inputs})
        text = [i.name for i in inputs if i.type == "string"]
        # boosters take text in frames as categories only, and know the codes of those they were trained on
        return rows.astype(dict.fromkeys(text, "category")) if manifest.native in ("lightgbm", "xgboost") else rows
    rows = matrix(inputs, columns, single=manifest.fed == "single")
    if manifest.native in ("lightgbm", "xgboost") or all(i.type != "string" for i in inputs):
        return rows.astype(np.float64)
    return rows


def _frame_column(given: Input, columns: Mapping[str, Sequence[Any]]) -> Any:
    if given.type == "string":
        return [str(v) if v else None for v in columns[given.name]]  # a frame knows absent text, and "" stands for it
    return _column(given, columns)


def ask(model: Any, task: str, rows: Any) -> Floats:
    """A native model's own output: probabilities of shape (n, k) for a classifier, values of shape (n,) for regression.

    Takes anything with ``predict_proba`` or ``predict``, and boosters, whose ``predict`` gives P(positive) alone.

    Raises
    ------
    PredictionError : the model raised, or answered something that is no prediction.
    """
    import numpy as np

    try:
        if task != "regression" and hasattr(model, "predict_proba"):
            raw = model.predict_proba(rows)
        elif hasattr(model, "inplace_predict"):  # an XGBoost booster: `predict` would want its own matrix type
            raw = model.inplace_predict(rows)
        else:
            raw = model.predict(rows)
        found = np.asarray(raw, dtype=np.float64)
    except (PredictionError, SettingsError):
        raise  # an upstream model says itself what went wrong
    except Exception as error:
        raise PredictionError(f"the model raised while predicting: {type(error).__name__}: {error}.") from error
    if task == "regression":
        return found.reshape(len(found), -1)[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.ndim == 1:
        found = np.column_stack([1.0 - found, found])
    return found


def answer(interface: Interface, raw: Floats, outputs: Sequence[str] = ()) -> Answers:
    """Scores and labels from a model's own output.

    Parameters
    ----------
    raw : probabilities of shape (n, k), or values of shape (n,).
    outputs : the class each column of ``raw`` means; ``interface.classes`` if empty.

    Raises
    ------
    PredictionError : wrong shape, not finite, or probabilities outside [0, 1].
    """
    probabilities = in_order(interface, raw, outputs)
    if interface.task == "regression":
        return Answers(probabilities.tolist(), None, None)
    if interface.task == "binary":
        score = probabilities[:, 1].tolist()
        negative, positive = interface.classes
        return Answers(score, None, [positive if s >= interface.threshold else negative for s in score])
    best = probabilities.argmax(axis=1)
    label = [interface.classes[i] for i in best.tolist()]
    return Answers(probabilities.max(axis=1).tolist(), probabilities.tolist(), label)


def answer_few(interface: Interface, rows: Sequence[Any], outputs: Sequence[str] = ()) -> Answers:
    """`answer` for a few rows given as plain lists, where NumPy would cost more than the model."""
    kind = interface.task
    plain = not outputs or tuple(outputs) == interface.classes
    if kind == "binary" and plain and rows and type(rows[0]) is list and len(rows[0]) == 2:
        score = [row[1] for row in rows]
        if all(_LEAST <= row[0] <= _MOST and _LEAST <= row[1] <= _MOST for row in rows):
            (negative, positive), threshold = interface.classes, interface.threshold
            return Answers(score, None, [positive if s >= threshold else negative for s in score])
    elif kind == "regression" and rows:
        values = [row[0] for row in rows] if type(rows[0]) is list and len(rows[0]) == 1 else list(rows)
        if type(values[0]) is float and all(map(math.isfinite, values)):
            return Answers(values, None, None)
    return answer(interface, from_tensors(kind, [list(rows)]), outputs)


def in_order(interface: Interface, raw: Floats, outputs: Sequence[str] = ()) -> Floats:
    """A model's own output, checked, its columns in the order of ``interface.classes`` (0 for a class it lacks)."""
    import numpy as np

    if not np.isfinite(raw).all():
        raise PredictionError(f"the model answered NaN or infinity for {int((~np.isfinite(raw)).sum())} values.")
    if interface.task == "regression":
        if raw.ndim != 1:
            raise PredictionError(f"the model answered an array of shape {raw.shape}; one value per row was expected.")
        return raw
    names = tuple(outputs) or interface.classes
    if raw.ndim != 2 or raw.shape[1] != len(names):
        raise PredictionError(
            f"the model answered an array of shape {raw.shape}; {len(names)} probabilities per row were expected."
        )
    if raw.size and (raw.min() < _LEAST or raw.max() > _MOST):
        raise PredictionError(
            f"the model answered {raw.min():g}..{raw.max():g}, which are no probabilities.",
            hint="End a network with a softmax or a sigmoid: scores are probabilities.",
        )
    if names == interface.classes:
        return raw
    ordered = np.zeros((len(raw), len(interface.classes)))
    for place, name in enumerate(names):
        ordered[:, interface.classes.index(name)] = raw[:, place]
    return ordered
