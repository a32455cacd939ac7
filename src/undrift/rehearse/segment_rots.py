"""Story 8: the accuracy over all is fine, and one segment rots."""

from __future__ import annotations

import numpy as np

from undrift.rehearse.scenario import Row, Scenario, Sighting, Stage

__all__ = ["SegmentRots"]


class SegmentRots(Scenario):
    """Outcomes of one group turn; the others are as ever."""

    name = "segment_rots"
    story = 8
    title = "one segment rots"
    truth = (
        "in one group, between a tenth and a third of the rows if there is such, outcomes are no longer what they were"
    )
    kinds = ("performance",)

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """Rows of the group trade outcomes with rows from the other end of the labels."""
        rng = np.random.default_rng([stage.seed, stage.day, 8])
        group = stage.columns.middling()
        hit = [row for row in rows if group.holds(row) and rng.random() < min(1.0, 0.8 * strength)]
        return stage.columns.other_labels(hit, rows, rng)

    def missing(self, stage: Stage) -> str:
        """Without segments or slices there is nobody to be looked at apart."""
        by_segment = any(m.kind == "performance" and m.by_segment for m in stage.model.monitors)
        if (stage.model.segments and by_segment) or any(m.kind == "slices" for m in stage.model.monitors):
            return ""
        return "declare a monitor of kind slices, or `segments` and by_segment=True: nothing looks at groups now"

    def sighting(self, stage: Stage) -> Sighting | None:
        """An incident that names the group, or a slice."""
        name = str(stage.columns.middling())
        named = stage.incident(self.kinds, where=lambda incident: name in incident["segments"])
        return named or stage.incident(("slices",))
