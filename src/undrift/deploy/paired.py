"""The judge of the shadow stage: both models on the same rows, so what makes a row hard cancels out.

The champion's answers are those that users got, the candidate's come from the replay. Passing needs proof: the whole
anytime-valid interval of each guardrail within its margin. Harm in a segment needs proof too, beyond its margin.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from undrift.deploy.rollout import Exposure, Guardrail, Rollout, RolloutState
from undrift.deploy.shadow import Replay
from undrift.deploy.traffic import segment_columns, values_of
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Interval, Measurement, Report, Rule, Verdict, judge
from undrift.stats.sequential import MINIMUM_UNITS, mean_sequence
from undrift.stats.summary import Moments

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_answered_by", "judge_shadow"]

NOT_REPLAYED: Final = frozenset({"latency", "violations"})
"""A replay says nothing of the latency under load, and both models get the same requests."""
DAY: Final = 86_400_000_000
FEWEST_DAYS: Final = 3
MOST_DIFFERENT: Final = 5

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
    names = [g.metric for g in declared.guardrails if g.metric not in NOT_REPLAYED]
    old = values_of(rows, interface, names)
    new = values_of(as_answered_by(rows, replayed), interface, names)
    segments = segment_columns(rows, interface)
    known = sum(len(values) for _, values in segments.values())
    guards = [g for g in declared.guardrails if g.metric in names]
    tests = sum(1 + (known if g.by_segment else 0) for g in guards)
    days = rows["event_time"].cast("int64").to_numpy() // DAY
    tuning = float(max(declared.shadow.minimum_units if declared.shadow else 0, MINIMUM_UNITS))  # where it is to decide
    findings: list[Finding | None] = []
    for guard in guards:
        gap = new[guard.metric] - old[guard.metric]
        findings.append(_guard(guard, {}, guard.margin, gap, days, declared.alpha / tests, tuning))
        if not guard.by_segment:
            continue
        margin = guard.margin if guard.segment_margin is None else guard.segment_margin
        for column, (codes, values) in segments.items():
            for code, value in enumerate(values):
                inside = codes == code
                if int((inside & np.isfinite(gap)).sum()) >= MINIMUM_UNITS:
                    findings.append(
                        _guard(
                            guard, {column: value}, margin, gap[inside], days[inside], declared.alpha / tests, tuning
                        )
                    )
    labelled = int((rows["label"].is_valid().to_numpy() | rows["value"].is_valid().to_numpy()).sum())
    facts |= {"tests": tests, "labelled": labelled, "most_different": _most_different(rows, replayed)}
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


def _guard(
    guard: Guardrail,
    segment: dict[str, str],
    margin: float,
    gap: Floats,
    days: NDArray[np.int64],
    alpha: float,
    tuning: float,
) -> Finding | None:
    """One guardrail over all or in one segment; None for a segment of too few rows."""
    held = np.isfinite(gap)
    moments = Moments.of(gap[held])
    effect = _design_effect(gap[held], days[held])
    # rows of a day are alike: as many rows fewer as the days show, with the same mean and spread
    fewer = int(moments.n / effect)
    shrunk = Moments(n=fewer, mean=moments.mean, m2=moments.m2 * fewer / max(moments.n, 1))
    sides = 2 if guard.metric == "shift" else 1
    low = mean_sequence(shrunk, alpha / sides, tuning, side="lower")
    high = mean_sequence(shrunk, alpha / sides, tuning, side="upper")
    lower, upper, value = low.lower, high.upper, moments.mean
    if guard.metric == "shift":
        lower, upper, value = max(low.lower, -high.upper), max(abs(low.lower), abs(high.upper)), abs(moments.mean)
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


def _design_effect(gap: Floats, days: NDArray[np.int64]) -> float:
    """Variance of the mean by days against that by rows, at least 1; 1 while there are too few days to tell."""
    codes = np.unique(days, return_inverse=True)[1]
    count = int(codes.max(initial=-1)) + 1
    if count < FEWEST_DAYS or len(gap) < 2:
        return 1.0
    centred = gap - gap.mean()
    within = float(np.square(centred).sum())
    between = float(np.square(np.bincount(codes, weights=centred)).sum()) * count / (count - 1)
    return max(1.0, between / within) if within > 0 else 1.0


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
