"""What undrift found against what was true: decisions with their evidence, and quality month by month.

What is true of planted faults stands in story.py; whether anything else was right is asked of truth.py, which uses
other code and more rows than the monitors do. Nothing here depends on the clock on the wall: a seed gives one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from undrift.demo.chronicle import champion_at, reigns
from undrift.demo.story import DAY, Fault, Story
from undrift.demo.truth import Gain, Known, Month, Truth
from undrift.event import Event

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Month", "Row", "Scoreboard", "build_scoreboard"]

PRACTICAL_DRIFT: Final = 0.15
"""Distance to training from which a column did move in the four weeks around an alert: a week of rain is no drift."""
PRACTICAL_DECAY: Final = 0.05
PRACTICAL_MISSING: Final = 0.3
PRACTICAL_TRAFFIC: Final = 0.5
AROUND: Final = 14 * DAY
AFTERWARDS: Final = 28 * DAY
"""How long after a rollout both versions are compared on the same flights."""
ECHO: Final = 10 * DAY
"""How long after a fault's end an alert may still be about it: units that go back are a change too."""
RELEASED_SOURCE: Final = "carrier_delays"
DECISIONS: Final = {
    "retrain.refused": "retrain refused",
    "retrain.finished": "retrain",
    "rollout.succeeded": "rollout won",
    "rollout.rolled_back": "rolled back",
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table of decisions; ``evidence`` is the first figure that undrift's log gives for what it did."""

    at: str
    what: str
    truth: str
    undrift: str
    delay: str
    exposed: str
    verdict: str
    evidence: str = ""


class Scoreboard(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run.

    ``served`` and ``never`` are mean log losses over all flights with an outcome, as served and had the first model
    never been updated; ``gain`` is what the updates saved over the whole run, ``final_gain`` since the last challenger
    became champion; ``final_served`` and ``final_never`` are of the last month.
    """

    rows: tuple[Row, ...]
    months: tuple[Month, ...]
    false_alarms: int
    budget: float
    caught: int
    planted: int
    served: float
    never: float
    gain: Gain
    final_gain: Gain
    final_served: float
    final_never: float
    predictions: int
    promoted: int
    refused: int

    @property
    def sound(self) -> bool:
        """Every planted fault caught, false alarms within the budget."""
        return self.caught == self.planted and self.false_alarms <= self.budget

    @property
    def good(self) -> bool:
        """Sound, and the last month better than had the first model never been updated."""
        return self.sound and self.final_served < self.final_never


def build_scoreboard(
    story: Story,
    events: Sequence[Event],
    rows: pa.Table,
    versions: Mapping[int, Known],
    release: str,
    spoiled: datetime | None,
    budget: float,
) -> Scoreboard:
    """Compare the log of a run with the truth.

    Parameters
    ----------
    rows : all predictions with their outcomes.
    versions : every version by number; 1 is what would have been without updates.
    release : id of the colleague's rollout, empty if its gate did not pass; ``spoiled`` since when it was broken.
    budget : false alarms that the declared monitors may raise in the time of the run.
    """
    truth = Truth(story, rows, versions)
    champions = reigns(events, story)
    planted = [
        *(_fault(fault, events, truth) for fault in story.faults),
        _release(story, events, release, spoiled),
    ]
    lines = [line for line, _ in planted]
    false_alarms = 0
    for event in events:
        if event.kind != "alert.opened":
            continue
        incident = event.payload["incident"]
        if any(_about(incident, event.at, fault) for fault in story.faults):
            continue
        if _about_release(incident, event.at, spoiled):
            continue
        told, right = _truth_of(incident, event.at, truth, champion_at(champions, event.at - DAY))
        false_alarms += not right
        lines.append(_alert(event, told, right))
    others = [event for event in events if event.subject != f"rollout:{release}"]
    lines += [_decision(event, truth) for event in others if event.kind in DECISIONS]
    months = truth.months(champions)
    known = np.isfinite(truth.loss)
    served, never = ((float(loss[known].mean()) if known.any() else float("nan")) for loss in (truth.loss, truth.never))
    return Scoreboard(
        rows=tuple(sorted(lines, key=lambda line: (line.at, line.what))),
        months=months,
        false_alarms=false_alarms,
        budget=budget,
        caught=sum(found for _, found in planted),
        planted=len(planted),
        served=served,
        never=never,
        gain=truth.gain(story.start),
        final_gain=truth.gain(champions[-1].start),
        final_served=months[-1].served if months else float("nan"),
        final_never=months[-1].never if months else float("nan"),
        predictions=rows.num_rows,
        promoted=sum(event.kind == "rollout.succeeded" for event in others),
        refused=sum(
            event.kind == "retrain.refused" or (event.kind == "retrain.finished" and not event.payload.get("accepted"))
            for event in events
        ),
    )


# -- planted faults -------------------------------------------------------------------------------------------------


def _about(incident: dict[str, Any], at: datetime, fault: Fault) -> bool:
    """A tick judges what came before it, so nothing at the very start of a fault is about the fault."""
    of_source = not fault.source or incident["source"] == fault.source
    return incident["kind"] == fault.kind and of_source and fault.start < at <= fault.end + ECHO


def _about_release(incident: dict[str, Any], at: datetime, spoiled: datetime | None) -> bool:
    return incident["source"] == RELEASED_SOURCE and spoiled is not None and at > spoiled


def _fault(fault: Fault, events: Sequence[Event], truth: Truth) -> tuple[Row, bool]:
    """Caught: while it lasted (the tick after its last day included), an alert said what it is."""
    told = [
        event
        for event in events
        if event.kind in ("alert.opened", "alert.updated")
        and fault.start < event.at <= fault.end
        and _about(event.payload["incident"], event.at, fault)
    ]
    naming = [e for e in told if any(word.lower() in e.why.lower() for word in fault.names)]
    line = Row(
        at=f"{fault.start:%Y-%m-%d}",
        what="planted fault",
        truth=f"{fault.title}, until {fault.end:%Y-%m-%d}",
        undrift="nothing",
        delay="",
        exposed=f"{truth.asked(fault.start, fault.end):,}",
        verdict="MISSED",
    )
    if not told:
        return line, False
    event = naming[0] if naming else told[0]
    return msgspec.structs.replace(
        line,
        undrift=f"alert: {_short(event.why)}",
        delay=_days(event.at - fault.start),
        exposed=f"{truth.asked(fault.start, event.at):,}",
        evidence=_evidence(event),
        verdict="caught" if naming else "NOT NAMED",
    ), bool(naming)


def _release(story: Story, events: Sequence[Event], release: str, spoiled: datetime | None) -> tuple[Row, bool]:
    """Caught: a guardrail failed and the candidate was rolled back, after it had broken."""
    line = Row(
        at=f"{spoiled or story.release:%Y-%m-%d}",
        what="planted fault",
        truth=f"a candidate that passed the gate is wrong online for {story.carrier}",
        undrift="no decision" if release else "the candidate did not pass the gate",
        delay="",
        exposed="",
        verdict="MISSED",
    )
    ended = [
        event
        for event in events
        if release
        and event.subject == f"rollout:{release}"
        and event.kind in ("rollout.rolled_back", "rollout.succeeded")
    ]
    if not ended:
        return line, False
    event = ended[0]
    state = event.payload["state"]
    failed = [f for f in event.payload["evidence"].get("findings", ()) if f["verdict"] == "FAIL"]
    back = event.kind == "rollout.rolled_back"
    found = back and bool(failed) and spoiled is not None and event.at > spoiled
    named = any(f"carrier={story.carrier}" in f["where"] for f in failed)
    done = f"rolled back {_from_weight(state)}" if back else "became champion"
    return msgspec.structs.replace(
        line,
        undrift=f"{done}: {_short(event.why)}",
        delay=_days(event.at - spoiled) if found and spoiled is not None else "",
        exposed=f"{state['exposed_units']:,}",
        evidence=_evidence(event),
        verdict=("caught" if named else "caught, wide") if found else "MISSED",
    ), found


def _from_weight(state: dict[str, Any]) -> str:
    """The weight it had before the end, which is the last span."""
    return f"at {state['spans'][-2]['weight']:g} %" if len(state["spans"]) > 1 else "in shadow"


# -- everything else ---------------------------------------------------------------------------------------------------


def _alert(event: Event, told: str, right: bool) -> Row:
    return Row(
        at=f"{event.at:%Y-%m-%d}",
        what=f"alert: {event.payload['incident']['monitor']}",
        truth=told,
        undrift=_short(event.why),
        delay="",
        exposed="",
        evidence=_evidence(event),
        verdict="true" if right else "FALSE ALARM",
    )


def _decision(event: Event, truth: Truth) -> Row:
    told, verdict = "", ""
    exposed = ""
    if event.kind.startswith("rollout."):
        state = event.payload["state"]
        exposed = f"{state['exposed_units']:,}"
        told, verdict = _worth(event, truth)
    return Row(
        at=f"{event.at:%Y-%m-%d}",
        what=DECISIONS[event.kind],
        truth=told,
        undrift=_short(event.why),
        delay="",
        exposed=exposed,
        evidence=_evidence(event),
        verdict=verdict,
    )


def _worth(event: Event, truth: Truth) -> tuple[str, str]:
    """Whether the right version won: both on all flights of the weeks after, whoever answered them."""
    state = event.payload["state"]
    new, old = state["candidate_version"], state["champion_version"]
    losses = [truth.loss_of(version, event.at, event.at + AFTERWARDS) for version in (new, old)]
    if losses[0] is None or losses[1] is None:
        return "too few outcomes afterwards to compare", ""
    told = f"loss of the 4 weeks after: {losses[0]:.4f} by version {new}, {losses[1]:.4f} by version {old}"
    better = losses[0] < losses[1]
    return told, "right" if better == (event.kind == "rollout.succeeded") else "WRONG"


def _truth_of(incident: dict[str, Any], at: datetime, truth: Truth, champion: int) -> tuple[str, bool]:
    """Whether an alert that is about no planted fault is true, from raw outcomes and captured inputs."""
    if incident["kind"] == "performance":
        change = truth.decay(champion, at - AROUND, at)
        if change is None:
            return "too few outcomes to say", False
        return f"loss of the 14 days before {change:+.0%} against what was expected", change > PRACTICAL_DECAY
    if incident["kind"] == "drift":
        sizes = {name: truth.moved(champion, name, at - AROUND, at + AROUND) for name in incident["columns"]}
        known = sorted(((size or 0.0, name) for name, size in sizes.items()), reverse=True)
        told = ", ".join(f"{name} {size:.2f}" for size, name in known[:4])
        return f"distance to training in the 4 weeks around: {told}", bool(known) and known[-1][0] > PRACTICAL_DRIFT
    missing = truth.missing(incident["columns"] or truth.inputs_of(champion), at)
    if missing > PRACTICAL_MISSING:
        return f"{missing:.0%} of values were missing that day, in the data as published", True
    traffic = truth.traffic(at)
    if incident["kind"] == "silent" and traffic < PRACTICAL_TRAFFIC:
        return f"traffic was {traffic:.0%} of the usual", True
    return "nothing was planted", False


def _evidence(event: Event) -> str:
    """The figure behind a decision: of an alert or a rollout its worst finding, of a retrain the gate's first."""
    held = event.payload.get("gate") or event.payload.get("evidence") or []
    findings = held.get("findings", []) if isinstance(held, dict) else held
    failed = [f for f in findings if f["verdict"] == "FAIL"]
    for finding in [*failed, *findings]:
        where = finding.get("where", "all")
        return _short(finding["why"] + ("" if where == "all" else f" for {where}"), 240)
    return ""


def _days(span: timedelta) -> str:
    return f"{span.total_seconds() / 86400:.0f} d"


def _short(text: str, most: int = 150) -> str:
    first = text.splitlines()[0] if text else ""
    return first if len(first) <= most else first[: most - 1] + "…"
