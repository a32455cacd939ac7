"""The port "scenario": one way in which things go wrong, when it shows, and what is true of it.

A scenario changes the days of a rehearsal after its onset, or puts a bad candidate into a rollout; it knows nothing of
monitors. Each is a file of its own; third parties add theirs by an entry point ``scenario:name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from undrift.rehearse.candidate import refused_by_gate
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
    teaches : days from which the candidate is trained, changed by `lesson`, where the model can be trained; the twin of
        the champion takes its place elsewhere, and `answers` makes it bad.
    sells : it is about what units do after answers, see `worth`.
    apart : it is no change of days: `run_apart` is called once.
    """

    name: ClassVar[str] = ""
    story: ClassVar[int] = 0
    title: ClassVar[str] = ""
    truth: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ()
    strengths: ClassVar[Mapping[str, float]] = STRENGTHS
    candidate: ClassVar[bool] = False
    teaches: ClassVar[int] = 0
    sells: ClassVar[bool] = False
    apart: ClassVar[bool] = False

    def missing(self, stage: Stage) -> str:
        """What the project lacks for this scenario to mean anything; empty if nothing."""
        return ""

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """The rows of a day after the onset; may change them in place."""
        return rows

    def lesson(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """The rows of a day from which a candidate learns; may change them in place."""
        return rows

    def worth(self, revision: str, name: str, stage: Stage, strength: float) -> float:
        """What the unit of a prediction did after the answer of a revision, as the value of a business event.

        Around 1 with a standard deviation of a half, whatever was answered.
        """
        return float(np.random.default_rng([stage.seed, crc32(name.encode())]).gamma(4.0, 0.25))

    def spoil(self, column: str, value: Any, strength: float) -> Any:
        """A value of a source's row after the onset."""
        return value

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Stage, strength: float) -> Any:
        """What a revision answers after the onset, of what it would have answered; may raise PredictionError."""
        return given

    def sighting(self, stage: Stage) -> Sighting | None:
        """Whether undrift has seen it: by default an incident of its kinds; of candidates the gate or the rollout."""
        if self.candidate:
            return refused_by_gate(stage) or stage.rolled_back()
        return stage.incident(self.kinds)

    def run_apart(self, stage: Stage, strength: float) -> Sighting | None:
        """The whole of a scenario that plays no days."""
        return None
