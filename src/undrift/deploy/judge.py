"""The judge of a rollout: is the experiment sound, is any guardrail broken, is the objective reached?

In that order. Every guardrail, over all and in each segment, is tested one-sided and anytime-valid against the champion
on the same traffic, all together at the declared alpha: looking at every tick costs nothing. A breach needs proof
beyond the margin; passing over all needs enough units and a difference within it; winning needs the objective proven.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

from undrift.deploy.evidence import Cell, Evidence
from undrift.deploy.rollout import RolloutState
from undrift.finding import Finding, Interval, Measurement, Report, Rule, Verdict
from undrift.stats.sequential import MINIMUM_UNITS, sample_ratio_e_value

__all__ = ["judge_rollout"]

MISMATCH: Final = 1000.0
"""Evidence from which units do not fall by the declared weights (Lindon and Malek 2022 use 1/0.001)."""
MOST_MIXED: Final = 0.01
"""Share of candidate units that may be seen in both arms at one weight; servers switch within a second, not at once."""
MOST_MISSING: Final = 0.02
"""Proven difference between the arms' shares of labelled units from which labels are not missing by chance."""
WALL_CLOCK: Final = frozenset({"latency", "latency_p50", "latency_p95", "latency_p99"})
"""Metrics that no two runs measure alike: their digits stay out of texts, so that equal runs read equally."""


def judge_rollout(state: RolloutState, evidence: Evidence, now: datetime) -> Report:
    """Judge what was seen of a rollout until now; pure.

    Returns
    -------
    Report
        ERROR where the experiment itself is not sound or a metric cannot be measured, FAIL where harm beyond a margin
        is proven, INCONCLUSIVE where too little was seen, the difference is beyond its margin without proof, or the
        last step waits for its objective; PASS otherwise.
    """
    findings = [*_health(evidence), *(_finding(cell, evidence, state.deciding) for cell in evidence.cells)]
    facts = {
        "weights": [list(row) for row in evidence.counts],
        "tests": evidence.tests,
        "thin_segments": evidence.thin,
        "unlabelled": evidence.unlabelled,
    }
    kept = tuple(found for found in findings if found is not None)
    return Report(title="Rollout", subject=state.subject, findings=kept, at=now, facts=facts)


# -- health -----------------------------------------------------------------------------------------------------------


def _health(evidence: Evidence) -> list[Finding]:
    """Sample-ratio mismatch, units seen in both arms, labels that one arm lacks."""
    champion, candidate = (sum(int(row[i]) for row in evidence.counts) for i in (1, 2))
    if not champion + candidate:
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
    why = f"units {'do not ' if bad else ''}fall by the declared weights: {split} went to the candidate"
    found = [_sound(not bad, why, ratio)]
    share = evidence.mixed / max(candidate, 1)
    mixed = Measurement(name="mixed_units", value=share, n=candidate, window=evidence.window)
    loud = share > MOST_MIXED and evidence.mixed > 1
    found.append(_sound(not loud, f"{evidence.mixed} units were answered by both arms at one weight", mixed))
    if evidence.labelled is not None and math.isfinite(evidence.labelled.half_width):
        cell = evidence.labelled
        lacks = cell.difference - cell.half_width > MOST_MISSING
        lost = Measurement(name="missing_labels", value=cell.difference, n=cell.candidate_units, window=evidence.window)
        why = f"{cell.candidate_mean:.1%} of the candidate's units and {cell.champion_mean:.1%} of the champion's"
        found.append(_sound(not lacks, f"{why} have a label{', by no chance' if lacks else ''}", lost))
    return found


def _sound(good: bool, why: str, seen: Measurement) -> Finding:
    return Finding(verdict=Verdict.PASS if good else Verdict.ERROR, why=why, measurement=seen)


# -- guardrails and objective -----------------------------------------------------------------------------------------


