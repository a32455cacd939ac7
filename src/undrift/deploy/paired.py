"""The judge of the shadow stage: both models on the same rows, so what makes a row hard cancels out.

The champion's answers are those that users got, the candidate's come from the replay. Passing needs proof: the whole
anytime-valid interval of each guardrail within its margin. Harm in a segment needs proof too, beyond its margin.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from undrift.deploy.metrics import Metric, resolve
from undrift.deploy.plan import alpha_of_group
from undrift.deploy.rollout import Exposure, Guardrail, Rollout, RolloutState
from undrift.deploy.shadow import Replay
from undrift.deploy.traffic import segment_columns, values_of
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Interval, Measurement, Report, Rule, Verdict, judge
from undrift.stats.betting import mean_bounds
from undrift.stats.sequential import MINIMUM_UNITS, mean_sequence
from undrift.stats.summary import Moments

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_answered_by", "judge_shadow"]

NOT_REPLAYED: Final = frozenset({"latency", "violations"})
"""A replay says nothing of the latency under load, and both models get the same requests. Nor does it say anything of
business events, which follow the champion's answers, or of an area under a curve, which no single row has."""
DAY: Final = 86_400_000_000
FEWEST_DAYS: Final = 3
MOST_DIFFERENT: Final = 5
_ROUNDING: Final = 1e-20

Floats = NDArray[np.float64]


def judge_shadow(
    declared: Rollout, state: RolloutState, interface: Interface, rows: pa.Table, replayed: Replay, now: datetime
) -> tuple[Report, Exposure]:
    """Judge a replay; pure.

    Parameters
    ----------
    interface : the candidate's.
    rows : predictions with outcomes that the champion answered, in the order of the replay.
    replayed : the candidate's answers to them.
    """
    n = rows.num_rows
    facts: dict[str, Any] = {"replayed": n, "errors": replayed.errors}
    if replayed.status != "done":
        # a process that ran out of time may have met a busy machine; one that died or cannot be loaded will again
        verdict = Verdict.ERROR if replayed.status == "timeout" else Verdict.FAIL
        seen = Measurement(name="replay", value=None, n=n, problem=replayed.status)
        finding = Finding(verdict=verdict, why=replayed.problem, measurement=seen)
        report = Report(title="Shadow", subject=state.subject, findings=(finding,), at=now, facts=facts)
        return report, Exposure(step_units=0, total_units=0)
    metrics = {g.metric: resolve(g.metric, declared.metrics, interface.task) for g in declared.guardrails}
    guards = [g for g in declared.guardrails if _replayed(metrics[g.metric])]
    sources = sorted({metrics[g.metric].of for g in guards})
    old = values_of(rows, interface, sources)
    new = values_of(as_answered_by(rows, replayed), interface, sources)
    segments = segment_columns(rows, interface)
    known = 1 + sum(len(values) for _, values in segments.values())
    by_segment = [g.by_segment for g in guards]
    days = rows["event_time"].cast("int64").to_numpy() // DAY
    tuning = float(max(declared.shadow.minimum_units if declared.shadow else 0, MINIMUM_UNITS))  # where it is to decide
    findings: list[Finding | None] = []
    for guard in guards:
        metric = metrics[guard.metric]
        pairs = (old[metric.of], new[metric.of])
        alphas = [alpha_of_group(group, known, declared.alpha, by_segment) for group in range(min(known, 2))]
        findings.append(_guard(guard, metric, {}, pairs, days, alphas[0], tuning))
        if not guard.by_segment:
            continue
        for column, (codes, values) in segments.items():
            for code, value in enumerate(values):
                inside = codes == code
                here = (pairs[0][inside], pairs[1][inside])
                if int(np.isfinite(here[0] + here[1]).sum()) >= MINIMUM_UNITS:
                    findings.append(_guard(guard, metric, {column: value}, here, days[inside], alphas[1], tuning))
    labelled = int((rows["label"].is_valid().to_numpy() | rows["value"].is_valid().to_numpy()).sum())
    facts |= {
        "tests": sum(known if each else 1 for each in by_segment),
        "labelled": labelled,
        "most_different": _most_different(rows, replayed),
    }
    report = Report(
        title="Shadow", subject=state.subject, findings=tuple(f for f in findings if f is not None), at=now, facts=facts
    )
    return report, Exposure(step_units=labelled, total_units=0)


def as_answered_by(rows: pa.Table, replayed: Replay) -> pa.Table:
    """The rows as if what was replayed had answered them."""
    import pyarrow as pa

    broken = [None if score is not None else "failed" for score in replayed.score]
    columns = {
        "score": pa.array(replayed.score, pa.float64()),
        "prediction": pa.array(replayed.label or [None] * rows.num_rows, pa.string()),
        "scores": pa.array(replayed.scores or [None] * rows.num_rows, pa.list_(pa.float64())),
        "error": pa.array(broken, pa.string()),
    }
    for name, values in columns.items():
        if name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, values)
        else:
            rows = rows.append_column(name, values)
    return rows


