"""Story 11: retrained on what is frequent lately, a candidate forgets the long tail."""

from __future__ import annotations

from typing import Any

from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["ForgetsLongTail"]


class ForgetsLongTail(Scenario):
    """A candidate learns from days in which nearly all traffic was of the most frequent group."""

    name = "forgets_long_tail"
    story = 11
    title = "a candidate that forgot the long tail"
    truth = "in the days the candidate learns from, the rows of all other groups are replaced by frequent ones"
    candidate = True
    teaches = 7

    def lesson(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Each rare row (a share of them below strength 1) is one of the frequent group instead."""
        frequent = [row for row in stage.pool if not self._rare(row, stage)]
        for number, row in enumerate(rows):
            if frequent and self._rare(row, stage) and (number * 0.618) % 1 < strength:
                rows[number] = frequent[(stage.day * 7919 + number) % len(frequent)].again()
        return rows

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Which rows would be hit."""
        for row in rows:
            row.touched = self._rare(row, stage)
        return rows

    @staticmethod
    def _rare(row: Row, stage: Stage) -> bool:
        return not stage.columns.groups()[0].holds(row)

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """The wrong answer for all the rest, by a twin; one that was trained needs no help."""
        if stage.trained:
            return given
        hit = [revision == stage.candidate and row.touched for row in rows]
        return stage.columns.wrong_answers(given, hit, lambda row: self._rare(row, stage), strength)