def _finding(cell: Cell, evidence: Evidence, deciding: bool) -> Finding | None:
    """One guardrail over all or in one segment, or the objective; None for a segment with nothing to compare yet."""
    if cell.problem or math.isnan(cell.difference):
        if cell.segment:
            return None
        problem = cell.problem or "no units of both arms side by side yet"
        seen = Measurement(name=cell.metric, value=None, n=0, window=evidence.window, problem=problem)
        if cell.problem:
            why = f"{cell.metric} could not be measured: {problem}"
            return Finding(verdict=Verdict.ERROR, why=why, measurement=seen)
        why = f"{cell.metric}: no units with a value in both arms yet ({cell.candidate_units} of the candidate)"
        return Finding(verdict=Verdict.INCONCLUSIVE, why=why, measurement=seen)
    lower, upper = _interval(cell)
    seen = Measurement(
        name=cell.metric,
        value=cell.difference,
        n=cell.candidate_units,
        interval=Interval(lower, upper, 1 - cell.alpha),
        window=evidence.window,
        segment=cell.segment,
        detail={
            "champion": cell.champion_mean,
            "candidate": cell.candidate_mean,
            "champion_units": cell.champion_units,
            "candidate_units": cell.candidate_units,
            "e_value": min(cell.e_value, 1e12),
        },
    )
    verdict, why = _objective(cell, deciding) if cell.objective else _guard(cell, lower)
    measure = f"{cell.metric} {'gained on' if cell.objective else 'beyond'} the champion's"
    rule = Rule(measure=measure, op=">=" if cell.objective else "<=", bound=cell.margin)
    return Finding(verdict=verdict, why=why, measurement=seen, rule=rule)


def _interval(cell: Cell) -> tuple[float, float]:
    """Ends that agree with the proof: where it is exact, the lower one lies beyond the margin if it is broken."""
    lower, upper = cell.difference - cell.half_width, cell.difference + cell.half_width
    if cell.exact and not (cell.sequence and lower > cell.margin):
        lower = max(lower, math.nextafter(cell.margin, math.inf)) if cell.proven else min(lower, cell.margin)
    return lower, upper if cell.certain else math.inf


def _guard(cell: Cell, lower: float) -> tuple[Verdict, str]:
    why = _text(cell, lower)
    if cell.proven:
        return Verdict.FAIL, why
    if cell.segment:
        return Verdict.PASS, why
    if cell.candidate_units < MINIMUM_UNITS:
        return (
            Verdict.INCONCLUSIVE,
            f"{cell.metric}: {cell.candidate_units} candidate units with a value; {MINIMUM_UNITS} needed",
        )
    if cell.difference > cell.margin:
        return Verdict.INCONCLUSIVE, f"{why}; beyond the margin, but not yet certainly"
    if cell.certain and not cell.within:
        return Verdict.INCONCLUSIVE, f"{why}; within the margin, but not yet certainly"
    return Verdict.PASS, why


def _objective(cell: Cell, deciding: bool) -> tuple[Verdict, str]:
    """Superiority: asked for at the last step only, and never a reason to roll back."""
    means = f"{cell.candidate_mean:.4g} against {cell.champion_mean:.4g}"
    why = (
        f"{cell.metric} gained {cell.difference:.4g} ({means}; {cell.candidate_units} and {cell.champion_units} units)"
    )
    if cell.proven:
        return Verdict.PASS, f"{why}, more than {cell.margin:g} with certainty"
    if not deciding:
        return Verdict.PASS, f"{why}; more than {cell.margin:g} is asked for at the last step"
    return Verdict.INCONCLUSIVE, f"{why}; more than {cell.margin:g} is not proven yet"


def _text(cell: Cell, lower: float) -> str:
    tolerated = f"{cell.relative:.3g} of it" if cell.relative else f"{cell.margin:g}"
    if cell.metric in WALL_CLOCK:
        return f"{cell.metric} is {'more than' if cell.proven else 'within'} {tolerated} beyond the champion's"
    means = f"{cell.candidate_mean:.4g} against {cell.champion_mean:.4g}"
    units = f"{cell.candidate_units} and {cell.champion_units} units"
    if cell.relative:
        share = cell.candidate_mean / cell.champion_mean - 1 if cell.champion_mean else math.nan
        return f"{cell.metric} differs by {share:+.2%} ({means}; {units}), tolerated {cell.relative:.2%} worse"
    size = f"{'moved by' if cell.two_sided else 'differs by'} {cell.difference:.4g}"
    bound = f", at least {lower:.4g}" if lower > 0 else ""
    return f"{cell.metric} {size}{bound} ({means}; {units}), tolerated {tolerated}"
