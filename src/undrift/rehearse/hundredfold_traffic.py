"""Story 7: a hundred times the traffic, on a real server of this machine."""

from __future__ import annotations

from undrift.rehearse.load import Load
from undrift.rehearse.scenario import Scenario, Sighting, Stage

__all__ = ["HundredfoldTraffic"]


class HundredfoldTraffic(Scenario):
    """A burst that is more than the server can answer."""

    name = "hundredfold_traffic"
    story = 7
    title = "a hundredfold traffic"
    truth = "some seconds of requests from many connections at once, against a queue that is bounded"
    strengths = {"mild": 8.0, "default": 32.0, "strong": 64.0}  # noqa: RUF012  a constant of the class
    apart = True

    def run_apart(self, stage: Stage, strength: float) -> Sighting | None:
        """Sound, if all was answered or refused with 503, what was answered was captured, and the server lives."""
        load = Load(stage, connections=int(strength))
        found = load.run()
        return Sighting(at=stage.now, by="the server", what=str(found)) if found.sound else None
