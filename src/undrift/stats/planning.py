"""How many units and days an experiment needs before it can say something, and what it can still say.

The same sequential boundary that judges a rollout, turned round: an effect is found when it is as large as the boundary
plus the reach of chance. Plans are a promise about power only; whatever they say, the judge stays valid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from undrift.stats.sequential import mixture_multiplier
from undrift.stats.summary import finite, in_unit_interval

__all__ = ["Design", "days_needed", "information", "power", "smallest_effect", "units_needed"]

_MOST_DAYS = 3650


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan starts from.

    Parameters
    ----------
    deviation : standard deviation of the metric over units, > 0; for a rate p it is sqrt(p (1 - p)), for a ratio that
        of its linearised units, and with a pre-period covariate of correlation r it shrinks by sqrt(1 - r^2).
    alpha : chance of a false finding in (0, 1), over all looks; divide it by the number of tests that share it.
    power : wanted chance to find the effect, in (0, 1).
    one_sided : the question is "worse by more than" (a guardrail) or "better" (an objective), not "different".

    >>> Design.of_rate(0.1).deviation.__round__(6)
    0.3
    """

    deviation: float
    alpha: float = 0.05
    power: float = 0.8
    one_sided: bool = True

    def __post_init__(self) -> None:
        in_unit_interval(self.alpha, "alpha")
        in_unit_interval(self.power, "power")
        if not 0 < self.deviation < math.inf:
            raise ValueError(
                f"deviation must be a positive number, got {self.deviation}: a constant needs no experiment"
            )

    @classmethod
    def of_rate(cls, rate: float, *, alpha: float = 0.05, power: float = 0.8, one_sided: bool = True) -> Design:
        """The design for a proportion; raises ValueError unless `rate` lies strictly between 0 and 1."""
        p = in_unit_interval(rate, "rate")
        return cls(deviation=math.sqrt(p * (1 - p)), alpha=alpha, power=power, one_sided=one_sided)


def information(champion_units: float, candidate_units: float) -> float:
    """n0 n1 / (n0 + n1): what two arms are worth together; the variance of their difference is deviation^2 over it.

    >>> information(9500, 500)
    475.0
    """
    both = champion_units + candidate_units
    return champion_units * candidate_units / both if both > 0 else 0.0


def smallest_effect(design: Design, seen: float) -> float:
    """The effect, in the metric's unit, that is found with the design's power by the time `seen` information is there.

    The boundary is tuned to `seen`; crossing it earlier is left out, so the real power is a little higher. Infinite
    without information. For a running test pass the information that will be there when its time is over.

    >>> round(smallest_effect(Design.of_rate(0.1), information(9500, 500)), 4)
    0.0524
    """
    from scipy.special import ndtri

    if not seen > 0:
        return math.inf
    reach = float(mixture_multiplier(seen, design.alpha, seen, one_sided=design.one_sided)) + float(ndtri(design.power))
    return design.deviation * reach / math.sqrt(seen)


def power(design: Design, effect: float, seen: float) -> float:
    """Chance, at least, to have found an effect of this size when `seen` information is there; in (0, 1)."""
    from scipy.special import ndtr

    _positive(effect)
    if not seen > 0:
        return 0.0
    reach = float(mixture_multiplier(seen, design.alpha, seen, one_sided=design.one_sided))
    return float(ndtr(effect * math.sqrt(seen) / design.deviation - reach))


def units_needed(design: Design, effect: float, share: float = 0.5) -> int:
    """Units in both arms together until an effect is found with the design's power.

    Parameters
    ----------
    effect : size of the difference, > 0, in the metric's unit; for a guardrail the distance from its margin.
    share : part of the units that the candidate gets, in (0, 1).

    >>> design = Design.of_rate(0.1)
    >>> units_needed(design, 0.02), units_needed(design, 0.02, share=0.05)
    (13038, 68621)
    """
    part = in_unit_interval(share, "share")
    return math.ceil(_needed(design, effect) / (part * (1 - part)))


def days_needed(
    design: Design, effect: float, new_units: Sequence[float], steps: Sequence[tuple[float, float]]
) -> float | None:
    """Days until an effect is found with the design's power, at the traffic seen and the steps declared.

    Parameters
    ----------
    new_units : units seen for the first time on each day (units that return bring nothing new); the last value holds
        for all later days.
    steps : (share of the candidate in (0, 1), days at it), in order; the last share holds on.

    Returns
    -------
    float or None
        days, in parts of a day; None when ten years are not enough.

    >>> round(days_needed(Design.of_rate(0.1), 0.02, [2000], [(0.05, 3), (0.25, 3), (0.5, 3)]), 1)
    9.7
    """
    traffic = finite(new_units, "new_units").ravel()
    if not traffic.size or (traffic < 0).any() or not steps:
        raise ValueError("days need at least one day of traffic, none negative, and at least one step")
    worth = [in_unit_interval(share, "share") * (1 - share) for share, _ in steps]
    ends = [sum(days for _, days in steps[: i + 1]) for i in range(len(steps) - 1)]
    needed, seen, now = _needed(design, effect), 0.0, 0.0
    while now < _MOST_DAYS:
        step = sum(end <= now for end in ends)
        until = min([math.floor(now) + 1.0, *(end for end in ends if end > now)])
        rate = worth[step] * float(traffic[min(int(now), traffic.size - 1)])
        if seen + rate * (until - now) >= needed:
            return now + (needed - seen) / rate
        seen, now = seen + rate * (until - now), until
    return None


def _needed(design: Design, effect: float) -> float:
    """Information at which the smallest effect is `effect`: tuned to the end, the reach depends on alpha alone."""
    _positive(effect)
    at_one = smallest_effect(design, 1.0)
    return (at_one / effect) ** 2


def _positive(effect: float) -> None:
    if not 0 < effect < math.inf:
        raise ValueError(f"effect must be a positive number, got {effect}: no test finds a difference of nothing")
