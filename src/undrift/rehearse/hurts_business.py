"""Story 12: a candidate that looks as good offline changes what the business does with its answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from undrift.rehearse.columns import answers_like
from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["HurtsBusiness"]


class HurtsBusiness(Scenario):
    """A candidate ranks as well as the champion, and says yes far more often."""

    name = "hurts_business"
    story = 12
    title = "a better-looking candidate that changes the business"
    truth = "the candidate's answers keep their order and move up: as many again are acted upon"
    candidate = True

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """All rows would be hit."""
        for row in rows:
            row.touched = True
        return rows

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """Each low answer becomes one from higher up, in the same order, by the candidate only."""
        if revision != stage.candidate:
            return given
        lift = min(0.95, 0.8 * strength)
        order = np.argsort(np.asarray(given.score), kind="stable")
        ranks = np.empty(len(order))
        ranks[order] = np.linspace(0, 1, len(order)) if len(order) > 1 else 1.0
        raised = lift + (1 - lift) * ranks
        return answers_like(given, [int(order[round(float(r) * (len(order) - 1))]) for r in raised])
