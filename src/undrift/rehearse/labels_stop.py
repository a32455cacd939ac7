"""Story 13: labels come late, or not at all."""

from __future__ import annotations

from undrift.event import Event
from undrift.finding import Verdict
from undrift.rehearse.scenario import Row, Scenario, Sighting, Stage

__all__ = ["LabelsStop"]


class LabelsStop(Scenario):
    """Outcomes are no longer told."""

    name = "labels_stop"
    story = 13
    title = "labels stop coming"
    truth = "from the onset on, labels never come (mild: nine in ten); what is not known is not to be called fine"
    kinds = ("labels",)
    strengths = {"mild": 0.9, "default": 1.0, "strong": 1.0}  # noqa: RUF012  a constant of the class

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """The outcomes of the first share of the rows are lost."""
        for row in rows[: round(len(rows) * strength)]:
            row.label, row.touched = None, True
        return rows

    def missing(self, stage: Stage) -> str:
        """Nothing waits for labels where neither their coming nor a loss is watched, or where no loss was known yet."""
        if any(m.kind == "labels" for m in stage.model.monitors) or self._knew(stage):
            return ""
        return "declare a monitor of kind labels, or one of performance that can judge: nothing waits for labels now"

    def sighting(self, stage: Stage) -> Sighting | None:
        """An incident; where none can be, that each loss that was judged before is called unknown two ticks in a row.

        A single tick with a PASS in it begins the count anew, so an INCONCLUSIVE now and then is no sighting.
        """
        found = stage.incident(self.kinds)
        if found is not None or any(m.kind in self.kinds for m in stage.model.monitors):
            return found
        knew = self._knew(stage)
        last = stage.events("tick.judged")[-2:]
        if len(last) == 2 and all(_verdict(e, name) == Verdict.INCONCLUSIVE.name for e in last for name in knew):
            return Sighting(at=last[-1].at, by=f"monitor {knew[0]}", what="INCONCLUSIVE for want of labels")
        return None

    @staticmethod
    def _knew(stage: Stage) -> list[str]:
        """The monitors of performance that could say PASS at the last tick before the onset."""
        named = [m.name for m in stage.model.monitors if m.kind == "performance"]
        return [n for n in named if any(_verdict(e, n) == Verdict.PASS.name for e in stage.before("tick.judged")[-1:])]


def _verdict(event: Event, monitor: str) -> str:
    return str(event.payload["monitors"].get(monitor, ""))
