"""Story 2: criminals change their scheme: inputs look the same, outcomes do not."""

from __future__ import annotations

import numpy as np

from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["SchemeChanges"]


class SchemeChanges(Scenario):
    """What was sure to be one outcome now is another, for a part of the rows."""

    name = "scheme_changes"
    story = 2
    title = "the scheme changes (concept drift)"
    truth = "inputs are as ever; some rows now have the outcome of rows that are most unlike them"
    kinds = ("performance",)

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """A share of the rows trades outcomes with rows from the other end of the labels."""
        rng = np.random.default_rng([stage.seed, stage.day, 2])
        chosen = np.flatnonzero(rng.random(len(rows)) < min(0.9, 0.4 * strength))
        return stage.columns.other_labels([rows[i] for i in chosen], rows, rng)