def _replayed(metric: Metric) -> bool:
    """Whether rows that a replay answered say something of a metric."""
    return metric.kind in ("mean", "proportion") and not metric.events and metric.of not in NOT_REPLAYED


def _guard(
    guard: Guardrail,
    metric: Metric,
    segment: dict[str, str],
    pairs: tuple[Floats, Floats],
    days: NDArray[np.int64],
    alpha: float,
    tuning: float,
) -> Finding | None:
    """One guardrail over all or in one segment; None for a segment of too few rows.

    Values in a known range are bet on, exactly at any number of rows; means of them also have the sequence, each at
    half of alpha. Rows that never fail have no variance and prove only as much as their number says.
    """
    margin = guard.margin if not segment or guard.segment_margin is None else guard.segment_margin
    both = metric.better == "same"
    weight = 1 + metric.sign * margin if guard.relative else 1.0
    old, new = pairs
    held = np.isfinite(new - old)
    scale = _spread(old[held]) if guard.metric == "standardized_shift" else 1.0
    loss = metric.sign * (new[held] - weight * old[held]) / scale
    margin = 0.0 if guard.relative else margin
    moments = Moments.of(loss)
    effect = _design_effect(loss, days[held])
    # rows of a day are alike: as many rows fewer as the days show, with the same mean and spread
    fewer = int(moments.n / effect)
    shrunk = Moments(n=fewer, mean=moments.mean, m2=moments.m2 * fewer / max(moments.n, 1))
    ways = (metric.bounds is not None) + (metric.kind == "mean")
    each = alpha / ways / (2 if both else 1)
    lower, upper = -math.inf, math.inf
    if metric.kind == "mean":
        lower = mean_sequence(shrunk, each, tuning, side="lower").lower
        upper = mean_sequence(shrunk, each, tuning, side="upper").upper
    if metric.bounds is not None:
        low, high = metric.bounds
        reach = (max(high - weight * low, weight * high - low, high - low)) / scale
        exact = mean_bounds(np.clip(loss, -reach, reach), each, low=-reach, high=reach, effect=effect)
        lower, upper = max(lower, exact.lower), min(upper, exact.upper)
    value = moments.mean
    if both:
        lower, upper, value = max(lower, -upper), max(abs(lower), abs(upper)), abs(moments.mean)
    seen = Measurement(
        name=guard.metric,
        value=value if moments.n else 0.0,
        n=fewer,
        interval=Interval(lower, upper, 1 - alpha),
        segment=segment,
        detail={"rows": moments.n, "design_effect": round(effect, 2)},
    )
    rule = Rule(
        measure=f"{guard.metric} beyond the champion's",
        op="<=",
        bound=margin,
        minimum_n=MINIMUM_UNITS,
        certain=not segment,
    )
    found = judge(rule, seen)
    return None if segment and found.verdict is Verdict.INCONCLUSIVE else found


def _spread(values: Floats) -> float:
    """Standard deviation of the champion's scores; 1 where they do not vary."""
    return float(values.std(ddof=1)) or 1.0 if len(values) > 1 else 1.0


def _design_effect(gap: Floats, days: NDArray[np.int64]) -> float:
    """Variance of the mean by days against that by rows, at least 1; 1 while there are too few days to tell."""
    codes = np.unique(days, return_inverse=True)[1]
    count = int(codes.max(initial=-1)) + 1
    if count < FEWEST_DAYS or len(gap) < 2:
        return 1.0
    centred = gap - gap.mean()
    within = float(np.square(centred).sum())
    between = float(np.square(np.bincount(codes, weights=centred)).sum()) * count / (count - 1)
    # rows that all moved by the same amount vary by rounding alone, which says nothing of days
    return max(1.0, between / within) if within > _ROUNDING * float(np.square(gap).sum()) else 1.0


def _most_different(rows: pa.Table, replayed: Replay) -> list[dict[str, Any]]:
    """The rows on which the two differ most, for a person to look at."""
    old = np.asarray(rows["score"].to_numpy(zero_copy_only=False), dtype=np.float64)
    new = np.asarray([np.nan if s is None else s for s in replayed.score], dtype=np.float64)
    gap = np.nan_to_num(np.abs(new - old), nan=-1.0)
    order = np.argsort(-gap, kind="stable")[:MOST_DIFFERENT]
    ids = rows["prediction_id"].to_pylist() if "prediction_id" in rows.column_names else [""] * rows.num_rows
    return [
        {"id": ids[i], "champion": round(float(old[i]), 6), "candidate": round(float(new[i]), 6)}
        for i in order
        if gap[i] >= 0
    ]
