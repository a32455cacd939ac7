"""The worst slice: where the loss is far above what it was expected to be, though on the whole it looks fine.

Values of categories and quarters of numbers, alone and in pairs, are the candidates. Small ones are drawn towards the
whole (empirical Bayes), many are looked at and paid for (Benjamini and Hochberg 1995), and days are the units, as
everywhere; rows about the same thing count by what they add (repeats.py). Of slices that share rows the one with the
most evidence is told, and others for what it leaves unexplained. What happens next stands in alerts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.develop.bundle import Interface
from undrift.finding import Finding, Verdict
from undrift.ids import to_micros
from undrift.monitor.estimate import FEWEST_LABELLED, estimated_losses
from undrift.monitor.evidence import Evidence, metric_of
from undrift.monitor.frames import column, columns_of, numeric
from undrift.monitor.monitors import Monitor, found
from undrift.monitor.repeats import Repeats, same_rows, same_values

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Slice", "judge_slices", "worst_slices"]

DAY: Final = 86_400_000_000
MOST_LEVELS: Final = 12
QUARTERS: Final = 4
FEWEST_DAYS: Final = 5
FEWEST_APART: Final = 5
"""Rows apart that a slice must be worth, where things come again."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Slice(NamedTuple):
    """A part of the rows: what it is, its rows, its mean loss and that of all other rows, the difference drawn towards
    zero for its uncertainty, and the adjusted p-value of "no worse than the others".
    """

    where: dict[str, str]
    n: int
    loss: float
    others: float
    excess: float
    p_value: float


