"""Metrics with intervals: what a number says about the rows behind it, alone and against another model's.

Values are scikit-learn's. Intervals come from each row's influence on the value, summed by unit of time, so rows of one
day count as what they are: alike. One mechanism serves means, ratios and the area under the ROC curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.develop.bundle import Interface, Task
from undrift.develop.performance import LOSSES, OBJECTIVES, Scored, loss_arrays, mean_interval
from undrift.errors import DataError
from undrift.finding import Interval, Measurement
from undrift.stats.ranking import shares_won

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LOSSES", "METRICS", "OBJECTIVES", "Metric", "gain", "larger_is_better", "measure", "row_losses"]

Floats = NDArray[np.float64]
#: A metric's value and by how much each row moves it, or why it has no value on these rows.
Influence = tuple[float, Floats] | str


class Metric(NamedTuple):
    """Whether larger is better, and for which tasks it has a meaning."""

    larger: bool
    tasks: tuple[Task, ...]


_ALL: Final[tuple[Task, ...]] = ("binary", "multiclass", "regression")
_CLASSES: Final[tuple[Task, ...]] = ("binary", "multiclass")

#: Every metric a gate or report can name.
METRICS: Final[Mapping[str, Metric]] = {
    "accuracy": Metric(True, _CLASSES),
    "absolute_error": Metric(False, ("regression",)),
    "bias": Metric(False, ("binary", "regression")),
    "brier": Metric(False, _CLASSES),
    "error": Metric(False, _CLASSES),
    "log_loss": Metric(False, _CLASSES),
    "precision": Metric(True, ("binary",)),
    "recall": Metric(True, ("binary",)),
    "rmse": Metric(False, ("regression",)),
    "roc_auc": Metric(True, ("binary",)),
    "squared_error": Metric(False, ("regression",)),
}


def row_losses(interface: Interface, rows: pa.Table) -> dict[str, Floats]:
    """The losses of labelled predictions as they stand in the lake, by name; smaller is better.

    Parameters
    ----------
    rows : columns ``score``, ``label`` (classes) or ``value`` (regression), for several classes ``scores``, and
        ``prediction`` (by threshold if absent); every row scored and labelled.

    Returns
    -------
    dict
        As `develop.performance.loss_arrays`: ``log_loss``, ``brier``, ``error``; or ``absolute_error``,
        ``squared_error``.

    Raises
    ------
    DataError : a row without score or label, or an unknown label.
    """
    truth = "value" if interface.task == "regression" else "label"
    several = interface.task == "multiclass"
    needed = (truth, "scores" if several else "score")
    for name in needed:
        missing = rows.column(name).null_count if name in rows.column_names else rows.num_rows
        if missing:
            raise DataError(f"{missing} of {rows.num_rows} rows have no {name!r}; losses need it in every row.")
    label: Any = rows.column(truth).to_pylist()
    given = rows.column("prediction") if "prediction" in rows.column_names else None
    prediction = given.to_pylist() if given is not None and not given.null_count else None
    if several:
        return loss_arrays(interface, label, scores=rows.column("scores").to_pylist(), prediction=prediction)
    score = np.asarray(rows.column("score").to_numpy(), dtype=np.float64)
    return loss_arrays(interface, label, score=score, prediction=None if truth == "value" else prediction)


def larger_is_better(metric: str) -> bool:
    """Whether a larger value of the metric is better.

    Raises
    ------
    DataError : no metric of that name; names those there are.
    """
    return _known(metric).larger


def _known(metric: str) -> Metric:
    if metric not in METRICS:
        raise DataError(f"no metric is named {metric!r}; known are {', '.join(sorted(METRICS))}.")
    return METRICS[metric]


def measure(
    scored: Scored, metric: str, *, level: float = 0.95, segment: Mapping[str, str] | None = None
) -> Measurement:
    """A metric of scored rows, with its interval.

    Returns
    -------
    Measurement
        Without value, and with the problem, where the metric is not defined (one class only, nothing predicted).

    Raises
    ------
    DataError : the metric does not exist or means nothing for the task.
    """
    where = dict(segment or {})
    found = _influence(scored, metric)
    if isinstance(found, str):
        return Measurement(name=metric, value=None, n=scored.n, segment=where, problem=found)
    return _measured(metric, *found, scored, level, where)


def gain(
    candidate: Scored, rival: Scored, metric: str, *, level: float = 0.95, segment: Mapping[str, str] | None = None
) -> Measurement:
    """How much better the candidate is than the rival on the same rows; positive is better, whatever the metric.

    The rows are paired, so what makes a row hard for both cancels out.

    Raises
    ------
    DataError : the two were not scored on the same rows.
    """
    if candidate.n != rival.n or not np.array_equal(candidate.label, rival.label):
        raise DataError(f"candidate and rival must be scored on the same rows; there are {candidate.n} and {rival.n}.")
    sign = 1.0 if larger_is_better(metric) else -1.0
    name, where = f"{metric}_gain", dict(segment or {})
    of_new, of_old = _influence(candidate, metric), _influence(rival, metric)
    if isinstance(of_new, str) or isinstance(of_old, str):
        problem = of_new if isinstance(of_new, str) else str(of_old)
        return Measurement(name=name, value=None, n=candidate.n, segment=where, problem=problem)
    new, old = of_new[0], of_old[0]
    found = _measured(name, sign * (new - old), sign * (of_new[1] - of_old[1]), candidate, level, where)
    return Measurement(
        name=name, value=found.value, n=found.n, interval=found.interval, segment=where,
        detail={"candidate": new, "rival": old},
    )  # fmt: skip


def _measured(
    name: str, value: float, influence: Floats, scored: Scored, level: float, segment: dict[str, str]
) -> Measurement:
    if scored.n < 2:
        return Measurement(name=name, value=None, n=scored.n, segment=segment, problem="one row has no spread")
    spread = mean_interval(influence, scored.units, level)
    # a linear approximation leaves the mean influence at 0 up to rounding: shift it to the value
    lower, upper = value + spread.lower - spread.value, value + spread.upper - spread.value
    return Measurement(name=name, value=value, n=scored.n, interval=Interval(lower, upper, level), segment=segment)


def _influence(scored: Scored, metric: str) -> Influence:
    """To first order, the value on a sample minus the value is the mean influence of its rows."""
    if scored.interface.task not in _known(metric).tasks:
        raise DataError(f"the metric {metric!r} means nothing for a {scored.interface.task} model.")
    if scored.n == 0:
        return "there are no rows"
    if metric in scored.losses:
        return _mean(scored.losses[metric])
    return _MADE_OF[metric](scored)


def _mean(values: Floats) -> tuple[float, Floats]:
    mean = float(values.mean())
    return mean, values - mean


def _accuracy(scored: Scored) -> Influence:
    return _mean(1.0 - scored.losses["error"])


def _bias(scored: Scored) -> Influence:
    """Mean prediction minus mean truth: 0 for a model that is right on average."""
    predicted = scored.raw[:, 1] if scored.interface.task == "binary" else scored.raw
    return _mean(predicted - scored.label)


def _rmse(scored: Scored) -> tuple[float, Floats]:
    mean, influence = _mean(scored.losses["squared_error"])
    root = float(np.sqrt(mean))
    return root, influence / (2 * root) if root else influence


def _ratio(part: Floats, whole: Floats, what: str) -> Influence:
    if not whole.any():
        return what
    ratio = float(part.sum() / whole.sum())
    return ratio, (part - ratio * whole) / whole.mean()


def _recall(scored: Scored) -> Influence:
    truth, chosen = _binary(scored)
    return _ratio(truth * chosen, truth, "no row is positive")


def _precision(scored: Scored) -> Influence:
    truth, chosen = _binary(scored)
    return _ratio(truth * chosen, chosen, "no row was predicted positive")


def _binary(scored: Scored) -> tuple[Floats, Floats]:
    chosen = scored.raw[:, 1] >= scored.interface.threshold
    return scored.label.astype(np.float64), chosen.astype(np.float64)


def _roc_auc(scored: Scored) -> Influence:
    """DeLong, DeLong and Clarke-Pearson (1988), by ranks as in Sun and Xu (2014): each row's share of pairs won.

    Summed by unit this is Obuchowski's (1997) variance for clustered rows.
    """
    positive = scored.label == 1
    m, k = int(positive.sum()), int((~positive).sum())
    if not m or not k:
        return "only one class is among the rows"
    won = shares_won(scored.raw[:, 1], positive)
    auc = float(won[positive].mean())
    return auc, (won - auc) * np.where(positive, scored.n / m, scored.n / k)


_MADE_OF: Final[Mapping[str, Callable[[Scored], Influence]]] = {
    "accuracy": _accuracy,
    "bias": _bias,
    "precision": _precision,
    "recall": _recall,
    "rmse": _rmse,
    "roc_auc": _roc_auc,
}
