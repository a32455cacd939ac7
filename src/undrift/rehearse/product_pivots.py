"""Story 3: the product pivots: another language, other categories."""

from __future__ import annotations

import numpy as np

from undrift.rehearse.scenario import Row, Scenario, Sighting, Stage

__all__ = ["ProductPivots"]


class ProductPivots(Scenario):
    """An input has values that were never there."""

    name = "product_pivots"
    story = 3
    title = "the product pivots (new categories)"
    truth = "a categorical input holds a value that training never saw (without one: a number far above its range)"
    kinds = ("drift", "silent", "integrity")

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """A share of the rows has a new category in the most important categorical input."""
        rng = np.random.default_rng([stage.seed, stage.day, 3])
        names = [n for n in stage.columns.categorical if n not in stage.columns.sourced]
        for number in np.flatnonzero(rng.random(len(rows)) < min(0.9, 0.6 * strength)):
            if names:
                rows[number].put(names[0], "never seen before")
            else:
                column = stage.columns.numeric[0]
                numbers = stage.columns.numbers(column)
                rows[number].put(column, stage.columns.like(column, numbers.max() + 2 * np.ptp(numbers)))
        return rows

    def sighting(self, stage: Stage) -> Sighting | None:
        """An incident, or the contract at the door."""
        return stage.at_the_door() or stage.incident(self.kinds)
