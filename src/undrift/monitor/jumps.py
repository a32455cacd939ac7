"""Unit changes in a feed of series: the hour in which every station jumps by one known conversion.

Days differ: a cold front moves the quantiles of temperature as far as a change of unit does, and often along a line
that is some conversion. What nature does not do is to jump between two readings of every station at once, and to change
the size of its hour-to-hour steps by the conversion's scale. Both are asked for. Feeds without series (independent
rows) are compared by quantiles in feed.py.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.stats.units import CONVERSIONS

__all__ = ["Jump", "Series", "conversions_from", "find_jump", "is_over", "series_of"]

FACTOR: Final = 2.0
FACTOR_UNDECLARED: Final = 3.0
"""How many times the largest natural jump of the reference the common jump must be, where the contract declares the
column's unit (so that few conversions are possible) and where it does not."""
SCALE_NOISE: Final = 0.35
"""Standard error allowed for the log of the ratio of step sizes before and after, a day of hourly rows on each side."""
WORST: Final = 3.0
WORST_UNDECLARED: Final = 2.0
"""Standard errors beyond which a conversion does not explain a jump."""
CONVERTED_BACK: Final = 0.7
"""Most that the readings since the jump, converted back, may be away from the reference, against as they are."""
FEWEST_STEPS: Final = 6

UNITS: Final = {
    "f": "Fahrenheit", "°f": "Fahrenheit", "degf": "Fahrenheit", "c": "Celsius", "°c": "Celsius", "degc": "Celsius",
    "k": "Kelvin", "mi": "miles", "mile": "miles", "km": "kilometres", "kilometers": "kilometres", "kn": "knots",
    "kt": "knots", "kph": "km/h", "kmh": "km/h", "ft": "feet", "m": "metres", "meters": "metres", "in": "inches",
    "inch": "inches", "mm": "millimetres", "millimeters": "millimetres", "cm": "centimetres", "lb": "pounds",
    "lbs": "pounds", "kg": "kilograms", "s": "seconds", "sec": "seconds", "min": "minutes", "h": "hours", "d": "days",
    "%": "percent", "ratio": "fraction", "share": "fraction",
}  # fmt: skip
"""Short forms of the units that conversions are named by."""

Floats = NDArray[np.float64]


class Series(msgspec.Struct, frozen=True):
    """Readings of one column, sorted by key and time: key code, time in microseconds, value (no NaN)."""

    key: NDArray[np.int64]
    time: NDArray[np.int64]
    value: Floats


class Jump(msgspec.Struct, frozen=True, kw_only=True):
    """A common jump of a column's series, the conversion x' = a x + b that explains it, and when it happened (us).

    ``size`` is the jump in multiples of the largest natural one; ``miss`` how badly the conversion fits, in standard
    errors.
    """

    column: str
    conversion: str
    a: float
    b: float
    at: int
    size: float
    miss: float
    before: float
    after: float


def conversions_from(unit: str) -> dict[str, tuple[float, float]]:
    """The conversions a column of that unit may undergo: those from it, powers of ten and the sign; all for no unit."""
    if not unit:
        return dict(CONVERSIONS)
    plain = unit.strip().lower().removeprefix("degrees ").removeprefix("degree ").removeprefix("deg ")
    name = UNITS.get(plain, plain).lower()
    return {
        text: line
        for text, line in CONVERSIONS.items()
        if text.startswith(("times", "sign")) or text.lower().startswith(f"{name} to ")
    }


def series_of(key: NDArray[np.int64], time: NDArray[np.int64], value: Floats) -> Series:
    """Sort readings by key and time; NaN dropped."""
    held = np.isfinite(value)
    key, time, value = key[held], time[held], value[held]
    order = np.lexsort((time, key))
    return Series(key[order], time[order], value[order])


class _Steps(msgspec.Struct, frozen=True):
    """Differences between consecutive readings of one key that are not too far apart in time."""

    time: NDArray[np.int64]
    before: Floats
    after: Floats

    @property
    def size(self) -> Floats:
        return np.abs(self.after - self.before)


def _steps(series: Series) -> _Steps:
    same = series.key[1:] == series.key[:-1]
    gap = series.time[1:] - series.time[:-1]
    usual = np.median(gap[same]) if same.any() else 0
    near = same & (gap > 0) & (gap <= 6 * max(usual, 1))
    return _Steps(series.time[1:][near], series.value[:-1][near], series.value[1:][near])


def _common(steps: _Steps) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """At each moment, the median step over the keys that have one, towards zero where they disagree; how many there
    are.
    """
    moments, which = np.unique(steps.time, return_inverse=True)
    change = steps.after - steps.before
    n = np.bincount(which)
    low = np.full(len(moments), np.inf)
    high = np.full(len(moments), -np.inf)
    np.minimum.at(low, which, change)
    np.maximum.at(high, which, change)
    agreed = np.where(low > 0, low, np.where(high < 0, high, 0.0))
    return moments, agreed, n


