"""Pairs of numbers that no longer go together as before, though each alone is as it was.

A pair's correlation is that of normal scores (van der Waerden 1952), ranked within each day, so that neither a level
that differs from day to day nor a column that drifts, is stretched or grows a tail counts as a change of how two go
together. How much correlations vary by themselves beyond chance is learnt from the days before, which all pairs tell
together. All is pure; multivariate.py says which rows are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.frames import column, numeric
from undrift.monitor.monitors import Monitor, found
from undrift.stats.calibration import step_up

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["judge_correlation", "normal_scores"]

MOST_COLUMNS: Final = 200
"""Numeric columns whose pairs are looked at: 19,900 pairs."""
MOST_ROWS: Final = 2_000
"""Rows of a day that are ranked, spread evenly over it."""
FEWEST_ROWS: Final = 20
"""Rows of a day below which it says nothing about a pair."""
FEWEST_DAYS: Final = 14
"""Days before the window from which it is known how correlations differ by themselves."""
FAR: Final = 4.0
"""Standard errors beyond which a pair is an exception among the others: there are many pairs."""
DAY: Final = 86_400_000_000

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class _Days(NamedTuple):
    """Pairs by day, shapes (days, pairs): sums of products of scores, of squares of each side where both are known, and
    rows.
    """

    product: Floats
    left: Floats
    right: Floats
    rows: Floats


class _Pairs(NamedTuple):
    """Each pair before and now: its Fisher z, the standard error of each, and degrees of freedom behind them."""

    before: Floats
    now: Floats
    error_before: Floats
    error_now: Floats
    freedom: Floats


def normal_scores(x: Floats, day: NDArray[np.int64]) -> Floats:
    """The normal score of each value among those of its day: the quantile of (rank - 1/2) / n; equal values share one.

    Parameters
    ----------
    x : shape (n,), NaN for none, which keeps a score of NaN.
    day : shape (n,), days from 0.

    >>> normal_scores(np.array([3.0, 1.0, 2.0, 9.0]), np.array([0, 0, 0, 1])).round(2).tolist()
    [0.97, -0.97, 0.0, 0.0]
    """
    from scipy.special import ndtri

    held = np.flatnonzero(np.isfinite(x))
    scores = np.full(len(x), np.nan)
    if not len(held):
        return scores
    order = held[np.lexsort((x[held], day[held]))]
    days, values = day[order], x[order]
    begins = np.flatnonzero(np.diff(days, prepend=days[0] - 1))
    sizes = np.diff(np.append(begins, len(days)))
    # values that are equal have the middle of their places
    fresh = np.ones(len(days), dtype=bool)
    fresh[1:] = (days[1:] != days[:-1]) | (values[1:] != values[:-1])
    first = np.flatnonzero(fresh)
    middle = (first + np.append(first[1:], len(days)) - 1) / 2
    places = middle[np.cumsum(fresh) - 1] - np.repeat(begins, sizes)
    scores[order] = ndtri((places + 0.5) / np.repeat(sizes, sizes))
    return scores


def judge_correlation(
    monitor: Monitor,
    columns: Mapping[str, pa.ChunkedArray],
    times: NDArray[np.int64],
    parts: tuple[Bools, Bools],
    window: Window,
    ticks: int,
) -> Finding:
    """Judge all pairs of numeric columns, of the rows of a window against those before it.

    A pair fails where its correlation differs by more than the practical size with confidence (bounds of the difference
    of two correlations: Zou 2007), all pairs looked at together.

    Parameters
    ----------
    columns : by name; those that are no numbers are left out, as are the last by name beyond `MOST_COLUMNS`.
    times : of the rows, microseconds.
    parts : which rows are of the window, and which of the time before.
    ticks : judgements in 30 days.
    """
    fresh, past = parts
    numbers = sorted(name for name, values in columns.items() if numeric(values))
    names, left_out = numbers[:MOST_COLUMNS], max(0, len(numbers) - MOST_COLUMNS)
    n = int(fresh.sum())
    day = (times - to_micros(window.start)) // DAY
    day = day - int(day.min(initial=0))
    rows = _sample(day, fresh | past)
    pairs = np.triu_indices(len(names), 1)
    of_window = np.unique(day[rows[fresh[rows]]])
    of_past = np.setdiff1d(np.unique(day[rows[past[rows]]]), of_window)
    if len(names) < 2 or len(of_past) < FEWEST_DAYS or len(of_window) < 2:
        why = (
            f"{len(names)} columns of numbers, {len(of_window)} days in {window} and {len(of_past)} before, too few to "
            f"say how pairs go together (2, 2 and {FEWEST_DAYS} are needed)"
        )
        return found(
            monitor, Verdict.INCONCLUSIVE, why, name="correlation", value=0.0, n=n, window=window,
        )  # fmt: skip
    scores = np.column_stack([normal_scores(column(columns[name])[rows], day[rows]) for name in names])
    seen = _noise(_by_day(scores, day[rows], of_past, pairs), _by_day(scores, day[rows], of_window, pairs), len(names))
    known = np.isfinite(seen.before) & np.isfinite(seen.now)
    gap = np.where(known, np.tanh(seen.now) - np.tanh(seen.before), 0.0)
    tests = max(1, int(known.sum()))

    def lower(level: float) -> Floats:
        return np.asarray(np.where(known, _least(seen, level / 2), 0.0))  # of either sign

    level = step_up(lambda each: int((lower(each) > monitor.size).sum()), monitor.alpha(tests, ticks), tests)
    least = lower(level)
    failing = np.flatnonzero(least > monitor.size)
    failing = failing[np.argsort(-least[failing], kind="stable")]
    most = int(failing[0]) if len(failing) else int(np.abs(gap).argmax())

    def said(pair: int) -> str:
        a, b = (names[int(side[pair])] for side in pairs)
        return f"{a} and {b} {np.tanh(seen.before[pair]):+.2f} before, {np.tanh(seen.now[pair]):+.2f} now"

    shown = "; ".join(said(int(pair)) for pair in failing[:4]) if len(failing) else said(most)
    more = f" and {len(failing) - 4} more" if len(failing) > 4 else ""
    why = (
        f"of {tests} pairs {len(failing)} go together otherwise (correlations: {shown}{more}; tolerated "
        f"{monitor.size:g} and what days differ{_beyond(left_out)})"
    )
    lead = names[_lead(failing, pairs)] if len(failing) else ""
    partner = [names[int(side[most])] for side in pairs]
    apart = f"{' and '.join(partner)} no longer go together as before"
    return found(
        monitor, Verdict.FAIL if len(failing) else Verdict.PASS, why, name="correlation", value=float(gap[most]), n=n,
        window=window, interval=_interval(gap[most], float(least[most]), level), column=lead,
        cause="" if not lead else apart if len(failing) == 1 else f"{lead} no longer goes with others as before",
        lingers=bool(len(failing)), pairs=[[names[int(side[pair])] for side in pairs] for pair in failing[:20]],
    )  # fmt: skip


def _beyond(left_out: int) -> str:
    return f"; {left_out} columns more are not looked at, name the ones that matter in `columns`" if left_out else ""


def _interval(gap: float, least: float, level: float) -> Interval:
    """The difference and the bound nearer to 0, mirrored for the other."""
    reach = abs(gap) - least
    return Interval(max(-2.0, float(gap) - reach), min(2.0, float(gap) + reach), 1 - level)


def _lead(failing: NDArray[np.int64], pairs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> int:
    """The column that is in most of the pairs that fail, else in the first of them."""
    sides = np.concatenate([side[failing] for side in pairs])
    return int(np.bincount(sides).argmax())


def _sample(day: NDArray[np.int64], held: Bools) -> NDArray[np.int64]:
    """Places of the rows that are held, of a day with more than `MOST_ROWS` as many, evenly."""
    places = np.flatnonzero(held)
    if not len(places) or int(np.bincount(day[places]).max()) <= MOST_ROWS:
        return places
    places = places[np.argsort(day[places], kind="stable")]
    parts = np.split(places, np.flatnonzero(np.diff(day[places])) + 1)
    return np.concatenate([p[np.linspace(0, len(p) - 1, min(len(p), MOST_ROWS)).astype(np.int64)] for p in parts])


def _by_day(
    scores: Floats, day: NDArray[np.int64], days: NDArray[np.int64], pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> _Days:
    """What correlations are made of, of each of the days; a row counts for a pair if it has both."""
    made: list[tuple[Floats, Floats, Floats, Floats]] = []
    complete = bool(np.isfinite(scores).all())
    order = np.argsort(day, kind="stable")
    ends = np.searchsorted(day[order], days, side="right")
    begins = np.searchsorted(day[order], days, side="left")
    for first, last in zip(begins, ends, strict=True):
        z = scores[order[first:last]]
        mask = np.isfinite(z)
        z = z if complete else np.where(mask, z, 0.0)
        product = (z.T @ z)[pairs]
        if complete:
            square = np.square(z).sum(axis=0)
            made.append((product, square[pairs[0]], square[pairs[1]], np.full(len(product), float(len(z)))))
            continue
        here = mask.astype(np.float64)
        square = np.square(z).T @ here  # of each column, over the rows that have the other
        made.append((product, square[pairs], square.T[pairs], (here.T @ here)[pairs]))
    return _Days(*(np.stack(each) for each in zip(*made, strict=True)))


def _z(days: _Days) -> tuple[Floats, Floats]:
    """Fisher's z of each day and of all days together; NaN where a pair has too few rows or does not vary."""
    with np.errstate(invalid="ignore", divide="ignore"):
        each = days.product / np.sqrt(days.left * days.right)
        whole = days.product.sum(axis=0) / np.sqrt(days.left.sum(axis=0) * days.right.sum(axis=0))
    each[days.rows < FEWEST_ROWS] = np.nan
    return tuple(np.arctanh(np.clip(r, -0.999, 0.999)) for r in (each, whole))  # type: ignore[return-value]


