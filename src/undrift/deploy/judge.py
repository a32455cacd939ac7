"""The judge of a rollout: is the experiment sound, is any guardrail broken, has enough been seen?

Every guardrail, over all and in each segment, is tested one-sided and anytime-valid against the champion on the same
traffic, all together at the declared alpha (Bonferroni). A breach needs proof beyond the margin; passing over all needs
enough units and a difference within the margin. Looking at every tick costs nothing.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

from undrift.deploy.evidence import Cell, Evidence
from undrift.deploy.rollout import Rollout, RolloutState
from undrift.finding import Finding, Interval, Measurement, Report, Rule, Verdict, judge
from undrift.stats.sequential import MINIMUM_UNITS, sample_ratio_e_value

__all__ = ["judge_rollout"]

MISMATCH: Final = 1000.0
"""Evidence from which units do not fall by the declared weights (Lindon and Malek 2022 use 1/0.001)."""
MOST_MIXED: Final = 0.01
"""Share of candidate units that may be seen in both arms at one weight; servers switch within a second, not at once."""
WALL_CLOCK: Final = frozenset({"latency"})
"""Metrics that no two runs measure alike: their digits stay out of texts, so that equal runs read equally."""


def judge_rollout(declared: Rollout, state: RolloutState, evidence: Evidence, now: datetime) -> Report:
    """Judge what was seen of a rollout until now; pure.

    Returns
    -------
    Report
        ERROR where the experiment itself is not sound, FAIL where harm beyond a margin is proven, INCONCLUSIVE where
        too little was seen or the difference is beyond its margin without proof, PASS otherwise.
    """
    guards = (_guard(cell, declared.alpha, evidence) for cell in evidence.cells)
    findings = [*_health(evidence), *(found for found in guards if found is not None)]
    facts = {
        "weights": [list(row) for row in evidence.counts],
        "tests": evidence.tests,
        "thin_segments": evidence.thin,
        "unlabelled": evidence.unlabelled,
    }
    return Report(title="Rollout", subject=state.subject, findings=tuple(findings), at=now, facts=facts)


def _health(evidence: Evidence) -> list[Finding]:
    """Sample-ratio mismatch, and units seen in both arms."""
    champion, candidate = (sum(int(row[i]) for row in evidence.counts) for i in (1, 2))
    if not evidence.counts:
        seen = Measurement(name="traffic", value=0.0, n=0, window=evidence.window)
        return [Finding(verdict=Verdict.INCONCLUSIVE, why="no unit has been seen by either arm yet", measurement=seen)]
    weights = [[100 - weight, weight] for weight, _, _ in evidence.counts]
    e = sample_ratio_e_value([[old, new] for _, old, new in evidence.counts], weights)
    ratio = Measurement(
        name="sample_ratio",
        value=candidate / (champion + candidate),
        n=champion + candidate,
        window=evidence.window,
        detail={"e_value": min(e, 1e12), "weights": [list(row) for row in evidence.counts]},
    )
    bad = e >= MISMATCH
    split = ", ".join(f"{new} of {old + new} at {weight:g} %" for weight, old, new in evidence.counts)
    found = [
        Finding(
            verdict=Verdict.ERROR if bad else Verdict.PASS,
            why=f"units {'do not ' if bad else ''}fall by the declared weights: {split} went to the candidate",
            measurement=ratio,
        )
    ]
    share = evidence.mixed / max(candidate, 1)
    mixed = Measurement(name="mixed_units", value=share, n=candidate, window=evidence.window)
    loud = share > MOST_MIXED and evidence.mixed > 1
    found.append(
        Finding(
            verdict=Verdict.ERROR if loud else Verdict.PASS,
            why=f"{evidence.mixed} units were answered by both arms at one weight",
            measurement=mixed,
        )
    )
    return found


def _guard(cell: Cell, alpha: float, evidence: Evidence) -> Finding | None:
    """One guardrail over all or in one segment; None for a segment with nothing to compare yet."""
    each = alpha / max(evidence.tests, 1)
    two_sided = cell.metric == "shift"
    value = abs(cell.difference) if two_sided else cell.difference
    lower = value - cell.half_width
    # alpha is shared by the asymptotic sequence and the exact bets, which hold at any n but know only the margin
    if cell.e_value >= 2 / each:
        lower = max(lower, math.nextafter(cell.margin, math.inf))
    n = cell.candidate_units
    if math.isnan(value):
        if cell.segment:
            return None
        seen = Measurement(
            name=cell.metric, value=None, n=0, window=evidence.window, problem="no units of both arms side by side yet"
        )
        why = f"{cell.metric}: no units with a value in both arms yet ({n} of the candidate)"
        return Finding(verdict=Verdict.INCONCLUSIVE, why=why, measurement=seen)
    seen = Measurement(
        name=cell.metric,
        value=value,
        n=n,
        interval=Interval(lower, math.inf, 1 - each) if math.isfinite(lower) else Interval(-math.inf, math.inf),
        window=evidence.window,
        segment=cell.segment,
        detail={
            "champion": cell.champion_mean,
            "candidate": cell.candidate_mean,
            "champion_units": cell.champion_units,
            "candidate_units": n,
            "e_value": min(cell.e_value, 1e12),
        },
    )
    rule = Rule(measure=f"{cell.metric} beyond the champion's", op="<=", bound=cell.margin)
    found = judge(rule, seen)
    verdict, why = found.verdict, _text(cell, value, lower)
    if verdict is Verdict.PASS and not cell.segment and n < MINIMUM_UNITS:
        verdict, why = Verdict.INCONCLUSIVE, f"{cell.metric}: {n} candidate units with a value; {MINIMUM_UNITS} needed"
    elif verdict is Verdict.PASS and not cell.segment and value > cell.margin:
        verdict, why = Verdict.INCONCLUSIVE, f"{why}; beyond the margin, but not yet certainly"
    return Finding(verdict=verdict, why=why, measurement=seen, rule=rule)


def _text(cell: Cell, value: float, lower: float) -> str:
    if cell.metric in WALL_CLOCK:
        broken = "more than" if lower > cell.margin else "within"
        return f"{cell.metric} is {broken} {cell.margin:g} beyond the champion's"
    means = f"{cell.candidate_mean:.4g} against {cell.champion_mean:.4g}"
    size = f"{'moved by' if cell.metric == 'shift' else 'differs by'} {value:.4g}"
    bound = f", at least {lower:.4g}" if lower > 0 else ""
    units = f"{cell.candidate_units} and {cell.champion_units} units"
    return f"{cell.metric} {size}{bound} ({means}; {units}), tolerated {cell.margin:g}"
