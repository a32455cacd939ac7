"""A rollout: where it stands, and the one pure function that moves it; what a person declares stands in strategy.py.

`reconcile` looks at a judged report and decides: advance, hold, pause, roll back. It reads no clock and no store, so a
rollout of three weeks is a test of milliseconds and can be replayed from the log. What the report holds is made in
judge.py (live traffic) and shadow.py (replayed traffic); what people may say to a rollout stands in people.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from undrift.deploy.strategy import Freeze, Guardrail, Rollout, Stage
from undrift.errors import DeclarationError
from undrift.event import Draft
from undrift.finding import Finding, Report, Verdict
from undrift.ids import duration

__all__ = [
    "TERMINAL",
    "Decision",
    "Exposure",
    "Freeze",
    "Guardrail",
    "Rollout",
    "RolloutState",
    "Span",
    "Stage",
    "draft",
    "first_step",
    "go_on",
    "reconcile",
    "start",
]

Status = Literal["running", "paused", "succeeded", "rolled_back", "aborted"]
TERMINAL: Final = frozenset({"succeeded", "rolled_back", "aborted"})


class Span(msgspec.Struct, frozen=True):
    """One weight and when it began to hold: the strata a judgement averages over."""

    weight: float
    start: datetime


class RolloutState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a rollout stands; ``weight`` is the percentage of units exposed.

    ``step`` is -1 in the shadow stage, and in the canary stage before its first step: while it waits for an approval or
    the end of a freeze. ``asked_by`` started it.

    ``unmeasured`` counts, for each metric that could not be measured at the last judgement, how many times in a row.

    ``spans`` are the weights so far with their beginnings; ``declared`` is the declaration it started with, so that a
    later change of the module does not move the goal of a rollout under way.
    """

    id: str
    model: str
    candidate: str
    candidate_version: int
    champion: str
    champion_version: int
    declared: Rollout
    stage: Literal["shadow", "canary"]
    step: int
    weight: float
    status: Status
    started_at: datetime
    step_started_at: datetime
    exposed_units: int = 0
    step_units: int = 0
    unmeasured: dict[str, int] = {}
    asked_by: str = ""
    approved_by: str = ""
    verdict: str = ""
    reason: str = ""
    spans: tuple[Span, ...] = ()

    @property
    def over(self) -> bool:
        """True when nothing can happen to it any more."""
        return self.status in TERMINAL

    @property
    def deciding(self) -> bool:
        """True where going on means winning: at the last weight below 100, or in the only stage of a shadow."""
        weights = self.declared.weights
        last = self.step + 1 >= len(weights) or weights[self.step + 1] >= 100
        return last or self.declared.strategy == "shadow"

    @property
    def waits_for_approval(self) -> bool:
        """True while only a person's word is missing for the first unit to be exposed."""
        return self.status == "paused" and bool(self.declared.approval) and not self.approved_by and self.step == -1

    @property
    def subject(self) -> str:
        """The subject of its events."""
        return f"rollout:{self.id}"


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate units: labelled ones in the present step (in the shadow stage: replayed ones), and all ever exposed."""

    step_units: int
    total_units: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What follows: the new state, the events to record, and when to look again (None: at the next tick)."""

    state: RolloutState
    drafts: tuple[Draft, ...] = ()
    wake_at: datetime | None = None


def draft(
    kind: str,
    state: RolloutState,
    now: datetime,
    why: str,
    *,
    actor: str = "work",
    evidence: dict[str, Any] | None = None,
) -> Draft:
    """The event of a change: it holds the whole state after it, so a projection is the last event's payload.

    Its key makes a decision that is taken twice (after a crash) one event.
    """
    payload = {"model": state.model, "state": msgspec.to_builtins(state), "evidence": evidence or {}}
    key = f"{state.id}|{kind}|{state.step}|{now.isoformat()}"
    return Draft(kind=kind, subject=state.subject, at=now, actor=actor, why=why, payload=payload, key=key)


def start(
    declared: Rollout,
    rollout_id: str,
    model: str,
    candidate: tuple[str, int],
    champion: tuple[str, int],
    now: datetime,
    *,
    actor: str = "work",
    why: str = "",
    frozen: str = "",
) -> Decision:
    """The first state of a rollout; pure.

    Parameters
    ----------
    candidate, champion : revision and version.
    frozen : why no unit may be exposed now; it begins in shadow, or waits for the end of the freeze.

    Raises
    ------
    DeclarationError : candidate and champion are one revision.
    """
    if candidate[0] == champion[0]:
        raise DeclarationError(f"rollout: revision {candidate[0]} is the champion of {model} already.")
    shadow = declared.shadow is not None
    waits = bool(declared.approval) and not shadow
    begins = not (shadow or waits or frozen)
    weight = declared.weights[0] if begins else 0.0
    state = RolloutState(
        id=rollout_id,
        model=model,
        candidate=candidate[0],
        candidate_version=candidate[1],
        champion=champion[0],
        champion_version=champion[1],
        declared=declared,
        stage="shadow" if shadow else "canary",
        step=0 if begins else -1,
        weight=weight,
        status="paused" if waits else "running",
        started_at=now,
        step_started_at=now,
        reason="waits for approval" if waits else f"frozen: {frozen}" if frozen and not shadow else "",
        asked_by=actor,
        spans=(Span(weight, now),) if begins else (),
    )
    text = why or f"version {candidate[1]} against version {champion[1]}, {_place(state)}"
    return Decision(state=state, drafts=(draft("rollout.started", state, now, text, actor=actor),), wake_at=_due(state))


