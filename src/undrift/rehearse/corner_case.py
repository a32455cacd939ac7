"""Story 10: a corner case that training never saw."""

from __future__ import annotations

import numpy as np

from undrift.rehearse.scenario import Row, Scenario, Sighting, Stage

__all__ = ["CornerCase"]


class CornerCase(Scenario):
    """A few rows lie far outside of anything in training."""

    name = "corner_case"
    story = 10
    title = "a corner case never seen in training"
    truth = "three rows in a hundred have a number far outside the range of training"

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """A number of the request, three spans above the highest seen."""
        rng = np.random.default_rng([stage.seed, stage.day, 10])
        columns = self._columns(stage)
        numbers = stage.columns.numbers(columns[0])
        far = numbers.max() + 3 * strength * max(float(np.ptp(numbers)), 1.0)
        for number in np.flatnonzero(rng.random(len(rows)) < 0.03):
            rows[number].put(columns[0], stage.columns.like(columns[0], far))
        return rows

    @staticmethod
    def _columns(stage: Stage) -> list[str]:
        ranged = {f.name for f in stage.interface.contract.fields if f.maximum is not None}
        return [name for name in stage.columns.numeric if name in ranged]

    def missing(self, stage: Stage) -> str:
        """Without ranges in the contract nothing is outside of them."""
        return "" if self._columns(stage) else "the contract states no range of a number that the model takes"

    def sighting(self, stage: Stage) -> Sighting | None:
        """The contract flags or refuses them, row by row."""
        return stage.at_the_door(0.9)