def find_jump(
    column: str,
    reference: Series,
    current: Series,
    *,
    unit: str = "",
    conversions: dict[str, tuple[float, float]] | None = None,
) -> Jump | None:
    """The change of unit inside the current window, or None.

    Parameters
    ----------
    reference : healthy readings before the window; its last ones join the window's first.
    unit : the declared unit, which limits the conversions thought of; empty for none declared.
    conversions : name -> (a, b); those possible from the unit if left out.
    """
    if len(reference.value) < FEWEST_STEPS or not len(current.value):
        return None
    start = int(current.time.min())
    joined = series_of(
        np.concatenate([reference.key, current.key]),
        np.concatenate([reference.time, current.time]),
        np.concatenate([reference.value, current.value]),
    )
    past, steps = _steps(reference), _steps(joined)
    if len(past.time) < FEWEST_STEPS or float((past.size > 0).mean()) < 0.5:
        return None  # values that mostly stand still (rain, visibility) tell nothing about their unit
    _, natural, counts = _common(past)
    keys = int(np.median(counts))
    largest = float(np.abs(natural[counts >= max(1, keys // 2)]).max(initial=0.0))
    recent = steps.time >= start
    moments, common, n = _common(_Steps(steps.time[recent], steps.before[recent], steps.after[recent]))
    if not len(moments) or largest <= 0:
        return None
    common = np.where(n >= max(1, keys // 2), common, 0.0)
    top = int(np.abs(common).argmax())
    size = abs(float(common[top])) / largest
    known = bool(unit) or conversions is not None
    if size < (FACTOR if known else FACTOR_UNDECLARED):
        return None
    at = int(moments[top])
    here = steps.time == at
    before, after = steps.before[here], steps.after[here]
    old = past.size
    new = steps.size[steps.time > at]
    choices = conversions_from(unit) if conversions is None else conversions
    worst = WORST if known else WORST_UNDECLARED
    found = _explain(column, at, size, (before, after), (old, new), worst, choices)
    since = current.value[current.time >= at]
    return found if found is not None and _stays(found, reference.value, since) else None


def _explain(
    column: str,
    at: int,
    size: float,
    jump: tuple[Floats, Floats],
    sizes: tuple[Floats, Floats],
    worst: float,
    conversions: dict[str, tuple[float, float]],
) -> Jump | None:
    """The conversion that fits the jump (readings before and after) and the change of the size of steps best."""
    (before, after), (old, new) = jump, sizes
    noise = float(np.quantile(old, 0.9))
    ratio = _ratio(old, new)
    found: Jump | None = None
    best = math.nextafter(worst, math.inf)
    for name, (a, b) in conversions.items():
        spread = max(noise * abs(a), 1e-12)
        miss = float(np.abs(after - (a * before + b)).mean()) / spread
        if ratio is not None:
            miss = max(miss, abs(math.log(ratio / abs(a))) / SCALE_NOISE)
        if miss < best:
            best = miss
            found = Jump(
                column=column,
                conversion=name,
                a=a,
                b=b,
                at=at,
                size=size,
                miss=miss,
                before=float(before.mean()),
                after=float(after.mean()),
            )
    return found


def _stays(jump: Jump, reference: Floats, since: Floats) -> bool:
    """Whether all readings since the jump, converted back, look like the reference again, and as they are do not."""
    if len(since) < FEWEST_STEPS:
        return False
    levels = np.linspace(0.05, 0.95, 10)
    wanted = np.quantile(reference, levels)
    raw = float(np.abs(np.quantile(since, levels) - wanted).mean())
    back = float(np.abs(np.quantile((since - jump.b) / jump.a, levels) - wanted).mean())
    return back < CONVERTED_BACK * raw


def _ratio(old: Floats, new: Floats) -> float | None:
    """How much the usual step grew, by means of steps (medians are 0 for rounded values); None for too few."""
    if len(new) < FEWEST_STEPS:
        return None
    above, below = float(new.mean()), float(old.mean())
    return above / below if above > 0 and below > 0 else None


def is_over(jump_name: str, healthy: Series, reference: Series, current: Series, *, column: str = "") -> bool:
    """Whether a column that had changed its unit is back.

    Either its series jump back by the inverse conversion, or its latest values lie nearer to healthy ones than they do
    converted back.

    Parameters
    ----------
    healthy : readings from before the change.
    reference : readings since the change, without the current window.
    """
    a, b = CONVERSIONS[jump_name]
    inverse = {"back": (1 / a, -b / a)}
    if find_jump(column, reference, current, conversions=inverse) is not None:
        return True
    if len(healthy.value) < FEWEST_STEPS or len(current.value) < FEWEST_STEPS:
        return False
    latest = current.value[current.time >= np.quantile(current.time, 2 / 3)]
    levels = np.linspace(0.05, 0.95, 10)
    wanted, now = np.quantile(healthy.value, levels), np.quantile(latest, levels)
    raw = float(np.abs(now - wanted).mean())
    back = float(np.abs(np.sort((now - b) / a) - wanted).mean())
    return raw < CONVERTED_BACK * back
