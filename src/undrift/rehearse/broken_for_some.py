"""Story 14: a canary that is broken for some users only."""

from __future__ import annotations

from typing import Any

from undrift.errors import PredictionError
from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["BrokenForSome"]


class BrokenForSome(Scenario):
    """A candidate fails on the rows of one group; the champion answers them, and nobody else notices."""

    name = "broken_for_some"
    story = 14
    title = "a canary broken for some users"
    truth = "the candidate raises an error on the rows of one group"
    candidate = True

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Which rows would be hit."""
        group = stage.columns.middling()
        for row in rows:
            row.touched = group.holds(row)
        return rows

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """An error for the group, by the candidate only."""
        if revision == stage.candidate and any(row.touched for row in rows):
            raise PredictionError("rehearsed failure")
        return given
