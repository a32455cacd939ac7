"""Story 5: somebody changes the code of a feature: training and serving no longer mean the same."""

from __future__ import annotations

import numpy as np

from undrift.rehearse.scenario import Row, Scenario, Sighting, Stage

__all__ = ["FeatureCodeChanges"]


class FeatureCodeChanges(Scenario):
    """A computed feature (without one: the number that matters most) is computed another way when serving."""

    name = "feature_code_changes"
    story = 5
    title = "feature code changes (training-serving skew)"
    truth = "one number is shrunk towards the lower end of its range when serving (hours for minutes, a logarithm)"
    kinds = ("skew", "drift", "integrity", "performance", "silent")

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """The number is shrunk towards the lower end of its range."""
        computed = {o.name for t in stage.interface.transforms for o in t.outputs}
        known = [n for n in stage.columns.numeric if stage.carries(n)] or stage.columns.numeric
        names = [n for n in known if n in computed] or known
        low, high = np.quantile(stage.columns.numbers(names[0]), [0.05, 0.95])
        for row in rows:
            value = row.value(names[0])
            if value is not None:
                scaled = low + (float(value) - low) * (1 - min(0.95, 0.8 * strength))
                row.put(names[0], stage.columns.like(names[0], float(np.clip(scaled, low, high))))
        return rows

    def sighting(self, stage: Stage) -> Sighting | None:
        """An incident, or the contract at the door."""
        return stage.incident(self.kinds) or stage.at_the_door()
