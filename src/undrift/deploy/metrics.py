"""What a rollout measures: metrics as declarations, the built-in ones, and what each means for a task.

A metric says which value of a row or which business event counts, how units' values become one number, and which way is
better. How much worse is tolerated stands with the guardrail (strategy.py), how it is proven in judge.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from undrift.develop.bundle import Task
from undrift.errors import DeclarationError
from undrift.ids import duration

__all__ = ["BUILT_IN", "LABELLED", "Metric", "resolve"]

LABELLED: Final = frozenset(
    {"absolute_error", "accuracy", "brier", "error", "labelled_score", "log_loss", "squared_error"}
)
"""Values that a row has only once its label is known."""
_ROW: Final = frozenset({"failed", "violations", "latency", "score"}) | LABELLED
_EVENT: Final = "event:"


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One number of an arm, made of its units.

    Parameters
    ----------
    name : as guardrails and the objective call it.
    of : the value: of a row ``failed``, ``violations``, ``latency`` (milliseconds), ``score``, or with a label
        ``error``, ``accuracy``, ``brier``, ``log_loss``, ``absolute_error``, ``squared_error``; or ``event:NAME``, the
        business events of that name.
    kind : ``mean`` (of each unit's mean over rows, or total over events), ``proportion`` (the same for values 0 and 1;
        of events, whether a unit had any), ``count`` (events a unit had), ``ratio`` (total of ``of`` over total of
        ``per``, delta method), ``quantile``, or ``auc`` (area under the ROC curve of the score).
    per : the denominator of a ratio: ``rows``, or ``event:NAME`` (how many of them).
    better : ``lower``, ``higher``, or ``same`` where moving either way is harm.
    bounds : range that values are winsorised to. With both ends declared the proof is exact at any number of units; a
        mean without bounds is judged by a confidence sequence that holds as units grow.
    quantile : which one, in (0, 1).
    window : how long after a unit's first exposure its events count (``7d``). A unit is judged when its window is over,
        so early data bias nothing.
    covariate : for events, how long before its first exposure a unit's same events are taken as covariate (``14d``):
        what they explain is taken out of the comparison (CUPED).
    maturity : for labels, the age at which a row's label counts; empty: as soon as it is known.
    """

    name: str
    of: str
    kind: Literal["mean", "proportion", "count", "ratio", "quantile", "auc"] = "mean"
    per: str = ""
    better: Literal["lower", "higher", "same"] = "lower"
    bounds: tuple[float, float] | None = None
    quantile: float = 0.0
    window: str = ""
    covariate: str = ""
    maturity: str = ""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise DeclarationError(f"metric {self.name!r}: {problem[0]}", hint=problem[1])

    @property
    def events(self) -> tuple[str, ...]:
        """Names of the business events that it counts."""
        return tuple(part.removeprefix(_EVENT) for part in (self.of, self.per) if part.startswith(_EVENT))

    @property
    def labelled(self) -> bool:
        """Whether a row counts only once its label is known."""
        return self.of in LABELLED

    @property
    def sign(self) -> float:
        """1 where a larger value is the loss, -1 where a smaller one is."""
        return -1.0 if self.better == "higher" else 1.0


def _problem(metric: Metric) -> tuple[str, str] | None:
    """What is wrong with a declaration, and what to do."""
    if not metric.name or not (metric.of in _ROW or (metric.events and metric.of != _EVENT)):
        known = ", ".join(sorted(_ROW - {"labelled_score"}))
        return f"`of` is {metric.of!r}, which is no value of a row.", f"Write one of {known}, or event:NAME."
    event = metric.of.startswith(_EVENT)
    ratio = metric.kind == "ratio"
    if ratio != bool(metric.per) or (metric.per and metric.per != "rows" and not metric.per.startswith(_EVENT)):
        return f"`per` is {metric.per!r} and its kind {metric.kind}.", "A ratio needs per='rows' or per='event:NAME'."
    if ratio and event != metric.per.startswith(_EVENT):
        return "a ratio takes both parts from rows or both from events.", "Write per='rows' for values of rows."
    if event != bool(metric.window):
        return f"`window` is {metric.window!r}.", "Events need one, as window='7d'; values of rows take none."
    if metric.covariate and not event:
        return "only events have a covariate.", "Leave `covariate` out."
    if metric.kind == "quantile" and (not 0 < metric.quantile < 1 or event or metric.better != "lower"):
        return f"the quantile is {metric.quantile}.", "Write quantile=0.95, of a value of rows, with better='lower'."
    if metric.kind == "count" and not event:
        return "only events are counted.", "Use kind='mean' for values of rows."
    if metric.kind == "auc" and (metric.of != "labelled_score" or metric.better != "higher"):
        return "the area under the ROC curve is built in.", "Name the metric roc_auc."
    if metric.bounds is not None and not metric.bounds[0] < metric.bounds[1]:
        return f"its bounds are {metric.bounds}.", "Write the lower one first."
    if metric.maturity and not metric.labelled:
        return "only labels mature.", "Leave `maturity` out."
    for text in (metric.window, metric.covariate, metric.maturity):
        try:
            duration(text or "1d")
        except ValueError as error:
            return f"{error}.", "Write for example 7d or 12h."
    return None


