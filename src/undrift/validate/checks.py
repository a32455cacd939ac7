"""The checks a candidate goes through: each takes evidence, measures, and judges it by a rule.

Every check gives findings, never a bare yes; what could not be measured is an ERROR finding. Which checks count, and
their bounds, stand in gate.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from undrift.develop.bundle import Interface
from undrift.develop.performance import Scored
from undrift.errors import PredictionError
from undrift.finding import Finding, Interval, Measurement, Rule, Verdict, judge
from undrift.validate.metrics import gain, larger_is_better, measure

__all__ = [
    "better_than",
    "calibrated",
    "compiled",
    "covered",
    "floor",
    "latency_of",
    "missing_inputs",
    "segment_floors",
    "segments_no_worse",
]

ROUNDS: Final = 3
"""How often the time of an answer is taken."""


def better_than(
    candidate: Scored, rival: Scored, metric: str, *, margin: float = 0.0, minimum_n: int = 1, level: float = 0.95
) -> Finding:
    """Proof that the candidate beats the rival by more than the margin on the same rows.

    PASS needs the whole interval of the gain above the margin; an interval across it is INCONCLUSIVE. A negative margin
    asks for proof that the candidate is not worse by more than that.
    """
    seen = gain(candidate, rival, metric, level=level)
    rule = Rule(measure=f"{metric}_gain", op=">=", bound=margin, minimum_n=minimum_n, certain=True)
    found = judge(rule, seen)
    if found.verdict is Verdict.PASS and seen.interval is not None and seen.interval.lower <= margin:
        why = f"{metric}_gain is {seen.value:.4g} (n={seen.n}) without any spread, wanted more than {margin:g}"
        return Finding(verdict=Verdict.FAIL, why=why, measurement=seen, rule=rule)
    return found


def floor(scored: Scored, metric: str, bound: float, *, minimum_n: int = 1, level: float = 0.95) -> Finding:
    """The metric is on the right side of a bound (a floor, or a ceiling for losses), certainly."""
    return judge(_bounded(metric, bound, minimum_n, certain=True), measure(scored, metric, level=level))


def segment_floors(
    scored: Scored, metric: str, bound: float, columns: Sequence[str], *, minimum_n: int, level: float = 0.95
) -> tuple[list[Finding], list[str]]:
    """No segment with enough rows is proven to be on the wrong side of a bound.

    The level is shared among the segments (Bonferroni), so that many segments do not make false alarms.

    Returns
    -------
    tuple
        Findings, and the names of segments with fewer rows than ``minimum_n``, which are not judged.
    """
    groups, small = _large_enough(scored, columns, minimum_n)
    rule, shared = _bounded(metric, bound, minimum_n), _shared(level, len(groups))
    slim = _slim(scored)
    return [judge(rule, measure(slim.take(rows), metric, level=shared, segment=at)) for at, rows in groups], small


def segments_no_worse(
    candidate: Scored,
    rival: Scored,
    metric: str,
    columns: Sequence[str],
    *,
    margin: float = 0.0,
    minimum_n: int,
    level: float = 0.95,
) -> tuple[list[Finding], list[str]]:
    """No segment with enough rows is proven to be worse than the rival there by more than the margin (>= 0).

    Returns
    -------
    tuple
        As `segment_floors`.
    """
    groups, small = _large_enough(candidate, columns, minimum_n)
    rule = Rule(measure=f"{metric}_gain", op=">=", bound=0.0 - margin, minimum_n=minimum_n)
    shared = _shared(level, len(groups))
    new, old = _slim(candidate), _slim(rival)
    findings = [
        judge(rule, gain(new.take(rows), old.take(rows), metric, level=shared, segment=at)) for at, rows in groups
    ]
    return findings, small


def covered(
    candidate: Scored, usual: Mapping[str, int], total: int, columns: Sequence[str], *, kept: float, level: float = 0.95
) -> Finding:
    """No segment is proven to have lost its place among the held-out rows: there, nothing would be known of it.

    A model that forgets what has become rare lately looks as good on rows in which it is rare. Shares are held against
    each other by their exact intervals (Clopper and Pearson 1934), at a level that the segments share.

    Parameters
    ----------
    usual, total : rows of each segment (``carrier=UA``), and of all, on which the champion was measured.
    kept : the part of its usual share that each segment must still have, in (0, 1).
    """
    from scipy.special import betaincinv

    here = {name: rows.size for name, rows in candidate.segments(columns).items()}
    fields = {name.partition("=")[0] for name in here}
    asked = sorted(name for name in usual if usual[name] and name.partition("=")[0] in fields)
    alpha = (1.0 - level) / max(len(asked), 1) / 2
    worst = Measurement(name="coverage", value=1.0, n=candidate.n, detail={"segments": len(asked)})
    lost, least = [], np.inf
    for name in asked:
        old, new = usual[name], here.get(name, 0)
        lower = float(betaincinv(old, total - old + 1, alpha))
        upper = float(betaincinv(new + 1, candidate.n - new, 1 - alpha)) if new < candidate.n else 1.0
        share = new / candidate.n / (old / total)
        if upper < kept * lower:
            lost.append(f"{name} ({new} of {candidate.n} rows, where {old} of {total} were usual)")
        if share < least:
            least = share
            field, _, value = name.partition("=")
            worst = Measurement(name="coverage", value=share, n=candidate.n, segment={field: value})
    rule = Rule(measure="coverage", op=">=", bound=kept)
    if lost:
        why = f"the held-out rows say nothing of {', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''}"
        return Finding(verdict=Verdict.FAIL, why=why, measurement=worst, rule=rule)
    why = f"no segment of {len(asked)} is proven to have lost its place among the held-out rows"
    worst = Measurement(name="coverage", value=worst.value, n=candidate.n, detail={"least": worst.where})
    return Finding(verdict=Verdict.PASS, why=why, measurement=worst, rule=rule)


def calibrated(scored: Scored, bound: float, *, minimum_n: int = 1, level: float = 0.95) -> Finding:
    """The mean prediction is not proven to be further than a bound from the mean truth."""
    seen = measure(scored, "bias", level=level)
    if seen.value is not None and seen.interval is not None:
        near = sorted((abs(seen.interval.lower), abs(seen.interval.upper)))
        if seen.interval.lower <= 0 <= seen.interval.upper:
            near[0] = 0.0
        interval = Interval(near[0], near[1], level)
        seen = Measurement(
            name="bias", value=abs(seen.value), n=seen.n, interval=interval, detail={"signed": seen.value}
        )
    return judge(Rule(measure="bias", op="<=", bound=bound, minimum_n=minimum_n), seen)


def compiled(said: Mapping[str, Any]) -> Finding:
    """The compiled form of the model agrees with the trained one, as the manifest's ``compiled`` says."""
    rule = Rule(measure="compiled_difference", op="<=", bound=0.0)
    value = said.get("max_difference")
    seen = Measurement(name=rule.measure, value=value, n=int(said.get("rows", 0)), detail=dict(said))
    if value is None:
        seen = Measurement(name=rule.measure, value=None, problem="the bundle says nothing about a compiled form")
        return judge(rule, seen)
    if said.get("held"):
        why = f"the compiled model agrees with the trained one on {seen.n} rows (largest difference {value:.2g})"
        return Finding(verdict=Verdict.PASS, why=why, measurement=seen)
    return Finding(verdict=Verdict.FAIL, why=f"no compiled model: {said.get('reason', '')}", measurement=seen)