def _noise(past: _Days, now: _Days, columns: int) -> _Pairs:
    """Each pair's z before and now with their errors.

    What days vary beyond chance (variance of z: 1 / (rows - 3)) is one ratio for all pairs, and so is what weeks vary
    beyond their days; a pair far beyond the others is taken at its own word.
    """
    daily, before = _z(past)
    _, current = _z(now)
    held = np.isfinite(daily)
    days = held.sum(axis=0)
    usable = days >= FEWEST_DAYS
    mean = np.where(held, daily, 0.0).sum(axis=0) / np.maximum(days, 1)
    gaps = np.where(held, daily - mean, 0.0)
    own = np.square(gaps).sum(axis=0) / np.maximum(days - 1, 1)
    chance = (held / np.maximum(past.rows - 3, 1)).sum(axis=0) / np.maximum(days, 1)
    ratio = np.where(usable, own / np.maximum(chance, 1e-12), np.nan)
    usual = max(1.0, float(np.nanmean(ratio))) if usable.any() else 1.0
    # weeks: what the means of seven days vary, against what such days make in any order
    length = max(1, len(now.rows))
    parts = len(daily) // length
    growth = np.full(len(own), np.nan)
    if parts >= 2:
        cut = gaps[len(daily) - parts * length :].reshape(parts, length, -1)
        counted = held[len(daily) - parts * length :].reshape(parts, length, -1).sum(axis=1)
        weeks = cut.sum(axis=1) / np.maximum(counted, 1)
        between = np.square(weeks - weeks.mean(axis=0)).sum(axis=0) / (parts - 1)
        growth = np.where(usable, between * length / np.maximum(chance, 1e-12), np.nan)
    week = max(usual, float(np.nanmean(growth))) if np.isfinite(growth).any() else usual
    freedom = np.full(len(own), float(max(1, len(daily) - 1) * max(1, columns - 1)))
    scale = np.full(len(own), week)
    # exceptions: far more than the others, by days or by weeks
    for mine, common, degrees in ((ratio, usual, days - 1), (growth, week, np.full(len(own), max(1, parts - 1)))):
        with np.errstate(invalid="ignore"):
            far = mine > common * (1 + FAR * np.sqrt(2 / np.maximum(degrees, 1)))
        scale = np.where(far & (mine > scale), mine, scale)
        freedom = np.where(far, np.minimum(freedom, np.maximum(degrees, 1)), freedom)

    def error(part: _Days) -> Floats:
        rows = np.where(part.rows >= FEWEST_ROWS, part.rows - 3, 0).sum(axis=0)
        return np.asarray(np.sqrt(scale / np.maximum(rows, 1e-12)))

    return _Pairs(np.where(usable, before, np.nan), current, error(past), error(now), freedom)


def _least(seen: _Pairs, alpha: float) -> Floats:
    """The bound of each difference of correlations that is nearer to 0, at an error rate of one side; 0 if none."""
    from scipy.special import stdtrit

    reach = stdtrit(seen.freedom, 1 - alpha)
    r1, r2 = np.tanh(seen.now), np.tanh(seen.before)
    (low1, high1), (low2, high2) = (
        (np.tanh(z - reach * error), np.tanh(z + reach * error))
        for z, error in ((seen.now, seen.error_now), (seen.before, seen.error_before))
    )
    lower = r1 - r2 - np.hypot(r1 - low1, high2 - r2)
    upper = r1 - r2 + np.hypot(high1 - r1, r2 - low2)
    return np.asarray(np.maximum(0.0, np.maximum(lower, -upper)))