def reconcile(
    declared: Rollout, state: RolloutState, report: Report, exposure: Exposure, now: datetime, *, frozen: str = ""
) -> Decision:
    """Decide what a judgement means; pure.

    A FAIL rolls back at once, also while paused. Only PASS, with the step's time and units, advances. ERROR in a row
    pauses. Past ``maximum`` the declared end comes.

    Parameters
    ----------
    report : findings of this tick; none at all is INCONCLUSIVE.
    exposure : units behind it.
    frozen : why nothing may advance now (an incident of the feed, a freeze window); empty if it may. Never hinders a
        roll-back.
    """
    if state.over:
        return Decision(state=state)
    verdict = report.verdict
    seen = msgspec.structs.replace(
        state,
        exposed_units=max(state.exposed_units, exposure.total_units),
        step_units=exposure.step_units,
        unmeasured=_unmeasured(state, report),
        verdict=verdict.name,
    )
    evidence = _evidence(report, exposure)
    if verdict is Verdict.FAIL:
        worst = report.worse_than(Verdict.ERROR)[0]
        return _end(seen, "rolled_back", f"{worst.why}{report.place_of(worst)}; {_exposed(seen)}", now, evidence)
    if seen.status == "paused":
        return _hold(seen, state.reason, now, evidence)
    if seen.stage == "canary" and seen.step < 0:  # nobody is exposed yet, so there is nothing to judge
        if frozen:
            return _hold(seen, f"frozen: {frozen}", now, evidence)
        state = first_step(seen, now)
        text = f"the first units at {state.weight:g} %"
        made = draft("rollout.advanced", state, now, text, evidence=evidence)
        return Decision(state=state, drafts=(made,), wake_at=_due(state))
    for broken in report.worse_than(Verdict.INCONCLUSIVE):
        times = seen.unmeasured[_measured(broken)]
        if times >= declared.blind_ticks:
            return _pause(seen, f"could not be measured {times} times in a row: {broken.why}", now, evidence)
    stage = _stage(declared, seen)
    waited, needed = now - seen.step_started_at, duration(stage.hold)
    ready = verdict is Verdict.PASS and waited >= needed and exposure.step_units >= stage.minimum_units
    if ready and not frozen:
        return _advance(declared, seen, now, evidence)
    if now - seen.started_at >= duration(declared.maximum):
        return _time_out(declared, seen, verdict, now, evidence, frozen)
    if frozen and ready:
        why = f"frozen: {frozen}"
    elif verdict is not Verdict.PASS:
        why = next(iter(report.worse_than(Verdict.PASS))).why if report.findings else "nothing could be judged yet"
    elif exposure.step_units < stage.minimum_units:
        why = f"{exposure.step_units} of {stage.minimum_units} labelled units at this step"
    else:
        why = f"held {_span(waited)} of {stage.hold}"
    return _hold(seen, why, now, evidence)


def _measured(finding: Finding) -> str:
    """What a finding measures, and where."""
    seen = finding.measurement
    return seen.name if seen.where == "all" else f"{seen.name}, {seen.where}"


def _unmeasured(state: RolloutState, report: Report) -> dict[str, int]:
    """How often in a row each metric could not be measured; one that was measured in between begins again at none."""
    broken = {_measured(f) for f in report.findings if f.verdict is Verdict.ERROR}
    return {name: state.unmeasured.get(name, 0) + 1 for name in sorted(broken)}


def first_step(state: RolloutState, now: datetime) -> RolloutState:
    """The state in which the first units are exposed, of one that waited for that."""
    weight = state.declared.weights[0]
    return msgspec.structs.replace(
        state,
        stage="canary",
        status="running",
        reason="",
        step=0,
        weight=weight,
        step_started_at=now,
        spans=(*state.spans, Span(weight, now)),
    )


def _stage(declared: Rollout, state: RolloutState) -> Stage:
    if state.stage == "shadow" and declared.shadow is not None:
        return declared.shadow
    return Stage(hold=declared.hold, minimum_units=declared.minimum_units)