def latency_of(
    predict: Callable[[dict[str, list[Any]]], Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    warm_up: int = 10,
    rounds: int = ROUNDS,
    now: Callable[[], int] = time.perf_counter_ns,
) -> Measurement:
    """The 99th percentile of the time one row takes, in milliseconds, asked one after the other on this machine.

    The rows are asked in several rounds, and of each row the fastest answer counts. What else the machine does (the
    training that has just ended, other processes) can only add to the time of an answer, so the least disturbed one
    is nearest to what the model itself costs; a row that is slow is so in every round. The percentile of each round
    by itself is in ``detail``, so a loaded machine shows.

    Parameters
    ----------
    predict : a loaded predictor's ``predict``, taking one list per input.
    rows : requests; asked again and again until each round has 100 answers to make a percentile of.
    rounds : how often, 1 or more.
    now : a clock in nanoseconds.
    """
    name = "latency_p99_ms"
    single = [{key: [value] for key, value in row.items()} for row in rows]
    try:
        for columns in single[:warm_up]:
            predict(columns)
        taken = []
        for _ in range(rounds if single else 0):
            times = []
            for columns in single * -(-100 // len(single)):
                begun = now()
                predict(columns)
                times.append((now() - begun) / 1e6)
            taken.append(times)
    except PredictionError as error:
        return Measurement(name=name, value=None, unit="ms", problem=error.message)
    if not taken:
        return Measurement(name=name, value=None, unit="ms", problem="there are no rows to ask")
    median, high = np.quantile(np.min(taken, axis=0), [0.5, 0.99])
    shown = {"p50_ms": float(median), "rounds_ms": [float(np.quantile(times, 0.99)) for times in taken]}
    return Measurement(name=name, value=float(high), n=len(times), unit="ms", detail=shown)


def missing_inputs(
    interface: Interface, predict: Callable[[dict[str, list[Any]]], Any], rows: Sequence[Mapping[str, Any]]
) -> Measurement:
    """The share of rows that are not answered when one input that may be absent is absent, over all such inputs.

    Fields of the contract that are not nullable never reach a model as absent and are left alone.
    """
    name = "unanswered_when_absent"
    fixed = {f.name for f in interface.contract.fields if not f.nullable}
    open_inputs = [i.name for i in interface.inputs if i.name not in fixed]
    refused: dict[str, str] = {}
    for gone in open_inputs:
        columns = {i.name: [None if i.name == gone else row.get(i.name) for row in rows] for i in interface.inputs}
        try:
            predict(columns)
        except PredictionError as error:
            refused[gone] = error.message
    n = len(open_inputs) * len(rows)
    value = len(refused) / len(open_inputs) if open_inputs else 0.0
    if not rows:
        return Measurement(name=name, value=None, problem="there are no rows to ask")
    return Measurement(name=name, value=value, n=n or len(rows), detail={"refused": refused} if refused else {})


def _bounded(metric: str, bound: float, minimum_n: int, *, certain: bool = False) -> Rule:
    larger = larger_is_better(metric)
    return Rule(measure=metric, op=">=" if larger else "<=", bound=bound, minimum_n=minimum_n, certain=certain)


def _large_enough(
    scored: Scored, columns: Sequence[str], minimum_n: int
) -> tuple[list[tuple[dict[str, str], Any]], list[str]]:
    groups, small = [], []
    for column in columns:
        for name, rows in scored.segments([column]).items():
            if rows.size >= minimum_n:
                field, _, value = name.partition("=")
                groups.append(({field: value}, np.sort(rows)))
            else:
                small.append(name)
    return groups, small


def _slim(scored: Scored) -> Scored:
    """The same evidence without columns that metrics do not look at, so that taking rows of it is cheap."""
    return replace(scored, table=scored.table.select(scored.table.column_names[:1]))


def _shared(level: float, among: int) -> float:
    return 1.0 - (1.0 - level) / max(among, 1)
