"""Has a column changed its unit? A robust straight line between two sets of quantiles, and the name of the conversion
it is.

A unit change moves every quantile by one line x' = a x + b, which drift of the world hardly ever does. Nothing is
concluded from the size of a change here: that is the work of `distance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from undrift.stats.summary import FloatArray, finite

#: Scale and offset of the conversions known by name; the reverse ones are added below. Scales near 1 (knots to mph is
#: 1.15) are left out: the world moves that much by itself.
_FORWARD: tuple[tuple[str, str, float, float], ...] = (
    ("Fahrenheit", "Celsius", 5 / 9, -160 / 9),
    ("Celsius", "Kelvin", 1.0, 273.15),
    ("Fahrenheit", "Kelvin", 5 / 9, 273.15 - 160 / 9),
    ("miles", "kilometres", 1.609344, 0.0),
    ("mph", "m/s", 0.44704, 0.0),
    ("knots", "m/s", 1852 / 3600, 0.0),
    ("km/h", "m/s", 1 / 3.6, 0.0),
    ("knots", "km/h", 1.852, 0.0),
    ("feet", "metres", 0.3048, 0.0),
    ("inches", "millimetres", 25.4, 0.0),
    ("inches", "centimetres", 2.54, 0.0),
    ("pounds", "kilograms", 0.45359237, 0.0),
    ("inHg", "hPa", 33.8638866667, 0.0),
    ("seconds", "minutes", 1 / 60, 0.0),
    ("seconds", "hours", 1 / 3600, 0.0),
    ("hours", "days", 1 / 24, 0.0),
    ("percent", "fraction", 0.01, 0.0),
)
#: Name -> (a, b) of x' = a x + b. mph to km/h is miles to kilometres, minutes to hours is seconds to minutes.
CONVERSIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {f"{old} to {new}": (a, b) for old, new, a, b in _FORWARD}
    | {f"{new} to {old}": (1 / a, -b / a) for old, new, a, b in _FORWARD}
    | {f"times 10^{k}": (10.0**k, 0.0) for k in (*range(-9, 0), *range(1, 10)) if abs(k) != 2}
    | {"sign flip": (-1.0, 0.0)}
)


class LinearFit(msgspec.Struct, frozen=True, kw_only=True):
    """A line x' = a x + b from reference to current quantiles.

    Parameters
    ----------
    a, b : scale, and offset in the current unit.
    residual : mean absolute miss of the line over the quantiles, in the current unit.
    improvement : 1 - residual / (residual of "nothing changed"), in (-inf, 1]; 1 is a perfect line, 0 no better than
        the identity.
    n : quantiles fitted.
    """

    a: float
    b: float
    residual: float
    improvement: float
    n: int


class UnitChange(msgspec.Struct, frozen=True, kw_only=True):
    """A named conversion that explains how the quantiles moved, with the line it stands for; figures as in
    `LinearFit`."""

    name: str
    a: float
    b: float
    residual: float
    improvement: float
    n: int


def fit_scale_offset(reference_quantiles: ArrayLike, current_quantiles: ArrayLike) -> LinearFit:
    """Fit x' = a x + b to two sets of quantiles at the same levels, robust to a quarter of them lying elsewhere.

    Theil-Sen: a is the median slope over all pairs of quantiles, b the median of x' - a x (Sen 1968; breakdown at 29
    %). A negative scale turns the order round, so both orders are tried; the reversed one is taken only when it misses
    by less than half as much.

    Parameters
    ----------
    reference_quantiles, current_quantiles : shape (k,), k >= 3, ascending, at equally spaced levels symmetric about the
        median.

    >>> fahrenheit = np.array([14.0, 23, 32, 41, 50])
    >>> fit = fit_scale_offset(fahrenheit, (fahrenheit - 32) * 5 / 9)
    >>> round(fit.a, 4), round(fit.b, 2), round(fit.improvement, 6)
    (0.5556, -17.78, 1.0)
    """
    x, y = _quantiles(reference_quantiles, current_quantiles)
    forward, backward = _theil_sen(x, y), _theil_sen(x, y[::-1])
    return backward if backward.residual < 0.5 * forward.residual else forward


def name_unit_change(a: float, b: float, tolerance: float = 0.02, *, scale: float = 1.0) -> str | None:
    """Name of the known conversion nearest to x' = a x + b, or None.

    Parameters
    ----------
    tolerance : largest relative error of the scale, and of the offset relative to the larger of itself and `scale`.
    scale : typical size of the current values, so that an offset of 0 has something to be small against.

    >>> name_unit_change(0.556, -17.7), name_unit_change(1000.0, 0.0), name_unit_change(1.0, 0.0)
    ('Fahrenheit to Celsius', 'times 10^3', None)
    """
    errors = {
        name: max(abs(a / a0 - 1), abs(b - b0) / max(abs(b0), scale))
        for name, (a0, b0) in CONVERSIONS.items()
        if a * a0 > 0
    }
    if not errors:
        return None
    nearest = min(errors, key=lambda name: errors[name])
    return nearest if errors[nearest] <= tolerance else None


def find_unit_change(
    reference_quantiles: ArrayLike, current_quantiles: ArrayLike, *, improvement: float = 0.9
) -> UnitChange | None:
    """The known conversion that best explains the move of the quantiles, or None when none explains enough of it.

    Each conversion is tried as it is, not read off a fitted line, so it is found although the world drifted a little at
    the same time. Compare with a recent window: after half a year the season may have moved temperatures more than the
    unit did.

    Parameters
    ----------
    improvement : least share of the identity's residual that the conversion must remove, in (0, 1).

    >>> inches = np.array([0.0, 0.1, 0.3, 0.8, 2.0])
    >>> find_unit_change(inches, inches * 26).name
    'inches to millimetres'
    """
    x, y = _quantiles(reference_quantiles, current_quantiles)
    best: UnitChange | None = None
    for name, (a, b) in CONVERSIONS.items():
        fit = _judged(x, y if a > 0 else y[::-1], a, b)
        if fit.improvement >= improvement and (best is None or fit.residual < best.residual):
            best = UnitChange(name=name, a=a, b=b, residual=fit.residual, improvement=fit.improvement, n=fit.n)
    return best


def _quantiles(reference: ArrayLike, current: ArrayLike) -> tuple[FloatArray, FloatArray]:
    x, y = finite(reference, "reference quantiles").ravel(), finite(current, "current quantiles").ravel()
    if x.size != y.size or x.size < 3:
        raise ValueError(f"a line needs three quantiles at the same levels on both sides, got {x.size} and {y.size}")
    if (np.diff(x) < 0).any() or (np.diff(y) < 0).any():
        raise ValueError("quantiles must ascend")
    return x, y


def _theil_sen(x: FloatArray, y: FloatArray) -> LinearFit:
    i, j = np.triu_indices(x.size, 1)
    apart = x[j] - x[i]
    slopes = (y[j] - y[i])[apart > 0] / apart[apart > 0]
    a = float(np.median(slopes)) if slopes.size else 1.0
    return _judged(x, y, a, float(np.median(y - a * x)))


def _judged(x: FloatArray, y: FloatArray, a: float, b: float) -> LinearFit:
    """The line's residual, and what it gains over the identity (which keeps the order, whichever way `y` runs)."""
    residual = float(np.abs(y - (a * x + b)).mean())
    identity = float(np.abs(np.sort(y) - x).mean())
    gain = 1 - residual / identity if identity else (0.0 if residual == 0 else -math.inf)
    return LinearFit(a=a, b=b, residual=residual, improvement=gain, n=int(x.size))
