"""Distances between two distributions, each with its interval and p-value, so that size and significance are both
known.

An alarm belongs on `lower` beyond a practical size, never on the p-value: that one is small for any difference once n
is large. Samples, weighted samples (a quantile sketch, a table of values) and histograms on common bins; no thresholds
are chosen here.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from undrift.stats.summary import Bound, Estimate, FloatArray, finite, in_unit_interval


class Distance(Estimate, frozen=True, kw_only=True):
    """How far the current distribution is from the reference, in the distance's own unit.

    Parameters
    ----------
    n : rows of the current sample; `n_reference` those of the reference.
    p_value : of "no difference".
    effect : the distance free of units: itself where it has none, in reference standard deviations for Wasserstein,
        Cramer's V for chi-square.
    """

    n_reference: int
    p_value: Bound
    effect: Bound

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("p_value", "effect"):
            if getattr(self, name) is None:
                msgspec.structs.force_setattr(self, name, math.nan)


def kolmogorov_smirnov(
    reference: ArrayLike,
    current: ArrayLike,
    reference_weights: ArrayLike | None = None,
    current_weights: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Distance:
    """Largest gap between the two distribution functions, in [0, 1].

    Interval: Dvoretzky-Kiefer-Wolfowitz with Massart's (1990) constant on both samples, exact at any n for any
    distributions. p-value: Kolmogorov's limit at n m / (n + m) (conservative with ties). Weights are row counts of each
    value, so a sketch's items or a histogram's bins (numbered) serve as samples; without them each value counts once.

    >>> found = kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6])
    >>> found.value, round(found.p_value, 4)
    (0.5, 0.6994)
    """
    from scipy.special import kolmogorov

    _, _, f, g, n, m = _distribution_functions(reference, current, reference_weights, current_weights)
    value = float(np.abs(f - g).max())
    alpha = 1 - in_unit_interval(level, "level")
    margin = math.sqrt(math.log(4 / alpha) / 2) * (1 / math.sqrt(n) + 1 / math.sqrt(m))
    p = float(kolmogorov(math.sqrt(n * m / (n + m)) * value))
    return _distance(value, value - margin, min(1.0, value + margin), n, m, level, p)


def wasserstein(
    reference: ArrayLike,
    current: ArrayLike,
    reference_weights: ArrayLike | None = None,
    current_weights: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Distance:
    """Mean distance that mass must move to turn one distribution into the other, in the values' unit (Vallender 1974).

    Arguments as for `kolmogorov_smirnov`. `effect` is in standard deviations of the reference. Interval and p-value
    take the pointwise standard errors of F - G as perfectly correlated, the worst case, so they are conservative:
    between exact and about 1.6 times too wide.

    >>> wasserstein([0, 1, 3], [5, 6, 8]).value
    5.0
    """
    from scipy.special import ndtr, ndtri

    values, widths, f, g, n, m = _distribution_functions(reference, current, reference_weights, current_weights)
    value = float((np.abs(f - g)[:-1] * widths).sum())
    noise = float((np.sqrt(f * (1 - f) / n + g * (1 - g) / m)[:-1] * widths).sum())
    margin = float(ndtri((1 + in_unit_interval(level, "level")) / 2)) * noise
    mass = np.diff(f, prepend=0.0)
    spread = math.sqrt(max(0.0, float(mass @ np.square(values - mass @ values))))
    effect = value / spread if spread else (math.inf if value else 0.0)
    p = float(2 * ndtr(-value / noise)) if noise else float(value == 0)
    return _distance(value, value - margin, value + margin, n, m, level, p, effect)


def wasserstein_binned(edges: ArrayLike, reference: ArrayLike, current: ArrayLike, *, level: float = 0.95) -> Distance:
    """`wasserstein` of two histograms on common finite `edges`, mass spread evenly inside each bin.

    Differs from the distance of the raw values by at most the width of the widest bin.

    >>> wasserstein_binned([0, 1, 2, 3], [10, 10, 0], [0, 10, 10]).value
    1.0
    """
    cuts = finite(edges, "edges")
    p, q, n, m = _shares(reference, current)
    if cuts.size != p.size + 1 or (np.diff(cuts) <= 0).any():
        raise ValueError(f"edges must ascend and be one more than the {p.size} bins, got {cuts.size}")
    gap = np.concatenate([[0.0], np.cumsum(q - p)])
    left, right, widths = gap[:-1], gap[1:], np.diff(cuts)
    span = np.abs(left) + np.abs(right)
    crossing = left * right < 0
    areas = np.where(crossing, (left**2 + right**2) / np.where(span > 0, span, 1.0), span) / 2 * widths
    middles = cuts[:-1] + widths / 2
    like = wasserstein(middles, middles, reference, current, level=level)
    value, margin = float(areas.sum()), like.upper - like.value
    scale = value / like.value if like.value else 1.0
    return _distance(value, value - margin, value + margin, n, m, level, like.p_value, like.effect * scale)


def total_variation(reference: ArrayLike, current: ArrayLike, *, level: float = 0.95) -> Distance:
    """Share of mass that must change its cell, half the L1 distance, in [0, 1], of counts on common cells.

    Interval and p-value: expected sampling noise (at most half the sum of cell standard errors) plus McDiarmid's (1989)
    bound on its deviation, conservative at any n.

    >>> round(total_variation([50, 50], [80, 20]).value, 12)
    0.3
    """
    p, q, n, m = _shares(reference, current)
    value = float(np.abs(p - q).sum() / 2)
    expected = float(np.sqrt(p * (1 - p) / n + q * (1 - q) / m).sum() / 2)
    pooled = (n * p + m * q) / (n + m)
    expected_null = float(np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)).sum() / 2)
    information = n * m / (n + m)
    margin = expected + math.sqrt(math.log(2 / (1 - in_unit_interval(level, "level"))) / (2 * information))
    p_value = math.exp(-2 * information * max(0.0, value - expected_null) ** 2)
    return _distance(value, value - margin, min(1.0, value + margin), n, m, level, p_value)


def l_infinity(reference: ArrayLike, current: ArrayLike, *, level: float = 0.95) -> Distance:
    """Largest change of one cell's share, in [0, 1], of counts on common cells.

    Interval: simultaneous over cells by Bonferroni, cell variances after adding one success and one failure (Agresti
    and Caffo 2000), so that an unseen cell has one. p-value: the smallest cell's pooled z test times the number of
    cells.

    >>> l_infinity([50, 50, 0], [50, 20, 30]).value
    0.3
    """
    from scipy.special import ndtr, ndtri

    p, q, n, m = _shares(reference, current)
    gap = np.abs(p - q)
    reach = float(ndtri(1 - (1 - in_unit_interval(level, "level")) / (2 * p.size)))
    a, b = (p * n + 1) / (n + 2), (q * m + 1) / (m + 2)
    margin = reach * np.sqrt(a * (1 - a) / (n + 2) + b * (1 - b) / (m + 2))
    pooled = (n * p + m * q) / (n + m)
    se = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    z = float(np.divide(gap, se, out=np.zeros_like(gap), where=se > 0).max())
    p_value = min(1.0, p.size * 2 * float(ndtr(-z)))
    return _distance(
        float(gap.max()), float((gap - margin).max()), min(1.0, float((gap + margin).max())), n, m, level, p_value
    )


def psi(reference: ArrayLike, current: ArrayLike, *, smoothing: float = 0.5, level: float = 0.95) -> Distance:
    """Population stability index, sum of (q - p) log(q / p), of counts on common cells, each plus `smoothing` rows.

    Without smoothing an empty cell makes it infinite; 0.5 a cell is Jeffreys' prior. Without change PSI / (1/n + 1/m)
    is chi-square with cells - 1 degrees of freedom (Yurdakul and Naranjo 2020, "Statistical properties of the
    population stability index"), else noncentral: p-value and interval follow, the usual 0.1 and 0.25 do not.

    >>> round(psi([100, 100], [150, 50]).value, 4)
    0.2716
    """
    if not smoothing > 0:
        raise ValueError(f"smoothing must be above 0 rows a cell, got {smoothing}: an empty cell makes PSI infinite")
    p, q, n, m = _shares(reference, current, smoothing)
    value = float(((q - p) * np.log(q / p)).sum())
    return _divergence(value, p.size - 1, 1 / n + 1 / m, n, m, level)


def jensen_shannon(reference: ArrayLike, current: ArrayLike, *, level: float = 0.95) -> Distance:
    """Jensen-Shannon divergence in bits, in [0, 1], of counts on common cells (Lin 1991); its root is scipy's distance
    (base 2).

    p-value and interval: 8 ln(2) JSD / (1/n + 1/m) is chi-square without change, noncentral with a small one
    (second-order expansion of the divergence; Grosse et al. 2002).

    >>> round(jensen_shannon([100, 0], [50, 50]).value, 6)
    0.311278
    """
    p, q, n, m = _shares(reference, current)
    middle = (p + q) / 2
    value = float((_entropy_terms(p, middle) + _entropy_terms(q, middle)).sum() / 2 / math.log(2))
    used = int(np.count_nonzero(middle))
    found = _divergence(max(0.0, value), used - 1, (1 / n + 1 / m) / (8 * math.log(2)), n, m, level)
    return msgspec.structs.replace(found, upper=min(1.0, found.upper))


def chi_square(
    reference: ArrayLike, current: ArrayLike, *, smallest_expected: float = 5.0, level: float = 0.95
) -> Distance:
    """Cramer's V of the 2 x k table of counts, in [0, 1], with the chi-square test of homogeneity.

    Cells whose expected count in the smaller sample is below `smallest_expected` are pooled into one (Cochran 1954); a
    2 x 2 table gets Yates's (1934) correction, as in ``scipy.stats.chi2_contingency``. V is without correction.
    Interval by inverting the noncentral chi-square (Steiger and Fouladi 1997), widened by the delta method where the
    samples scatter more than their pooled shares would.

    >>> found = chi_square([30, 70], [50, 50])
    >>> round(found.value, 4), round(found.p_value, 6)
    (0.2041, 0.006099)
    """
    from scipy.special import chdtrc

    p, q, n, m = _shares(reference, current)
    table = np.vstack([p * n, q * m])
    expected = table.sum(axis=0) * (min(n, m) / (n + m))
    rare = expected < smallest_expected
    if rare.sum() > 1:
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    freedom, total = table.shape[1] - 1, n + m
    if freedom == 0:
        return _distance(0.0, 0.0, 1.0, n, m, level, 1.0)
    expected_table = np.outer([n, m], table.sum(axis=0)) / total
    gap = np.abs(table - expected_table)
    plain = float((gap**2 / expected_table).sum())
    corrected = gap - np.minimum(0.5, gap) if freedom == 1 else gap
    statistic = float((corrected**2 / expected_table).sum())
    low, high = _noncentrality(plain, freedom, level)
    extra = (_widening(table[0] / n, table[1] / m, n, m) - 1) * (high - low) / 2
    low, high = max(0.0, low - extra), high + extra
    return _distance(
        math.sqrt(plain / total),
        math.sqrt(low / total),
        min(1.0, math.sqrt(high / total)),
        n,
        m,
        level,
        float(chdtrc(freedom, statistic)),
    )


def _divergence(value: float, freedom: int, unit: float, n: int, m: int, level: float) -> Distance:
    """A divergence that is `unit` times a (noncentral) chi-square variable."""
    from scipy.special import chdtrc

    if freedom < 1:
        return _distance(value, 0.0, math.inf, n, m, level, 1.0)
    low, high = _noncentrality(value / unit, freedom, level)
    return _distance(value, low * unit, high * unit, n, m, level, float(chdtrc(freedom, value / unit)))


def _noncentrality(statistic: float, freedom: int, level: float) -> tuple[float, float]:
    """Confidence limits for the noncentrality of a chi-square statistic."""
    from scipy.special import chdtr, chndtrinc

    tail = (1 - in_unit_interval(level, "level")) / 2
    central = float(chdtr(freedom, statistic))
    if statistic > 1e4:
        # far out the variable is normal with variance 2 (freedom + 2 noncentrality), and scipy's inversion gives up
        from scipy.special import ndtri

        centre, reach = statistic - freedom, float(ndtri(1 - tail)) * math.sqrt(2 * freedom + 4 * (statistic - freedom))
        return max(0.0, centre - reach), centre + reach
    low = float(chndtrinc(statistic, freedom, 1 - tail)) if central > 1 - tail else 0.0
    high = float(chndtrinc(statistic, freedom, tail)) if central > tail else 0.0
    return low, high


def _widening(p: FloatArray, q: FloatArray, n: int, m: int) -> float:
    """Standard error along the statistic's gradient over the one that the noncentral chi-square has, at least 1."""
    pooled = (n * p + m * q) / (n + m)
    slope = (q - p) / pooled

    def variance(shares: FloatArray) -> float:
        return float(shares @ np.square(slope) - (shares @ slope) ** 2)

    expected = variance(pooled) * (1 / n + 1 / m)
    return math.sqrt(max(1.0, (variance(p) / n + variance(q) / m) / expected)) if expected > 0 else 1.0


def _distribution_functions(
    reference: ArrayLike, current: ArrayLike, reference_weights: ArrayLike | None, current_weights: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, int, int]:
    """All distinct values, the gaps between them, both distribution functions at them, and both numbers of rows."""
    x = finite(reference, "reference").ravel()
    y = x if current is reference else finite(current, "current").ravel()
    common = y is x and bool((x[1:] > x[:-1]).all())  # cells of one histogram
    values = x if common else np.unique(np.concatenate([x, y]))
    f, n = _distribution_function(x, reference_weights, values, "reference")
    g, m = _distribution_function(y, current_weights, values, "current")
    return values, np.diff(values), f, g, n, m


def _distribution_function(
    x: FloatArray, weights: ArrayLike | None, values: FloatArray, name: str
) -> tuple[FloatArray, int]:
    if weights is None:
        w: FloatArray = np.ones(x.size)
    else:
        w = finite(weights, f"{name} weights").ravel()
    if w.size != x.size or not x.size or (w < 0).any() or w.sum() <= 0:
        raise ValueError(f"{name} needs rows, and one weight >= 0 a value: got {x.size} values, {w.size} weights")
    mass = w if values is x else np.bincount(np.searchsorted(values, x), weights=w, minlength=values.size)
    # the last step is 1 by definition; a rounding error there would count as a difference
    return np.minimum(np.cumsum(mass) / w.sum(), 1.0), round(float(w.sum()))


def _shares(
    reference: ArrayLike, current: ArrayLike, smoothing: float = 0.0
) -> tuple[FloatArray, FloatArray, int, int]:
    """Both shares over common cells and both numbers of rows; raises ValueError on unequal lengths, negative or no
    counts.
    """
    a, b = finite(reference, "reference counts").ravel(), finite(current, "current counts").ravel()
    if a.size != b.size or (a < 0).any() or (b < 0).any() or a.sum() <= 0 or b.sum() <= 0:
        raise ValueError(
            f"counts must be >= 0, on common cells, with rows on both sides; got {a.size} cells with {a.sum():g} rows "
            f"and {b.size} cells with {b.sum():g}"
        )
    n, m = round(float(a.sum())), round(float(b.sum()))
    a, b = a + smoothing, b + smoothing
    return a / a.sum(), b / b.sum(), n, m


def _entropy_terms(p: FloatArray, middle: FloatArray) -> FloatArray:
    return np.asarray(p * np.log(np.where(p > 0, p, 1.0) / np.where(p > 0, middle, 1.0)))


def _distance(
    value: float, lower: float, upper: float, n: int, m: int, level: float, p: float, effect: float | None = None
) -> Distance:
    return Distance(
        value=value,
        lower=min(max(0.0, lower), value),
        upper=max(upper, value),
        n=m,
        n_reference=n,
        level=level,
        p_value=p,
        effect=value if effect is None else effect,
    )
