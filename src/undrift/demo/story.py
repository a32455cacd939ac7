"""The story of the demo: its dates, the faults that are planted and what is true of them.

Everything that goes wrong on purpose is written here once: the world plays it, the scoreboard compares it with what
undrift found. Nothing of this is known to the served system.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

__all__ = ["DAY", "FAULTS", "FIRST_DAY", "Fault", "Story", "full_story", "quick_story"]

DAY: Final = timedelta(days=1)
FIRST_DAY: Final = datetime(2013, 4, 1, tzinfo=UTC)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One planted fault.

    ``kind`` is what a monitor or rollout calls it; ``[start, end)`` when it acts, in event time. ``names`` are the
    words of which one must stand in what undrift says, else the cause was not named; ``source`` is the feed it is in.
    """

    name: str
    title: str
    kind: str
    start: datetime
    end: datetime
    names: tuple[str, ...] = ()
    source: str = ""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One run: from when to when, and what is planted.

    ``release`` is the day on which a colleague releases the candidate with a new feature. From the day it first meets
    live traffic its build answers ``broken_score`` to all flights of ``carrier``, in servers only: no offline test
    can see it. Models are trained on every ``learns_from``-th flight of what was known.
    """

    start: datetime
    end: datetime
    release: datetime
    carrier: str
    broken_score: float
    celsius: Fault
    constant: Fault
    constant_score: float = 0.2
    learns_from: int = 1

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults with fixed dates, in order."""
        return (self.celsius, self.constant)


def _on(month: int, day: int) -> datetime:
    return datetime(2013, month, day, tzinfo=UTC)


FAULTS: Final = {
    "celsius": Fault(
        name="celsius",
        title="weather feed changes from Fahrenheit to Celsius",
        kind="feed",
        start=_on(9, 2),
        end=_on(9, 23),
        names=("Fahrenheit to Celsius",),
        source="weather",
    ),
    "constant": Fault(
        name="constant",
        title="model server answers a constant",
        kind="silent",
        start=_on(10, 7),
        end=_on(10, 14),
        names=("constant", "one value", "same"),
    ),
}


def full_story() -> Story:
    """April to December, as long as there is weather."""
    return Story(
        start=FIRST_DAY,
        end=_on(12, 30),
        release=_on(6, 17),
        carrier="UA",
        broken_score=0.98,
        celsius=FAULTS["celsius"],
        constant=FAULTS["constant"],
    )


def quick_story() -> Story:
    """Six weeks of summer, everything planted closer together, and models that learn from every second flight."""
    story = full_story()
    return msgspec.structs.replace(
        story,
        start=_on(6, 14),
        end=_on(7, 29),
        learns_from=2,
        celsius=msgspec.structs.replace(story.celsius, start=_on(7, 8), end=_on(7, 15)),
        constant=msgspec.structs.replace(story.constant, start=_on(7, 22), end=_on(7, 26)),
    )


def celsius(row: dict[str, Any]) -> dict[str, Any]:
    """A weather report after the change of units."""
    changed = {name: None if row[name] is None else (row[name] - 32.0) * 5.0 / 9.0 for name in ("temp", "dewp")}
    return {**row, **changed}
