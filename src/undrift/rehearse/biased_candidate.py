"""Story 9: a candidate learnt from biased data treats one group worse."""

from __future__ import annotations

from typing import Any

import numpy as np

from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["BiasedCandidate"]


class BiasedCandidate(Scenario):
    """The rows a candidate learns from carry a prejudice against one group; those it meets afterwards do not."""

    name = "biased_candidate"
    story = 9
    title = "a candidate that learnt a bias"
    truth = "outcomes of the largest group are turned in the days the candidate learns from, and true ever after"
    candidate = True
    teaches = 7

    def lesson(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Most members of the group have another outcome than they had."""
        rng = np.random.default_rng([stage.seed, stage.day, 9])
        group = stage.columns.groups()[0]
        hit = [row for row in rows if group.holds(row) and rng.random() < min(1.0, 0.9 * strength)]
        return stage.columns.other_labels(hit, rows, rng)

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Which rows would be hit."""
        group = stage.columns.groups()[0]
        for row in rows:
            row.touched = group.holds(row)
        return rows

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """The wrong answer for the group, by a twin; one that was trained needs no help."""
        if stage.trained:
            return given
        hit = [revision == stage.candidate and row.touched for row in rows]
        return stage.columns.wrong_answers(given, hit, stage.columns.groups()[0].holds, strength)
