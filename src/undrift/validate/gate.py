"""The gate: what a candidate must prove, offline, before it may be registered or get any traffic.

A Gate is declared by people; judging one is pure: the evidence comes in measured, a Report with four verdicts goes out.
Missing evidence never passes: without a rival to beat the verdict is INCONCLUSIVE unless the declaration waives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from undrift.develop.performance import OBJECTIVES, Performance, Scored
from undrift.errors import DeclarationError
from undrift.finding import Finding, Measurement, Report, Rule, Verdict, judge
from undrift.stats.summary import Moments
from undrift.validate import checks
from undrift.validate.metrics import METRICS

__all__ = ["Gate", "judge_candidate"]


class Gate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a candidate must prove on rows it was not trained on.

    Parameters
    ----------
    objective : the metric that counts; ``log_loss`` for classes and ``absolute_error`` for regression if empty.
    margin : by how much the candidate must beat its rival, in the unit of the objective; below 0 it may be worse by
        that much.
    without_rival : what it means that there is nothing to beat: ``refuse`` (INCONCLUSIVE) or ``skip``.
    floor : bound that the objective must certainly keep (a ceiling for losses).
    segments : columns whose values are judged one by one; those of the model if None.
    segment_minimum : rows below which a segment is not judged.
    segment_metric : the metric judged in segments; the objective if empty.
    segment_floor : bound that no segment may be proven to break.
    segment_margin : by how much a segment may be worse than under the rival; None does not compare segments.
    coverage : the part of its usual share of the rows that each segment must still have among the held-out rows, where
        there is a champion that was measured on it; None does not ask.
    bias : largest distance of mean prediction from mean truth; not checked if None.
    latency_ms : budget for one row, 99th percentile, in milliseconds; not checked if None.
    compiled : ``required`` refuses a model that did not compile.
    absent : ``answer`` refuses a model that does not answer rows with an absent value.
    minimum_rows : held-out rows below which nothing is concluded.
    level : confidence level of each interval, in (0, 1); segments share it.
    """

    objective: str = ""
    margin: float = 0.0
    without_rival: Literal["refuse", "skip"] = "refuse"
    floor: float | None = None
    segments: tuple[str, ...] | None = None
    segment_minimum: int = 300
    segment_metric: str = ""
    segment_floor: float | None = None
    segment_margin: float | None = 0.0
    coverage: float | None = 0.2
    bias: float | None = None
    latency_ms: float | None = None
    compiled: Literal["any", "required"] = "any"
    absent: Literal["any", "answer"] = "any"
    minimum_rows: int = 100
    level: float = 0.95

    def __post_init__(self) -> None:
        wrong = [f"no metric is named {name!r}" for name in (self.objective, self.segment_metric) if name not in _NAMES]
        if not 0 < self.level < 1:
            wrong.append(f"level must lie in (0, 1), not {self.level}")
        if self.segment_margin is not None and self.segment_margin < 0:
            wrong.append(f"segment_margin must be 0 or more, not {self.segment_margin}")
        if self.coverage is not None and not 0 < self.coverage < 1:
            wrong.append(f"coverage must lie in (0, 1), not {self.coverage}")
        if self.latency_ms is not None and self.latency_ms <= 0:
            wrong.append(f"latency_ms must be above 0, not {self.latency_ms}")
        if wrong:
            raise DeclarationError(f"Gate: {'; '.join(wrong)}.", hint=f"Metrics are {', '.join(sorted(METRICS))}.")


_NAMES = {"", *METRICS}