def _place(state: RolloutState) -> str:
    return "in shadow" if state.stage == "shadow" else f"at {state.weight:g} %"


def _exposed(state: RolloutState) -> str:
    return f"{state.exposed_units} units were exposed"


def _span(span: timedelta) -> str:
    days, rest = divmod(int(span.total_seconds()), 86400)
    return f"{days}d {rest // 3600}h" if days else f"{rest // 3600}h {rest % 3600 // 60}m"


def _due(state: RolloutState) -> datetime:
    return state.step_started_at + duration(_stage(state.declared, state).hold)


def _evidence(report: Report, exposure: Exposure) -> dict[str, Any]:
    """What the log keeps of a judgement: every finding that is not PASS, the passing ones over all, and the counts."""
    kept = [f for f in report.findings if f.verdict > Verdict.PASS or not f.measurement.segment]
    return {
        "verdict": report.verdict.name,
        "findings": [
            {
                "verdict": f.verdict.name,
                "why": f.why,
                "where": f.measurement.where,
                "measurement": msgspec.to_builtins(f.measurement),
            }
            for f in kept
        ],
        "judged": len(report.findings),
        "units": exposure.step_units,
        "exposed_units": exposure.total_units,
        "facts": report.facts,
    }


def _hold(state: RolloutState, why: str, now: datetime, evidence: dict[str, Any]) -> Decision:
    state = msgspec.structs.replace(state, reason=why)
    due = _due(state)
    wake_at = due if state.status == "running" and due > now else None
    return Decision(
        state=state,
        drafts=(draft("rollout.judged", state, now, f"hold {_place(state)}: {why}", evidence=evidence),),
        wake_at=wake_at,
    )


def _pause(state: RolloutState, why: str, now: datetime, evidence: dict[str, Any]) -> Decision:
    state = msgspec.structs.replace(state, status="paused", reason=why)
    return Decision(state=state, drafts=(draft("rollout.paused", state, now, why, evidence=evidence),))


def _end(state: RolloutState, status: Status, why: str, now: datetime, evidence: dict[str, Any]) -> Decision:
    weight = 100.0 if status == "succeeded" else 0.0
    spans = (*state.spans, Span(weight, now))
    state = msgspec.structs.replace(
        state, status=status, weight=weight, reason=why, step_started_at=now, step_units=0, spans=spans
    )
    return Decision(state=state, drafts=(draft(f"rollout.{status}", state, now, why, evidence=evidence),))


def go_on(state: RolloutState, now: datetime, why: str, *, kind: str, actor: str) -> Decision:
    """The next weight without a judgement, as a person may want it; pure. Where that would be winning see people.py."""
    after = _advance(state.declared, state, now, {}, why).state
    return Decision(state=after, drafts=(draft(kind, after, now, why, actor=actor),), wake_at=_due(after))


def _advance(
    declared: Rollout, state: RolloutState, now: datetime, evidence: dict[str, Any], why: str = ""
) -> Decision:
    weights = declared.weights
    after_shadow = state.stage == "shadow"
    if after_shadow and declared.approval and not state.approved_by:
        return _pause(state, "waits for approval: the shadow stage passed", now, evidence)
    step = state.step + 1
    wins = declared.strategy == "shadow" or step >= len(weights) or weights[step] >= 100
    if wins:
        state = msgspec.structs.replace(state, stage="canary", step=min(step, len(weights) - 1))
        text = why or f"every guardrail held; {_exposed(state)} before it won"
        return _end(state, "succeeded", text, now, evidence)
    weight = weights[step]
    text = why or f"every guardrail held {_place(state)} over {state.step_units} units: on to {weight:g} %"
    state = msgspec.structs.replace(
        state,
        stage="canary",
        step=step,
        weight=weight,
        step_started_at=now,
        step_units=0,
        reason="",
        spans=(*state.spans, Span(weight, now)),
    )
    return Decision(
        state=state, drafts=(draft("rollout.advanced", state, now, text, evidence=evidence),), wake_at=_due(state)
    )


def _time_out(
    declared: Rollout,
    state: RolloutState,
    verdict: Verdict,
    now: datetime,
    evidence: dict[str, Any],
    frozen: str,
) -> Decision:
    why = f"no decision within {declared.maximum} (last verdict {verdict.name})"
    if declared.on_timeout == "roll_back":
        return _end(state, "rolled_back", f"{why}; {_exposed(state)}", now, evidence)
    measured = verdict <= Verdict.INCONCLUSIVE and state.step_units > 0
    if frozen and declared.on_timeout == "promote":
        return _hold(state, f"{why}; frozen: {frozen}", now, evidence)
    if declared.on_timeout == "promote" and measured and (not declared.approval or state.approved_by):
        return _end(state, "succeeded", f"{why}, and the declaration says to promote", now, evidence)
    return _pause(state, why, now, evidence)
