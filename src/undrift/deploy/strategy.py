"""What a person declares of a rollout: its stages and steps, its guardrails, and how it ends without a decision."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from undrift.errors import DeclarationError
from undrift.ids import duration

__all__ = ["Guardrail", "Rollout", "Stage"]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """How long at least (event time), and from how many labelled units, before a step may end."""

    hold: str = "1d"
    minimum_units: int = 200


class Guardrail(msgspec.Struct, frozen=True, kw_only=True):
    """A loss that the candidate must not cause.

    Parameters
    ----------
    metric : a loss per row of the task (``brier``, ``log_loss``, ``error``; ``absolute_error``, ``squared_error``), all
        on matured labels, or ``failed`` (share of rows that the revision could not answer), ``shift`` (mean change of
        the score, either way), ``violations`` (share of rows with a contract finding), ``latency`` (mean, in
        milliseconds).
    margin : the loss against the champion that is still tolerated, in the metric's unit, >= 0.
    by_segment : also judged in each declared segment.
    segment_margin : tolerated loss inside one segment; the margin itself if None.
    """

    metric: str
    margin: float
    by_segment: bool = True
    segment_margin: float | None = None


_DEFAULT_GUARDRAILS: Final = (
    Guardrail(metric="failed", margin=0.005),
    Guardrail(metric="shift", margin=0.15),
)


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """How a candidate takes over.

    Parameters
    ----------
    strategy : ``canary`` (steps of live traffic, after the shadow if one is declared) or ``shadow`` (replayed traffic
        only; winning there promotes).
    shadow : the shadow stage, or None for none.
    steps : percentages of units on the candidate, ascending in (0, 100]; reaching 100 is winning.
    hold, minimum_units : what each step needs before it may end: time, and labelled candidate units in that step.
    guardrails : one-sided, judged together at error rate ``alpha``; none means the two defaults (failures, shift).
    alpha : chance in (0, 1) that a candidate as good as the champion is ever rolled back by a guardrail.
    maximum : after this the rollout ends by ``on_timeout``; ``promote`` still never overrules an ERROR or a FAIL.
    approval : a person has to approve before any unit is exposed.
    blind_ticks : judgements in a row that could not be measured before the rollout pauses.
    """

    strategy: Literal["canary", "shadow"] = "canary"
    shadow: Stage | None = None
    steps: tuple[float, ...] = (5.0, 10.0, 25.0, 50.0, 100.0)
    hold: str = "1d"
    minimum_units: int = 30
    guardrails: tuple[Guardrail, ...] = _DEFAULT_GUARDRAILS
    alpha: float = 0.05
    maximum: str = "30d"
    on_timeout: Literal["pause", "roll_back", "promote"] = "pause"
    approval: bool = False
    blind_ticks: int = 3

    def __post_init__(self) -> None:
        growing = bool(self.steps) and list(self.steps) == sorted(set(self.steps))
        if not growing or not 0 < self.steps[0] <= self.steps[-1] <= 100:
            raise DeclarationError(
                f"rollout: steps must be percentages that grow, in (0, 100], not {self.steps}.",
                hint="Write for example steps=(5, 10, 25, 50, 100).",
            )
        if not 0 < self.alpha < 1:
            raise DeclarationError(f"rollout: alpha must lie in (0, 1), not {self.alpha}.")
        if self.strategy == "shadow" and self.shadow is None:
            raise DeclarationError(
                "rollout: the strategy `shadow` needs its stage.",
                hint="Write shadow=Stage(hold='1d', minimum_units=500).",
            )
        if not self.guardrails:
            raise DeclarationError(
                "rollout: without a guardrail nothing can be judged, and nothing would ever pass.",
                hint="Leave guardrails out for the defaults, or name at least one.",
            )
        names = [g.metric for g in self.guardrails]
        if len(set(names)) != len(names):
            raise DeclarationError(f"rollout: each metric may have one guardrail, not {names}.")
        for guard in self.guardrails:
            if guard.margin < 0 or (guard.segment_margin or 0) < 0:
                raise DeclarationError(f"rollout: the margin of {guard.metric!r} must not be negative.")
        for name, text in (("hold", self.hold), ("maximum", self.maximum)):
            try:
                duration(text)
            except ValueError as error:
                raise DeclarationError(f"rollout: {name}: {error}.") from error
