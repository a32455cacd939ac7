"""Story 9: a candidate learnt from biased data treats one group worse."""

from __future__ import annotations

from typing import Any

from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["BiasedCandidate"]


class BiasedCandidate(Scenario):
    """A candidate judges the members of one group by a prejudice."""

    name = "biased_candidate"
    story = 9
    title = "a candidate that learnt a bias"
    truth = "the candidate gives the members of the largest group the answer that is rarest among them"
    candidate = True

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Which rows would be hit."""
        group = stage.columns.groups()[0]
        for row in rows:
            row.touched = group.holds(row)
        return rows

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """The wrong answer for the group, by the candidate only."""
        hit = [revision == stage.candidate and row.touched for row in rows]
        return stage.columns.wrong_answers(given, hit, stage.columns.groups()[0].holds, strength)
