"""The event log of a run read as spans of time: who was champion when, which rollouts ran, which incidents were open.

Only read here; what of it was right stands in scoreboard.py, how it is drawn in report.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from undrift.demo.story import DAY, Story
from undrift.event import Event

__all__ = ["Reign", "Step", "Trial", "Trouble", "champion_at", "moment", "reigns", "trials", "troubles"]

TOLD_LATE = 3 * DAY
"""How long after the last day something may still be said about it."""


class Reign(NamedTuple):
    """One version as champion, in [start, end)."""

    version: int
    start: datetime
    end: datetime


class Step(NamedTuple):
    """A part of a rollout with one weight, in per cent of flights; 0 is the shadow stage."""

    weight: float
    start: datetime
    end: datetime


class Trial(NamedTuple):
    """One rollout. ``status`` is ``running`` or ``paused`` where it had not ended; ``asked_by`` is who started it."""

    id: str
    version: int
    against: int
    status: str
    exposed: int
    reason: str
    asked_by: str
    steps: tuple[Step, ...]

    @property
    def start(self) -> datetime:
        """When its first step began."""
        return self.steps[0].start

    @property
    def end(self) -> datetime:
        """When its last step ended."""
        return self.steps[-1].end


class Trouble(NamedTuple):
    """One incident from its alert to its resolution; ``resolved`` is False where the run ended before it did."""

    monitor: str
    kind: str
    severity: str
    title: str
    start: datetime
    end: datetime
    resolved: bool


def moment(event: Event, story: Story) -> datetime | None:
    """When it happened in the time of the story; None for what people did before, by the clock on the wall."""
    return event.at if story.start <= event.at <= story.end + TOLD_LATE else None


def reigns(events: Iterable[Event], story: Story) -> tuple[Reign, ...]:
    """The champions one after the other; the first reigns from the story's start."""
    crowned: list[tuple[int, datetime]] = []
    for event in events:
        if event.kind == "revision.promoted":
            version = int(event.payload["version"])
        elif event.kind == "rollout.succeeded":
            version = int(event.payload["state"]["candidate_version"])
        else:
            continue
        crowned.append((version, moment(event, story) or story.start))
    ends = [*(at for _, at in crowned[1:]), story.end]
    return tuple(
        Reign(version, start, end) for (version, start), end in zip(crowned, ends, strict=False) if end > start
    )


def champion_at(known: Sequence[Reign], at: datetime) -> int:
    """The champion of a moment; 1 before any is known, the last one after the end."""
    begun = [reign.version for reign in known if reign.start <= at]
    return begun[-1] if begun else 1


def trials(events: Iterable[Event], story: Story) -> tuple[Trial, ...]:
    """The rollouts in the order in which they began, as the last event of each tells them."""
    last: dict[str, dict[str, Any]] = {}
    asked: dict[str, str] = {}
    for event in events:
        if event.kind.startswith("rollout."):
            state = event.payload["state"]
            last[state["id"]] = state
            asked.setdefault(state["id"], event.actor)
    found = []
    for state in last.values():
        steps = _steps(state, story)
        if steps:
            found.append(
                Trial(
                    id=state["id"],
                    version=int(state["candidate_version"]),
                    against=int(state["champion_version"]),
                    status=state["status"],
                    exposed=int(state["exposed_units"]),
                    reason=state["reason"],
                    asked_by=asked[state["id"]],
                    steps=steps,
                )
            )
    return tuple(found)


def _steps(state: dict[str, Any], story: Story) -> tuple[Step, ...]:
    """Shadow, then each weight; the last span of a rollout that ended is its end, not a step."""
    spans = [(float(span["weight"]), datetime.fromisoformat(span["start"])) for span in state["spans"]]
    over = state["status"] in ("succeeded", "rolled_back", "aborted")
    end = spans.pop()[1] if over and spans else story.end
    begun = datetime.fromisoformat(state["started_at"])
    if not spans or begun < spans[0][1]:
        spans.insert(0, (0.0, begun))
    stops = [*(start for _, start in spans[1:]), end]
    return tuple(Step(weight, start, stop) for (weight, start), stop in zip(spans, stops, strict=True) if stop > start)


def troubles(events: Iterable[Event], story: Story) -> tuple[Trouble, ...]:
    """The incidents in the order in which they opened, each with the title it had last."""
    found: list[Trouble] = []
    open_now: dict[str, int] = {}
    for event in events:
        if not event.kind.startswith("alert."):
            continue
        incident = event.payload["incident"]
        key = incident["fingerprint"]
        if event.kind == "alert.opened":
            open_now[key] = len(found)
            found.append(
                Trouble(
                    monitor=incident["monitor"],
                    kind=incident["kind"],
                    severity=incident["severity"],
                    title=incident["title"],
                    start=event.at,
                    end=story.end,
                    resolved=False,
                )
            )
        elif key in open_now:
            place = open_now[key]
            resolved = event.kind == "alert.resolved"
            found[place] = found[place]._replace(title=incident["title"], resolved=resolved)
            if resolved:
                found[place] = found[place]._replace(end=event.at)
                del open_now[key]
    return tuple(found)
