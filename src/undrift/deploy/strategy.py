"""What a person declares of a rollout: its strategy and steps, its guardrails, when it rests, and how it ends.

The four strategies are one list of weights (`Rollout.weights`), after a shadow stage if one is declared. What moves a
rollout along them stands in rollout.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from undrift.deploy.metrics import Metric
from undrift.errors import DeclarationError
from undrift.ids import duration

__all__ = ["Freeze", "Guardrail", "Objective", "Rollout", "Stage", "frozen_until"]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """How long at least (event time), and from how many labelled units, before a step may end."""

    hold: str = "1d"
    minimum_units: int = 200


class Guardrail(msgspec.Struct, frozen=True, kw_only=True):
    """A loss that the candidate must not cause.

    Parameters
    ----------
    metric : the name of a declared metric (`Rollout.metrics`) or of a built-in one. With a label: ``brier``,
        ``log_loss``, ``error``, ``accuracy``, ``roc_auc``; ``absolute_error``, ``squared_error``. Without: ``failed``
        (share of rows that the revision could not answer), ``violations`` (share of rows with a contract finding),
        ``shift`` and ``standardized_shift`` (mean change of the score, either way; in the score's unit, and in standard
        deviations of the champion's scores), ``latency`` (mean, in milliseconds), ``latency_p50``, ``latency_p95``,
        ``latency_p99``.
    margin : the loss against the champion that is still tolerated, >= 0, in the metric's unit.
    by_segment : also judged in each declared segment.
    segment_margin : tolerated loss inside one segment; the margin itself if None.
    relative : margins are shares of the champion's value (0.02 = 2 % worse), not amounts.
    certain : passing needs proof that the loss is within the margin (non-inferiority), not just no proof of harm.
    """

    metric: str
    margin: float
    by_segment: bool = True
    segment_margin: float | None = None
    relative: bool = False
    certain: bool = False


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """What the candidate must make better before it wins.

    Parameters
    ----------
    metric : as of a guardrail.
    at_least : the gain over the champion that has to be exceeded, >= 0, in the metric's unit.
    alpha : chance in (0, 1) that a candidate without that gain ever wins by it.
    """

    metric: str
    at_least: float = 0.0
    alpha: float = 0.05


_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEK: Final = timedelta(days=7)


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """A period in which no rollout begins, advances or wins; a roll-back still does.

    Parameters
    ----------
    start, end : two times with a zone (``2026-12-20T00:00Z``), or two places in the week (``fri 16:00``), UTC.
    why : the reason, as people read it.
    """

    start: str
    end: str
    why: str

    def __post_init__(self) -> None:
        places = [_in_week(self.start), _in_week(self.end)]
        if None not in places and places[0] != places[1]:
            return
        moments = [_moment(self.start), _moment(self.end)]
        if moments[0] is None or moments[1] is None or moments[0] >= moments[1]:
            raise DeclarationError(
                f"rollout: the freeze from {self.start!r} to {self.end!r} is no period.",
                hint="Write two times with a zone, the first before the second, or two weekly times, as 'fri 16:00'.",
            )

    def until(self, now: datetime) -> datetime | None:
        """When the period that holds a moment ends; None outside of it. The start belongs to it, the end does not.

        Examples
        --------
        >>> weekend = Freeze(start="fri 16:00", end="mon 08:00", why="nobody is here")
        >>> weekend.until(datetime(2026, 11, 28, 12, tzinfo=UTC)).isoformat()
        '2026-11-30T08:00:00+00:00'
        >>> weekend.until(datetime(2026, 11, 25, 12, tzinfo=UTC)) is None
        True
        """
        first, last = _in_week(self.start), _in_week(self.end)
        if first is None or last is None:
            begin, end = _moment(self.start), _moment(self.end)
            return end if begin is not None and end is not None and begin <= now < end else None
        now = now.astimezone(UTC)
        monday = datetime(now.year, now.month, now.day, tzinfo=UTC) - timedelta(days=now.weekday())
        length = (last - first) % _WEEK
        for week in (monday - _WEEK, monday):
            if week + first <= now < week + first + length:
                return week + first + length
        return None


def _in_week(text: str) -> timedelta | None:
    """The time since Monday 0:00 of ``fri 16:00``; None if it is not of that form."""
    day, _, clock = text.strip().lower().partition(" ")
    hour, colon, minute = clock.partition(":")
    if day not in _DAYS or not colon or not (hour.isdigit() and minute.isdigit()):
        return None
    if int(hour) > 23 or int(minute) > 59:
        return None
    return timedelta(days=_DAYS.index(day), hours=int(hour), minutes=int(minute))


def _moment(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def frozen_until(freezes: Iterable[Freeze], now: datetime) -> str:
    """Why nothing may advance now, and until when (of several periods the last); empty if it may."""
    found = [(end, freeze.why) for freeze in freezes if (end := freeze.until(now)) is not None]
    if not found:
        return ""
    end, why = max(found)
    return f"{why} (until {end.astimezone(UTC):%Y-%m-%d %H:%M} UTC)"


_DEFAULT_GUARDRAILS: Final = (
    Guardrail(metric="failed", margin=0.005),
    Guardrail(metric="standardized_shift", margin=0.5),
)


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """How a candidate takes over.

    Parameters
    ----------
    strategy : ``canary`` (live traffic in ``steps``), ``ab`` (the fixed ``split`` until a decision), ``blue_green``
        (all units but the ``control`` at once, the rest when that held), or ``shadow`` (replayed traffic only; winning
        there promotes).
    shadow : the stage of replayed traffic before any of them, or None for none.
    steps : canary: percentages of units on the candidate, ascending in (0, 100]; reaching 100 is winning.
    split : ab: percentage of units on the candidate, in (0, 100).
    control : blue_green: percentage of units that stay on the champion until the decision, in (0, 50]. Without any
        there would be nobody to compare with, and nothing could be judged.
    unit : the request field that is assigned and counted (user, session, account); the model's own if empty.
    without_unit : what happens to a row that lacks it: ``prediction`` (each is its own unit) or ``champion`` (the
        champion answers, and it counts for neither arm).
    hold, minimum_units : what each step needs before it may end: time, and labelled candidate units in that step.
    guardrails : one-sided, judged together at error rate ``alpha``; left out, the two defaults (failures, the score
        moved by half a standard deviation).
    objective : what has to be proven better before the last step is won; None if doing no harm is enough.
    metrics : metrics of one's own, which guardrails and the objective may name.
    alpha : chance in (0, 1) that a candidate as good as the champion is ever rolled back by a guardrail.
    maximum : after this the rollout ends by ``on_timeout``; ``promote`` still never overrules an ERROR or a FAIL.
    approval : a person has to approve before any unit is exposed; with ``"second_person"`` another one than the person
        who asked for the rollout.
    freezes : periods in which nothing advances.
    blind_ticks : judgements in a row at which one and the same metric (or the health of the experiment) could not be
        measured before the rollout pauses.
    """

    strategy: Literal["canary", "ab", "blue_green", "shadow"] = "canary"
    shadow: Stage | None = None
    steps: tuple[float, ...] = (5.0, 10.0, 25.0, 50.0, 100.0)
    split: float = 50.0
    control: float = 5.0
    unit: str = ""
    without_unit: Literal["prediction", "champion"] = "prediction"
    hold: str = "1d"
    minimum_units: int = 30
    guardrails: tuple[Guardrail, ...] = _DEFAULT_GUARDRAILS
    objective: Objective | None = None
    metrics: tuple[Metric, ...] = ()
    alpha: float = 0.05
    maximum: str = "30d"
    on_timeout: Literal["pause", "roll_back", "promote"] = "pause"
    approval: bool | Literal["second_person"] = False
    blind_ticks: int = 3
    freezes: tuple[Freeze, ...] = ()

    @property
    def weights(self) -> tuple[float, ...]:
        """The percentages of units on the candidate, step by step; winning is what follows the last one below 100."""
        if self.strategy == "ab":
            return (self.split, 100.0)
        if self.strategy == "blue_green":
            return (100.0 - self.control, 100.0)
        return self.steps

    def __post_init__(self) -> None:
        growing = bool(self.steps) and list(self.steps) == sorted(set(self.steps))
        if not growing or not 0 < self.steps[0] <= self.steps[-1] <= 100:
            raise DeclarationError(
                f"rollout: steps must be percentages that grow, in (0, 100], not {self.steps}.",
                hint="Write for example steps=(5, 10, 25, 50, 100).",
            )
        if not 0 < self.split < 100 or not 0 < self.control <= 50:
            raise DeclarationError(
                f"rollout: split must lie in (0, 100) and control in (0, 50], not {self.split} and {self.control}.",
                hint="A rollout needs units on both revisions; `undrift promote` puts all on one, unjudged.",
            )
        if self.blind_ticks < 1 or self.minimum_units < 0:
            raise DeclarationError("rollout: blind_ticks must be at least 1, and minimum_units not negative.")
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
        own = [metric.name for metric in self.metrics]
        if len(set(own)) != len(own):
            raise DeclarationError(f"rollout: metrics need different names, not {own}.")
        if self.objective is not None and not (0 < self.objective.alpha < 1 and self.objective.at_least >= 0):
            raise DeclarationError("rollout: the objective needs alpha in (0, 1) and at_least >= 0.")
        for name, text in (("hold", self.hold), ("maximum", self.maximum)):
            try:
                duration(text)
            except ValueError as error:
                raise DeclarationError(f"rollout: {name}: {error}.") from error
