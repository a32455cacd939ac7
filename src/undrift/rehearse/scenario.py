"""The port "scenario": one way in which things go wrong, when it shows, and what is true of it.

A scenario changes the days of a rehearsal after its onset, or puts a bad candidate into a rollout; it knows nothing of
monitors. Each is a file of its own; third parties add theirs by an entry point ``scenario:name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from undrift.rehearse.row import Row, Sighting
from undrift.rehearse.stage import Stage

__all__ = ["Row", "Scenario", "Sighting", "Stage"]

STRENGTHS: Mapping[str, float] = {"mild": 0.5, "default": 1.0, "strong": 2.0}


class Scenario:
    """One failure story; a subclass is the whole of it.

    Attributes
    ----------
    name : how it is called on the command line.
    story : its number among the failure stories, 0 for others.
    title, truth : what happens, and what a person who knows the truth would say of it.
    kinds : the kinds of monitors whose incidents see it.
    strengths : by name; the number is handed to `change`.
    candidate : it is about a candidate in a rollout, so its control is a rollout of a sound one.
    apart : it is no change of days: `run_apart` is called once.
    """

    name: ClassVar[str] = ""
    story: ClassVar[int] = 0
    title: ClassVar[str] = ""
    truth: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ()
    strengths: ClassVar[Mapping[str, float]] = STRENGTHS
    candidate: ClassVar[bool] = False
    apart: ClassVar[bool] = False

    def missing(self, stage: Stage) -> str:
        """What the project lacks for this scenario to mean anything; empty if nothing."""
        return ""

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """The rows of a day after the onset; may change them in place."""
        return rows

    def spoil(self, column: str, value: Any, strength: float) -> Any:
        """A value of a source's row after the onset."""
        return value

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """What a revision answers after the onset, of what it would have answered; may raise PredictionError."""
        return given

    def sighting(self, stage: Stage) -> Sighting | None:
        """Whether undrift has seen it: by default an incident of its kinds, or the rollout rolled back."""
        return stage.rolled_back() if self.candidate else stage.incident(self.kinds)

    def run_apart(self, stage: Stage, strength: float) -> Sighting | None:
        """The whole of a scenario that plays no days."""
        return None
