"""The year as one drawing: what was planted, who was champion, which rollouts, retrains and incidents there were.

Where things would overlap they get a row of their own; names stand in, behind or before what they name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from undrift.demo.chronicle import Trial, moment, reigns, trials, troubles
from undrift.demo.drawing import Drawing, Mark, Packer, box, fit, label, line, width_of
from undrift.demo.story import Story
from undrift.event import Event

__all__ = ["timeline"]

GUTTER: Final = 92.0
HEAD: Final = 24.0
ROW: Final = 22.0
BAND: Final = 26.0
STEPS: Final = 40.0
"""Height of a rollout at 100 %."""
SPACE: Final = 16.0
PAD: Final = 6.0
SHADES: Final = 5
"""How many shades the style sheet has for champions."""
ENDINGS: Final = {
    "succeeded": "champion",
    "rolled_back": "rolled back",
    "aborted": "ended by a person",
    "running": "under way",
    "paused": "waits for a person",
}


_Lane = tuple[list[Mark], float]
"""Marks and the height that they need."""


class _Planted(NamedTuple):
    title: str
    start: datetime
    end: datetime


class _Placed(NamedTuple):
    """Where the name of a span goes, and the pixels that both take together."""

    text: str
    x: float
    anchor: str
    inside: bool
    start: float
    end: float


class _Axis(NamedTuple):
    start: datetime
    end: datetime
    width: float

    def x(self, at: datetime) -> float:
        share = (min(max(at, self.start), self.end) - self.start) / (self.end - self.start)
        return GUTTER + share * (self.width - GUTTER - 1)


def timeline(events: Sequence[Event], story: Story, width: float) -> Drawing:
    """The drawing, ``width`` pixels wide and as high as it needs."""
    axis = _Axis(story.start, story.end, width)
    runs = trials(events, story)
    planted = _planted(story, runs)
    marks: list[Mark] = []
    y = HEAD
    lanes: dict[str, Callable[[float], _Lane]] = {
        "planted": lambda top: _faults(planted, axis, top),
        "champion": lambda top: _champions(events, story, axis, top),
        "rollouts": lambda top: _rollouts(runs, axis, top),
        "retrains": lambda top: _retrains(events, story, axis, top),
        "incidents": lambda top: _incidents(events, story, axis, top),
    }
    for name, draw in lanes.items():
        drawn, height = draw(y)
        marks.append(label("lane", 0, y + 16, name))
        marks += drawn or [label("axis small", GUTTER, y + 16, "none")]
        y += max(height, ROW) + SPACE
    months = _months(axis, y - SPACE)
    shades = [box("fault", axis.x(f.start), HEAD, axis.x(f.end) - axis.x(f.start), y - SPACE - HEAD) for f in planted]
    return Drawing("What was planted and what undrift did, by day", width, y, (*months, *shades, *marks))


def _planted(story: Story, runs: Sequence[Trial]) -> list[_Planted]:
    """The faults of fixed date, and the candidate that a person released, from its first live traffic to its end."""
    found = [_Planted(fault.title, fault.start, fault.end) for fault in story.faults]
    for run in runs:
        live = [step for step in run.steps if step.weight > 0]
        if run.asked_by != "work" and live:
            found.append(_Planted(f"candidate wrong for {story.carrier}", live[0].start, live[-1].end))
    return sorted(found, key=lambda fault: fault.start)


def _months(axis: _Axis, bottom: float) -> list[Mark]:
    marks: list[Mark] = []
    at = axis.start
    while at < axis.end:
        after = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
        middle = (axis.x(at) + axis.x(after)) / 2
        marks.append(line("grid", [(axis.x(at), HEAD - 6), (axis.x(at), bottom)]))
        marks.append(label("axis small", middle, 12, f"{at:%b}" if at.month > 1 else f"{at:%b %Y}", "middle"))
        at = after
    return marks


def _name(text: str, start: float, end: float, axis: _Axis, *, within: bool = True) -> _Placed:
    """Inside (if it may) where it fits, else behind, else before, else shortened where there is most room."""
    wide = width_of(text)
    space = end - start if within else 0.0
    if wide + 2 * PAD <= space:
        return _Placed(text, start + PAD, "start", True, start, end)
    behind, before = axis.width - end - PAD, start - GUTTER - PAD
    if wide <= behind or (wide > before and behind >= max(before, space)):
        text = fit(text, behind)
        return _Placed(text, end + PAD, "start", False, start, end + PAD + width_of(text))
    if wide <= before or before >= space:
        text = fit(text, before)
        return _Placed(text, start - PAD, "end", False, start - PAD - width_of(text), end)
    return _Placed(fit(text, end - start - 2 * PAD), start + PAD, "start", True, start, end)


def _faults(planted: Sequence[_Planted], axis: _Axis, top: float) -> _Lane:
    marks: list[Mark] = []
    rows = Packer()
    for fault in planted:
        start, end = axis.x(fault.start), axis.x(fault.end)
        placed = _name(fault.title, start, end, axis)
        y = top + rows.place(placed.start, placed.end) * ROW
        tip = f"{fault.title}, {_dates(fault.start, fault.end)}"
        marks.append(box("planted", start, y + 3, end - start, ROW - 6, tip))
        marks.append(label("name-in" if placed.inside else "name", placed.x, y + 15, placed.text, placed.anchor, tip))
    return marks, rows.rows * ROW


def _champions(events: Sequence[Event], story: Story, axis: _Axis, top: float) -> _Lane:
    marks: list[Mark] = []
    for place, reign in enumerate(reigns(events, story)):
        start, end = axis.x(reign.start), axis.x(reign.end)
        tip = f"version {reign.version} is champion, {_dates(reign.start, reign.end)}"
        marks.append(box(f"reign shade{place % SHADES}", start, top, end - start - 1.5, BAND, tip))
        long, short = f"version {reign.version}", f"{reign.version}"
        room = end - start - 2 * PAD
        told = long if width_of(long) <= room else short if width_of(short) <= room + PAD else ""
        if told:
            marks.append(label("on-reign", (start + end) / 2, top + 17, told, "middle", tip))
    return marks, BAND


def _rollouts(runs: Sequence[Trial], axis: _Axis, top: float) -> _Lane:
    """Each weight as a block of its height; the shadow stage, that takes no traffic, as a frame."""
    marks: list[Mark] = []
    rows = Packer()
    for run in runs:
        start, end = axis.x(run.start), max(axis.x(run.end), axis.x(run.start) + 3)
        most = max(step.weight for step in run.steps)
        last = run.steps[-1].weight
        told = f"v{run.version} {ENDINGS[run.status]}"
        if run.status == "rolled_back":
            told += f" at {last:g} %" if last else " in shadow"
        placed = _name(told, start, end, axis, within=False)
        row = rows.place(placed.start, placed.end)
        floor = top + (row + 1) * (STEPS + PAD) - PAD
        for step in run.steps:
            left, right = axis.x(step.start), axis.x(step.end)
            where = f"{step.weight:g} % of flights" if step.weight else "in shadow, no traffic"
            tip = f"version {run.version} against {run.against}: {where}, {_dates(step.start, step.end)}"
            tall = max(STEPS * step.weight / 100, 3.0) if step.weight else STEPS * 0.3
            css = f"trial {run.status}" if step.weight else "shadow"
            marks.append(box(css, left, floor - tall, right - left - 0.5, tall, tip))
        tip = f"version {run.version}, up to {most:g} %, {run.exposed:,} flights exposed: {run.reason}"
        marks.append(label("name", placed.x, floor - 2, placed.text, placed.anchor, tip))
    return marks, rows.rows * (STEPS + PAD)


def _retrains(events: Sequence[Event], story: Story, axis: _Axis, top: float) -> _Lane:
    """One sign per retrain: accepted, refused by the gate, or not tried at all."""
    marks: list[Mark] = []
    for event in events:
        at = moment(event, story)
        if event.kind not in ("retrain.finished", "retrain.refused") or at is None:
            continue
        tip = f"{at:%Y-%m-%d}: {event.why}"
        if event.kind == "retrain.refused":
            marks.append(box("not-tried", axis.x(at) - 1, top + 4, 2, 14, tip))
        else:
            css = "accepted" if event.payload.get("accepted") else "refused"
            marks.append(Mark("dot", css, round(axis.x(at), 1), top + 11, w=5, tip=tip))
    return marks, ROW


def _incidents(events: Sequence[Event], story: Story, axis: _Axis, top: float) -> _Lane:
    marks: list[Mark] = []
    rows = Packer()
    for one in troubles(events, story):
        start, end = axis.x(one.start), max(axis.x(one.end), axis.x(one.start) + 2)
        placed = _name(f"{one.monitor}: {one.title}", start, end, axis)
        y = top + rows.place(placed.start, placed.end) * ROW
        until = f"resolved {one.end:%Y-%m-%d}" if one.resolved else "still open at the end"
        tip = f"{one.monitor} ({one.severity}): {one.title}; {one.start:%Y-%m-%d}, {until}"
        marks.append(box(f"incident {one.kind}", start, y + 2, end - start, ROW - 4, tip))
        marks.append(label("name-in" if placed.inside else "name", placed.x, y + 15, placed.text, placed.anchor, tip))
    return marks, rows.rows * ROW


def _dates(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%d} to {end:%Y-%m-%d}"
