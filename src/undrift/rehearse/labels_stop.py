"""Story 13: labels come late, or not at all."""

from __future__ import annotations

from undrift.finding import Verdict
from undrift.rehearse.scenario import Row, Scenario, Sighting, Stage

__all__ = ["LabelsStop"]


class LabelsStop(Scenario):
    """Outcomes are no longer told."""

    name = "labels_stop"
    story = 13
    title = "labels stop coming"
    truth = "from the onset on, a share of the labels never comes; what is not known is not to be called fine"
    strengths = {"mild": 0.9, "default": 1.0, "strong": 1.0}  # noqa: RUF012  a constant of the class

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """The outcomes of the first share of the rows are lost."""
        for row in rows[: round(len(rows) * strength)]:
            row.label, row.touched = None, True
        return rows

    def missing(self, stage: Stage) -> str:
        """Nothing waits for labels where no monitor of performance is declared."""
        watched = any(m.kind == "performance" for m in stage.model.monitors)
        return "" if watched else "declare a performance monitor: nothing waits for labels now"

    def sighting(self, stage: Stage) -> Sighting | None:
        """The monitors of performance no longer say PASS, or an incident says that labels are missing."""
        named = {m.name for m in stage.model.monitors if m.kind == "performance"}
        for event in stage.events("tick.judged"):
            told = {name: event.payload["monitors"].get(name) for name in named}
            open_now = [name for name, verdict in told.items() if verdict == Verdict.INCONCLUSIVE.name]
            if open_now:
                return Sighting(at=event.at, by=f"monitor {open_now[0]}", what="INCONCLUSIVE for want of labels")
        return stage.incident(("labels",))