_ALL: Final[tuple[Task, ...]] = ("binary", "multiclass", "regression")
_CLASSES: Final[tuple[Task, ...]] = ("binary", "multiclass")

#: The metrics that need no declaration, and the tasks in which they mean something.
BUILT_IN: Final[Mapping[str, tuple[Metric, tuple[Task, ...]]]] = {
    metric.name: (metric, tasks)
    for metric, tasks in (
        (Metric(name="failed", of="failed", kind="proportion"), _ALL),
        (Metric(name="violations", of="violations", kind="proportion"), _ALL),
        (Metric(name="latency", of="latency"), _ALL),
        (Metric(name="latency_p50", of="latency", kind="quantile", quantile=0.5), _ALL),
        (Metric(name="latency_p95", of="latency", kind="quantile", quantile=0.95), _ALL),
        (Metric(name="latency_p99", of="latency", kind="quantile", quantile=0.99), _ALL),
        (Metric(name="shift", of="score", better="same"), _ALL),
        (Metric(name="standardized_shift", of="score", better="same"), _ALL),
        (Metric(name="error", of="error", kind="proportion"), _CLASSES),
        (Metric(name="accuracy", of="accuracy", kind="proportion", better="higher"), _CLASSES),
        (Metric(name="brier", of="brier"), _CLASSES),
        (Metric(name="log_loss", of="log_loss"), _CLASSES),
        (Metric(name="roc_auc", of="labelled_score", kind="auc", better="higher"), ("binary",)),
        (Metric(name="absolute_error", of="absolute_error"), ("regression",)),
        (Metric(name="squared_error", of="squared_error"), ("regression",)),
    )
}


def resolve(name: str, declared: Iterable[Metric], task: Task) -> Metric:
    """The metric of that name for a task, with the bounds that its values have by nature.

    A proportion and the scores of classifiers lie in [0, 1]; ``brier`` lies in [0, 1] for two classes and in [0, 2] for
    more. Scores of a regression have no bounds.

    Raises
    ------
    DeclarationError : there is none of that name, or it means nothing for the task.
    """
    own = {metric.name: metric for metric in declared}
    if name in own:
        metric, tasks = own[name], _ALL
        if metric.of in BUILT_IN:
            tasks = BUILT_IN[metric.of][1]
    elif name in BUILT_IN:
        metric, tasks = BUILT_IN[name]
    else:
        known = ", ".join(sorted({*own, *BUILT_IN}))
        raise DeclarationError(f"no metric is named {name!r}.", hint=f"Known are {known}; others go in `metrics`.")
    if task not in tasks:
        raise DeclarationError(
            f"the metric {name!r} means nothing for a {task} model.",
            hint="Errors of a regression are absolute_error and squared_error, those of classes error and log_loss.",
        )
    if metric.bounds is not None or metric.kind in ("quantile", "auc", "ratio", "count"):
        return metric
    if metric.kind == "proportion":
        return msgspec.structs.replace(metric, bounds=(0.0, 1.0))
    if metric.of == "brier":
        return msgspec.structs.replace(metric, bounds=(0.0, 1.0 if task == "binary" else 2.0))
    if name == "shift" and task != "regression":
        return msgspec.structs.replace(metric, bounds=(0.0, 1.0))
    return metric
