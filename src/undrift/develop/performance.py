"""How well predictions met the truth: losses row by row, their summary, and what a version leads us to expect.

The same row losses are what training reports, gates compare, rollouts judge and monitors watch, so no two rooms can
mean different things by "log loss". Intervals respect that rows close in time are alike: each day is one unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.develop.bundle import Interface, Manifest
from undrift.develop.rows import Answers, answer
from undrift.develop.segments import fields_of, segment_texts
from undrift.errors import DataError
from undrift.stats.compare import paired_difference
from undrift.stats.ranking import areas_within
from undrift.stats.summary import Estimate, Moments, per_unit

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "FEWEST_OF_A_CLASS",
    "LOSSES",
    "OBJECTIVES",
    "Performance",
    "Scored",
    "label_codes",
    "label_text",
    "loss_arrays",
    "mean_interval",
    "metric_values",
    "time_units",
]

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

#: Losses (smaller is better) of each task; the first is what a gate compares unless told otherwise.
LOSSES: Final[Mapping[str, tuple[str, ...]]] = {
    "binary": ("log_loss", "brier", "error"),
    "multiclass": ("log_loss", "brier", "error"),
    "regression": ("absolute_error", "squared_error"),
}
OBJECTIVES: Final[Mapping[str, str]] = {task: losses[0] for task, losses in LOSSES.items()}

#: Probabilities are kept this far from 0 and 1 in the log loss (scikit-learn does the same with float32's epsilon), so
#: one sure mistake costs 16, not infinity.
_CLIP: Final = float(np.finfo(np.float32).eps)
#: Rows of each class below which an area under the ROC curve is not told: its standard error is not to be believed.
FEWEST_OF_A_CLASS: Final = 20
_MOST_SEGMENTS: Final = 200
_FEWEST_DAYS: Final = 8
_BLOCKS: Final = 40


def label_codes(interface: Interface, labels: Sequence[Any]) -> Codes:
    """The place of each label in ``interface.classes``; a boolean counts as 0 or 1, a whole number as its digits.

    Raises
    ------
    DataError : a label is missing or is none of the classes.
    """
    places = {name: place for place, name in enumerate(interface.classes)}
    memory: dict[Any, int] = {}
    for value in set(labels):
        name = label_text(value)
        if name not in places:
            raise DataError(
                f"column {interface.label!r} holds the label {value!r}, which is none of the classes "
                f"{', '.join(interface.classes)}."
            )
        memory[value] = places[name]
    return np.fromiter(map(memory.__getitem__, labels), dtype=np.int64, count=len(labels))


def label_text(value: Any) -> str:
    """A label as text, the same for 1, 1.0, True and "1"."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def loss_arrays(
    interface: Interface,
    label: Sequence[Any] | NDArray[Any],
    *,
    score: Sequence[float] | Floats | None = None,
    scores: Sequence[Sequence[float]] | Floats | None = None,
    prediction: Sequence[str] | None = None,
) -> dict[str, Floats]:
    """The losses of each row, by name; smaller is better.

    Parameters
    ----------
    label : shape (n,): class names, or true values for regression. A NumPy array of integers is taken as class codes.
    score : shape (n,): P(positive class), or the predicted value; as in the table of predictions.
    scores : shape (n, k): probabilities in the order of ``interface.classes``; needed for multiclass.
    prediction : shape (n,): the class that was answered; by threshold or largest probability if left out.

    Returns
    -------
    dict
        Classifiers: ``log_loss`` in nats, ``brier`` in [0, 1] for two classes (squared error of P(positive)) and
        [0, 2] for more, ``error`` 0 or 1. Regression: ``absolute_error`` and ``squared_error``.

    Raises
    ------
    DataError : an unknown label, or no probabilities where they are needed.
    """
    if interface.task == "regression":
        gap = np.asarray(score, dtype=np.float64) - np.asarray(label, dtype=np.float64)
        return {"absolute_error": np.abs(gap), "squared_error": np.square(gap)}
    coded = isinstance(label, np.ndarray) and label.dtype.kind in "iu"
    truth = np.asarray(label, dtype=np.int64) if coded else label_codes(interface, list(label))
    if interface.task == "binary":
        p = np.asarray(score, dtype=np.float64)
        right = np.where(truth == 1, p, 1.0 - p)
        brier = np.square(p - truth)
        chosen = (p >= interface.threshold).astype(np.int64)
    else:
        if scores is None:
            raise DataError("losses of several classes need all their probabilities (`scores`), not one score.")
        q = np.asarray(scores, dtype=np.float64).reshape(len(truth), len(interface.classes))
        right = q[np.arange(len(q)), truth]
        brier = np.square(q).sum(axis=1) - 2 * right + 1.0
        chosen = q.argmax(axis=1)
    if prediction is not None:
        chosen = label_codes(interface, prediction)
    log_loss = -np.log(np.clip(right, _CLIP, 1.0))
    return {"log_loss": log_loss, "brier": brier, "error": (chosen != truth).astype(np.float64)}


