"""Story 11: retrained too often on what is frequent lately, a candidate forgets the long tail."""

from __future__ import annotations

from typing import Any

from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["ForgetsLongTail"]


class ForgetsLongTail(Scenario):
    """A candidate knows the most frequent group, and is wrong on all others."""

    name = "forgets_long_tail"
    story = 11
    title = "a candidate that forgot the long tail"
    truth = "the candidate gives all rows outside the most frequent group an answer that is unlike them"
    candidate = True

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Which rows would be hit."""
        for row in rows:
            row.touched = self._rare(row, stage)
        return rows

    @staticmethod
    def _rare(row: Row, stage: Stage) -> bool:
        return not stage.columns.groups()[0].holds(row)

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """The wrong answer for all the rest, by the candidate only."""
        hit = [revision == stage.candidate and row.touched for row in rows]
        return stage.columns.wrong_answers(given, hit, lambda row: self._rare(row, stage), strength)
