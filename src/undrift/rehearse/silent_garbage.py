"""Story 6: a silent failure: answers without meaning, and no error anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from undrift.rehearse.columns import same_answer
from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["SilentGarbage"]


class SilentGarbage(Scenario):
    """The server answers the same whatever it is asked."""

    name = "silent_garbage"
    story = 6
    title = "silent failure (constant answers)"
    truth = "most rows get one and the same answer"
    kinds = ("silent",)

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Which rows are hit."""
        rng = np.random.default_rng([stage.seed, stage.day, 6])
        for row, chance in zip(rows, rng.random(len(rows)), strict=True):
            row.touched = chance < min(1.0, 0.95 * strength)
        return rows

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """The answer of the middle row, again and again."""
        return same_answer(given, [row.touched for row in rows], 0.5)