def time_units(time: NDArray[Any] | None, n: int) -> Codes:
    """Which unit each row belongs to when intervals are made: its UTC day.

    Rows of a day share weather, incidents and customers, so their losses are not independent. With fewer than 8 days
    40 runs of neighbouring rows take their place; without times each row stands alone.

    Parameters
    ----------
    time : shape (n,), ``datetime64[us]``, in ascending order where blocks are needed.
    """
    if time is None:
        return np.arange(n, dtype=np.int64)
    days = time.astype("datetime64[D]").astype(np.int64)
    if np.unique(days).size >= _FEWEST_DAYS:
        return days
    place = np.empty(n, dtype=np.int64)
    place[np.argsort(time, kind="stable")] = np.arange(n)
    return place * min(_BLOCKS, n) // max(n, 1)


def mean_interval(values: Floats, units: Codes, level: float = 0.95) -> Estimate:
    """The mean over rows with Student's interval over units (cluster-robust); infinite below two units."""
    if values.size == 0:
        return Estimate(value=float("nan"), lower=-np.inf, upper=np.inf, n=0, level=level)
    ratio = per_unit(values, units).ratio
    if ratio.n < 2:
        return Estimate(value=float(values.mean()), lower=-np.inf, upper=np.inf, n=int(values.size), level=level)
    found = paired_difference(ratio, level)
    return Estimate(value=found.value, lower=found.lower, upper=found.upper, n=int(values.size), level=level)


@dataclass(frozen=True)
class Scored:
    """Rows with their truth and what a model answered: the evidence of training, gates and comparisons.

    Parameters
    ----------
    table : the rows, with at least the segment columns.
    label : shape (n,): class codes, or true values for regression.
    raw : probabilities of shape (n, k) in the order of ``interface.classes``, or predicted values of shape (n,).
    time : shape (n,) ``datetime64[us]`` in UTC; None when rows have no time.
    """

    interface: Interface
    table: pa.Table
    label: NDArray[Any]
    raw: Floats
    time: NDArray[Any] | None = None

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.label)

    @cached_property
    def answers(self) -> Answers:
        """Scores and labels as serving gives them."""
        return answer(self.interface, self.raw)

    @cached_property
    def losses(self) -> dict[str, Floats]:
        """The row losses, by name."""
        binary = self.interface.task == "binary"
        score = self.raw[:, 1] if binary else self.raw
        scores = self.raw if self.interface.task == "multiclass" else None
        return loss_arrays(self.interface, self.label, score=score, scores=scores)

    @cached_property
    def units(self) -> Codes:
        """The unit of time of each row, for intervals."""
        return time_units(self.time, self.n)

    def take(self, rows: NDArray[Any]) -> Scored:
        """Some of the rows, by number or by mask."""
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        time = None if self.time is None else self.time[places]
        return replace(self, table=self.table.take(places), label=self.label[places], raw=self.raw[places], time=time)

    def segments(self, columns: Sequence[str] | None = None) -> dict[str, NDArray[np.intp]]:
        """Row numbers of each value of each segment column, as ``carrier=UA``; the 200 largest per column.

        Raises
        ------
        DataError : the table has no such column.
        """
        found: dict[str, NDArray[np.intp]] = {}
        asked = self.interface.segments if columns is None else columns
        fields = fields_of(asked, self.table.column_names)
        missing = [column for column in fields if column not in self.table.column_names]
        if missing:
            raise DataError(f"the rows have no column {missing[0]!r} to make segments of.")
        for column, texts in segment_texts(self.interface, {c: self.table.column(c) for c in fields}, asked):
            coded = texts.dictionary_encode()
            codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            order = np.argsort(codes, kind="stable")
            names = coded.dictionary.to_pylist()
            groups = {
                str(names[codes[rows[0]]]): rows
                for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
                if rows.size and codes[rows[0]] >= 0
            }
            largest = sorted(groups, key=lambda name: (-groups[name].size, name))[:_MOST_SEGMENTS]
            found.update({f"{column}={name}": groups[name] for name in sorted(largest)})
        return found


