"""Story 1: the world changes, and with it demand everywhere (2020)."""

from __future__ import annotations

import numpy as np

from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["WorldChanges"]


class WorldChanges(Scenario):
    """Most of the traffic comes from where little of it came before."""

    name = "world_changes"
    story = 1
    title = "the world changes"
    truth = (
        "traffic comes from the upper end of the most important inputs, whose outcomes are as they always were there"
    )
    kinds = ("drift", "performance", "integrity")

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Rows of the upper half of each of the most important numbers stand in for others."""
        rng = np.random.default_rng([stage.seed, stage.day, 1])
        share = min(0.9, 0.8 * strength)
        numeric, categorical = stage.columns.numeric, stage.columns.categorical
        columns = [name for name in numeric if stage.tells(name)][:3] or categorical[:1] or numeric[:1]
        place = {name: _rank(stage, name) for name in columns}
        scores = sum(np.asarray(list(place.values())))
        upper = np.argsort(-scores)[: len(scores) // 4]
        for number in np.flatnonzero(rng.random(len(rows)) < share):
            rows[number] = stage.pool[int(rng.choice(upper))].again()
            rows[number].touched = True
        return rows


def _rank(stage: Stage, name: str) -> np.ndarray:
    values = [row.value(name) for row in stage.pool]
    if name in stage.columns.numeric:
        numbers = np.array([np.nan if v is None else float(v) for v in values])
        return np.nan_to_num(np.argsort(np.argsort(numbers)) / len(numbers))
    most = max(set(values), key=values.count)
    return np.array([float(v != most) for v in values])