def judge_candidate(
    gate: Gate,
    candidate: Scored,
    rival: Scored | None = None,
    *,
    usual: Performance | None = None,
    latency: Measurement | None = None,
    absent: Measurement | None = None,
    compiled: Mapping[str, Any] | None = None,
    subject: str = "",
    rival_name: str = "baseline",
    at: datetime | None = None,
) -> Report:
    """Judge a candidate by a gate; pure.

    Parameters
    ----------
    candidate, rival : the same rows as both answered them.
    usual : what the champion's version led to expect, on the rows it was measured on.
    latency : what `checks.latency_of` measured.
    absent : what `checks.missing_inputs` measured.
    compiled : the manifest's ``compiled``.
    rival_name : who the rival is, for the report: the baseline or the champion's version.

    Returns
    -------
    Report
        One finding per check and segment; its verdict is the worst. ``facts`` names the objective, its values and the
        segments too small to judge.

    Raises
    ------
    DataError : candidate and rival do not have the same rows, a segment column is missing, or the objective means
        nothing for the task.
    """
    interface = candidate.interface
    objective = gate.objective or OBJECTIVES[interface.task]
    metric = gate.segment_metric or objective
    columns = interface.segments if gate.segments is None else gate.segments
    findings = [_against(gate, candidate, rival, objective)]
    small: list[str] = []
    if gate.floor is not None:
        findings.append(checks.floor(candidate, objective, gate.floor, minimum_n=gate.minimum_rows, level=gate.level))
    if gate.segment_floor is not None:
        found, small = checks.segment_floors(
            candidate, metric, gate.segment_floor, columns, minimum_n=gate.segment_minimum, level=gate.level
        )
        findings += found
    if gate.segment_margin is not None and rival is not None:
        found, small = checks.segments_no_worse(
            candidate, rival, metric, columns,
            margin=gate.segment_margin, minimum_n=gate.segment_minimum, level=gate.level,
        )  # fmt: skip
        findings += found
    if gate.coverage is not None and usual is not None and usual.segments:
        findings.append(
            checks.covered(
                candidate, {name: _rows(losses) for name, losses in usual.segments.items()}, _rows(usual.moments),
                columns, kept=gate.coverage, level=gate.level,
            )
        )  # fmt: skip
    if gate.bias is not None:
        findings.append(checks.calibrated(candidate, gate.bias, minimum_n=gate.minimum_rows, level=gate.level))
    if gate.latency_ms is not None:
        rule = Rule(measure="latency_p99_ms", op="<=", bound=gate.latency_ms, minimum_n=50)
        findings.append(judge(rule, latency or _unmeasured("latency_p99_ms")))
    if gate.absent == "answer":
        rule = Rule(measure="unanswered_when_absent", op="<=", bound=0.0)
        findings.append(judge(rule, absent or _unmeasured("unanswered_when_absent")))
    if gate.compiled == "required":
        findings.append(checks.compiled(compiled or {}))
    facts: dict[str, Any] = {"objective": objective, "rows": candidate.n, "rival": rival_name if rival else ""}
    if small:
        facts["segments_too_small"] = small
    return Report(title="gate", subject=subject or interface.model, findings=tuple(findings), at=at, facts=facts)


def _rows(losses: Mapping[str, Moments]) -> int:
    return int(max((moments.n for moments in losses.values()), default=0))


def _against(gate: Gate, candidate: Scored, rival: Scored | None, objective: str) -> Finding:
    if rival is not None:
        return checks.better_than(
            candidate, rival, objective, margin=gate.margin, minimum_n=gate.minimum_rows, level=gate.level
        )
    if gate.without_rival == "skip":
        return _large_enough(gate, candidate)
    return Finding(
        verdict=Verdict.INCONCLUSIVE,
        why="there is nothing to compare with: no baseline is declared and there is no champion",
        measurement=Measurement(name=f"{objective}_gain", value=None, n=candidate.n, problem="no rival"),
    )


def _large_enough(gate: Gate, candidate: Scored) -> Finding:
    seen = Measurement(name="rows", value=float(candidate.n), n=candidate.n)
    return judge(Rule(measure="rows", op=">=", bound=1, minimum_n=gate.minimum_rows), seen)


def _unmeasured(name: str) -> Measurement:
    return Measurement(name=name, value=None, problem="it was not measured")