def metric_values(scored: Scored) -> dict[str, float]:
    """The metrics a run reports: mean of each loss, and what scikit-learn says of ranking and fit.

    Two classes: ``roc_auc`` and ``average_precision`` (left out while only one class is seen). Regression: ``r2`` and
    ``rmse``.
    """
    from sklearn import metrics

    values = {name: float(losses.mean()) for name, losses in scored.losses.items()}
    if scored.interface.task == "binary" and np.unique(scored.label).size == 2:
        values["roc_auc"] = float(metrics.roc_auc_score(scored.label, scored.raw[:, 1]))
        values["average_precision"] = float(metrics.average_precision_score(scored.label, scored.raw[:, 1]))
    if scored.interface.task == "regression" and scored.n > 1:
        values["r2"] = float(metrics.r2_score(scored.label, scored.raw))
        values["rmse"] = float(np.sqrt(values["squared_error"]))
    return values


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """What a version leads us to expect of each loss, measured on rows it was not trained on.

    ``losses``: mean and interval. ``moments``: count, mean and squared deviations over rows. ``segments``: the same
    moments by segment (``carrier=UA``) and loss. ``ranking``: of two classes, the area under the ROC curve among rows
    of the same unit of time, under ``""`` of all rows and by segment; without what cannot be told (rows without times,
    one unit), and empty in bundles written before it was kept.
    """

    losses: dict[str, Estimate]
    moments: dict[str, Moments]
    segments: dict[str, dict[str, Moments]] = {}
    ranking: dict[str, Estimate] = {}

    @classmethod
    def of(cls, scored: Scored, level: float = 0.95) -> Performance:
        """Measure it on rows the model was not trained on."""
        segments = scored.segments()
        return cls(
            losses={name: mean_interval(values, scored.units, level) for name, values in scored.losses.items()},
            moments={name: Moments.of(values) for name, values in scored.losses.items()},
            segments={
                segment: {name: Moments.of(values[rows]) for name, values in scored.losses.items()}
                for segment, rows in segments.items()
            },
            ranking=_ranking(scored, segments, level),
        )

    @classmethod
    def expected(cls, manifest: Manifest) -> Performance | None:
        """What a bundle's manifest says, under ``trained["performance"]``; None where it says nothing."""
        said = manifest.trained.get("performance")
        return None if said is None else msgspec.convert(said, cls)


def _ranking(scored: Scored, segments: Mapping[str, NDArray[np.intp]], level: float) -> dict[str, Estimate]:
    """The area under the ROC curve within units, of all rows and by segment, with Student's interval over units."""
    from scipy.special import stdtrit

    if scored.interface.task != "binary" or scored.time is None:
        return {}
    score, positive = scored.raw[:, 1], scored.label == 1
    found = {}
    for name, rows in {"": np.arange(scored.n), **segments}.items():
        areas = areas_within(score[rows], positive[rows], scored.units[rows])
        value, error, units = areas.mean()
        if units > 1 and min(areas.positives.sum(), areas.negatives.sum()) >= FEWEST_OF_A_CLASS:
            half = float(stdtrit(units - 1, (1 + level) / 2)) * error
            n = int(areas.positives.sum() + areas.negatives.sum())
            found[name] = Estimate(value=value, lower=value - half, upper=value + half, n=n, level=level)
    return found