def worst_slices(
    columns: Mapping[str, Any],
    loss: Floats,
    times: NDArray[np.int64],
    *,
    repeats: Sequence[Repeats] = (),
    practical: float = 0.0,
    minimum_n: int = 200,
    pairs: bool = True,
    level: float = 0.05,
    most: int = 5,
) -> list[Slice]:
    """The slices whose loss is beyond that of all other rows by more than ``practical``, the largest excess first.

    A slice is left out that is beyond it only for the rows which it shares with one of more evidence: the parts of a
    bad slice, and what a bad part makes look bad (forward selection; each step is on what the slices before leave of
    the loss). A pair is told instead of one of its two parts only if it is surely worse than the rest of that part.

    Parameters
    ----------
    columns : inputs and features by name, as Arrow columns.
    loss, times : of the same rows; NaN where there is no label.
    repeats : which of the same rows are about one thing, by each notion of a thing; empty where each is of its own.
    practical : smallest excess worth telling, in units of the loss.
    minimum_n : labelled rows a slice needs.
    level : false discovery rate over all slices that were looked at.
    """
    held = np.isfinite(loss)
    repeats = [each.take(held) for each in repeats]
    loss, days = loss[held], np.unique(times[held] // DAY, return_inverse=True)[1]
    count = int(days.max(initial=-1)) + 1
    if count < FEWEST_DAYS:
        return []
    groups: list[tuple[dict[str, str], Bools]] = []
    for name, values in columns.items():
        groups += [({name: text}, flag[held]) for text, flag in _levels(values)]
    groups = [(where, flag) for where, flag in groups if minimum_n <= flag.sum() <= len(loss) - minimum_n]
    if pairs:
        groups += [
            ({**a, **b}, both)
            for (a, x), (b, y) in combinations(groups, 2)
            if not a.keys() & b.keys() and minimum_n <= (both := x & y).sum()
        ]
    if not groups:
        return []
    seen = [_excess(loss, days, count, flag, repeats) for _, flag in groups]
    gap, error, worth = (np.array(each) for each in zip(*seen, strict=True))
    p = _p_value(gap - practical, error, worth, count)
    # method of moments for how much slices truly differ; what is left of a gap after its noise is taken off
    spread = max(0.0, float(np.mean(gap**2 - error**2)))
    shrunk = gap * spread / (spread + error**2) if spread > 0 else np.zeros_like(gap)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate((p[order] * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    found, left = list(np.flatnonzero((adjusted <= level) & (shrunk > practical))), loss
    told: list[Slice] = []
    while found and len(told) < most:
        best, *others = sorted(found, key=lambda k: (practical - gap[k]) / error[k])
        for k in others:
            (where, part), (narrower, flag) = groups[k], groups[best]
            if where.items() < narrower.items() and not _adds(left, days, flag, part, repeats, level / len(groups)):
                best = k
        (where, flag), q = groups[best], float(min(adjusted[best], 1.0))
        told.append(
            Slice(where, int(flag.sum()), float(loss[flag].mean()), float(loss[~flag].mean()), float(shrunk[best]), q)
        )
        left = left - np.where(flag, left[flag].mean() - left[~flag].mean(), 0.0)
        found.remove(best)
        for k in found:
            gap[k], error[k], worth[k] = _excess(left, days, count, groups[k][1], repeats)
        p = _p_value(gap - practical, error, worth, count)
        found = [k for k in found if p[k] <= level]
    return sorted(told, key=lambda each: (-each.excess, sorted(each.where.items())))


def _adds(
    loss: Floats, days: NDArray[np.intp], flag: Bools, part: Bools, repeats: Sequence[Repeats], level: float
) -> bool:
    """Whether a slice of a part is surely worse than the rest of the part."""
    if flag[part].all():
        return False
    count, mine = int(days.max()) + 1, [each.take(part) for each in repeats]
    return bool(_p_value(*_excess(loss[part], days[part], count, flag[part], mine), count) <= level)


def _p_value(beyond: Any, error: Any, worth: Any, days: int) -> Any:
    """Of "no more than is tolerated", by Student's t; 1 where too few rows apart could say."""
    from scipy.special import stdtr

    freedom = np.maximum(np.minimum(days, worth) - 1, 1.0)
    return np.where(worth < FEWEST_APART, 1.0, 1 - stdtr(freedom, beyond / error))


def _levels(values: Any) -> list[tuple[str, Bools]]:
    """The frequent values of a category, or quarters of numbers."""
    if numeric(values):
        x = column(values)
        sound = x[np.isfinite(x)]
        if not len(sound):
            return []
        cuts = np.unique(np.quantile(sound, np.arange(1, QUARTERS) / QUARTERS))
        cell = np.where(np.isfinite(x), np.searchsorted(cuts, x, side="right"), -1)
        edges = ["", *(f"{c:.4g}" for c in cuts), ""]
        names = [f"{a}..{b}" for a, b in pairwise(edges)]
        return [(name, cell == k) for k, name in enumerate(names)]
    coded = values.cast("string").combine_chunks().dictionary_encode()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    rows = np.bincount(codes[codes >= 0], minlength=len(coded.dictionary))
    return [(str(coded.dictionary[int(k)]), codes == k) for k in np.argsort(-rows, kind="stable")[:MOST_LEVELS]]


def _excess(
    loss: Floats, days: NDArray[np.intp], count: int, flag: Bools, repeats: Sequence[Repeats]
) -> tuple[float, float, float]:
    """Mean loss in the slice less that of the others, its standard error, and how many rows apart it is worth.

    The error is that by days (both ratios linearised), and what things add that come again on many of them.
    """
    inside, outside = float(loss[flag].mean()), float(loss[~flag].mean())
    weight = np.where(flag, (loss - inside) / flag.sum(), -(loss - outside) / (~flag).sum())
    sums = np.bincount(days, weights=weight, minlength=count)
    variance = float(np.square(sums).sum() * count / (count - 1))
    more, worth = 0.0, float(min(flag.sum(), (~flag).sum()))
    for each in repeats:
        (a, n), (b, m) = each.cost(flag), each.cost(~flag)
        more, worth = max(more, a + b), min(worth, n, m)
    return inside - outside, max(float(np.sqrt(variance + more)), 1e-12), worth


def judge_slices(monitor: Monitor, evidence: Evidence) -> list[Finding]:
    """Judge the slices of the labelled rows of the last window; pure.

    What is looked at is the loss beyond what each row's own probabilities lead to expect (for regression: a model of
    the loss, learnt before the window), and where the same thing comes again beyond what it lost before; so a slice
    that was always hard is no finding, and one that rots is.

    Parameters
    ----------
    evidence : of two windows at least.
    """
    import pyarrow as pa

    interface, rows, expected = evidence.interface, evidence.rows, evidence.expected
    metric = metric_of(monitor, interface)
    window = evidence.window(monitor)
    times, mine, loss = evidence.times, evidence.mine, evidence.losses(metric)
    fresh = mine & evidence.within(window)
    before = mine & (times < to_micros(window.start))
    usual = estimated_losses(interface, metric, rows, before) if rows.num_rows else None
    n = int((fresh & np.isfinite(loss)).sum())
    if usual is None or metric not in expected or n < 2 * FEWEST_LABELLED:
        why = f"{metric}: {n} labelled rows in {window} and what was before are too few to look for slices"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="slice", value=0.0, n=n, window=window)]
    held = rows.filter(pa.array(fresh))
    columns = {k: v for k, v in columns_of(held).items() if k not in ("score", "label")}
    columns = {k: v for k, v in columns.items() if not monitor.columns or k in monitor.columns}
    practical = expected[metric].value * monitor.size
    level = monitor.alpha(1, evidence.ticks)
    excess, repeats = _beyond_own_past(interface, rows, loss - usual, mine & ~fresh)
    worst = worst_slices(
        columns,
        excess[fresh],
        times[fresh],
        repeats=[each.take(fresh) for each in repeats],
        practical=practical,
        level=level,
    )
    if not worst:
        why = f"no slice of {n} labelled rows loses {practical:.3g} of {metric} more than its answers lead to expect"
        return [found(monitor, Verdict.PASS, why, name="slice", value=0.0, n=n, window=window)]
    findings = []
    for each in worst:
        where = " and ".join(f"{name}={value}" for name, value in each.where.items())
        why = (
            f"{where}: {metric} is {each.excess:.3g} beyond what was to be expected, more than elsewhere "
            f"({each.n} rows, adjusted p {each.p_value:.2g})"
        )
        findings.append(
            found(
                monitor, Verdict.FAIL, why, name="slice", value=each.excess, n=each.n, window=window,
                segment=each.where, cause=f"{metric} is worst in a slice",
            )
        )  # fmt: skip
    return findings


def _beyond_own_past(interface: Interface, rows: pa.Table, excess: Floats, past: Bools) -> tuple[Floats, list[Repeats]]:
    """The excess less what the same inputs, and the same unit, had of it before; and what their rows still share."""
    columns, names = columns_of(rows), {given.name for given in interface.inputs}
    codes = [same_rows({name: values for name, values in columns.items() if name in names})]
    codes += [same_values(rows["unit"])] if interface.unit and interface.unit != interface.key else []
    found: list[Repeats] = []
    for each in codes:
        repeats = Repeats.measured(each, excess, past) if len(each) else None
        if repeats is not None:
            found.append(repeats)
            excess = excess - repeats.usual
    return excess, found
