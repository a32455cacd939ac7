"""Story 12: a candidate that looks as good offline, and after whose answers people buy less."""

from __future__ import annotations

from undrift.rehearse.scenario import Row, Scenario, Stage

__all__ = ["HurtsBusiness"]


class HurtsBusiness(Scenario):
    """A candidate answers as the champion does; only what units do afterwards tells the two apart."""

    name = "hurts_business"
    story = 12
    title = "a better-looking candidate that hurts the business"
    truth = "answers, losses and labels are as ever; each unit's business event is worth less after the candidate's"
    candidate = True
    sells = True

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        """All rows would be hit."""
        for row in rows:
            row.touched = True
        return rows

    def worth(self, revision: str, name: str, stage: Stage, strength: float) -> float:
        """A third less after the candidate's answer."""
        value = super().worth(revision, name, stage, strength)
        return value * (1 - min(0.9, 0.33 * strength)) if revision == stage.candidate else value
