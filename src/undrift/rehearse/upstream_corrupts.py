"""Story 4: the pipeline upstream corrupts a column: another unit, Fahrenheit to Celsius where none is declared."""

from __future__ import annotations

from typing import Any

from undrift.monitor.jumps import conversions_from
from undrift.rehearse.scenario import Row, Scenario, Sighting, Stage
from undrift.stats.units import CONVERSIONS

__all__ = ["UpstreamCorrupts"]


class UpstreamCorrupts(Scenario):
    """A number arrives in another unit: in the feed, and so in every request that looks it up."""

    name = "upstream_corrupts"
    story = 4
    title = "an upstream pipeline changes a unit"
    truth = "one number is scaled, in its source where it has one, for all rows"
    kinds = ("feed", "silent", "integrity", "drift")

    def __init__(self) -> None:
        self._column, self._line = "", CONVERSIONS["Fahrenheit to Celsius"]

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """The column that matters most, of a source if there is one, in another unit."""
        mine = [n for n in stage.columns.numeric if stage.columns.sourced.get(n) in stage.material.sources]
        if not self._column:
            self._column = (mine or stage.columns.numeric)[0]
            self._line = self._another(stage.columns.units.get(self._column, "")) or self._line
        for row in rows:
            value = row.value(self._column)
            if value is not None:
                row.put(self._column, stage.columns.like(self._column, self._other(value, strength)))
        return rows

    def spoil(self, column: str, value: Any, strength: float) -> Any:
        """The same in the rows of the source."""
        touched = column == self._column and isinstance(value, int | float)
        return self._other(value, strength) if touched else value

    def _other(self, value: float, strength: float) -> float:
        """In another unit at the default strength, half or twice as far from the truth at others."""
        scale, offset = self._line
        return value + strength * (scale * value + offset - value)

    @staticmethod
    def _another(unit: str) -> tuple[float, float] | None:
        """Scale and offset to a unit that is used beside the declared one; None where none is known or declared."""
        named = {text: line for text, line in conversions_from(unit).items() if not text.startswith(("times", "sign"))}
        return next(iter(named.values()), None) if unit else None

    def sighting(self, stage: Stage) -> Sighting | None:
        """An incident, or the contract at the door."""
        return stage.incident(self.kinds) or stage.at_the_door()
