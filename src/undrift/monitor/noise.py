"""How much shares of rows vary from window to window by themselves, learnt from weeks of kept profiles.

A share is that of the rows below a cut (numbers) or of a category. What its days vary beyond chance is its weather; it
is taken on the logit scale, where columns are comparable, so that columns lend each other what one alone knows badly
(Efron and Morris 1975), but a column that is far wilder than chance allows is taken at its own word (1972). Whether a
distance matters is judged in drift.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Window
from undrift.ids import to_micros
from undrift.monitor.cells import Reference, Slots

__all__ = ["CALIBRATION", "Noise", "by_day", "noises", "shares_of"]

DAY: Final = 86_400_000_000
CALIBRATION: Final = 28
"""Days before a window from which how they differ is known well enough."""
FAR: Final = 3.0
"""Standard errors beyond which a column is an exception among the others."""
WEEK: Final = 7
BEGUN: Final = 2
"""Windows just before the one judged in which a change of it may have begun, unnoticed: its steps are no noise."""
ROUNDS: Final = 4
"""Of counting shares by how well they know their variance, which depends on it; it settles in two or three."""
FEWEST_PAIRS: Final = 14
"""Pairs of days a week apart from which days are compared by weekday."""

Floats = NDArray[np.float64]


class Noise(NamedTuple):
    """What the shares of a column's windows vary beyond chance (variances), the days' worth behind that, and for how
    many independent ones they count: shares below neighbouring cuts move together.
    """

    variance: Floats
    days: float
    looks: float


class _Seen(NamedTuple):
    """A column's weeks: mean shares, variance of days and of windows beyond chance, chance's own part of each, the days
    there were, and how many independent ones tell their variance as well.
    """

    kind: bool
    share: Floats
    day: Floats
    window: Floats
    chance: tuple[Floats, Floats]
    n: int
    looks: float
    worth: float


def shares_of(reference: Reference, counts: Floats) -> Floats:
    """Rows below each cut of a numeric reference, or in each cell of a categorical one; of counts (..., cells)."""
    return np.cumsum(counts, axis=-1)[..., :-1] if reference.edges else counts


def by_day(days: NDArray[np.int64], table: Floats) -> Floats:
    """Slots, which ascend, added up by day: (..., slots, cells) to (..., days, cells)."""
    begins = np.flatnonzero(np.diff(days, prepend=days[:1] - 1))
    return table if len(begins) == len(days) else np.add.reduceat(table, begins, axis=-2)


def noises(series: Mapping[str, Slots], references: Mapping[str, Reference], window: Window) -> dict[str, Noise]:
    """The noise of windows as long as this one, of each series with `CALIBRATION` days before it; pure."""
    alike: dict[tuple[bytes, bool, int], list[str]] = {}
    for name, slots in series.items():
        alike.setdefault((slots.at.tobytes(), bool(references[name].edges), slots.cells.shape[1]), []).append(name)
    seen: dict[str, _Seen] = {}
    for names in alike.values():
        cells = np.stack([series[name].cells for name in names])
        seen |= zip(names, _seen(references[names[0]], series[names[0]].at, cells, window), strict=False)
    length = max(1, (to_micros(window.end) - to_micros(window.start)) // DAY)
    kinds = [{name: seen[name] for name in series if name in seen and seen[name].kind is k} for k in (True, False)]
    return {name: noise for kind in kinds if kind for name, noise in _together(kind, length).items()}


def _together(seen: Mapping[str, _Seen], length: int) -> dict[str, Noise]:
    """The noise of columns of one kind; numbers and categories have rhythms of their own."""
    # between days: shares with the same rank among the cuts have the same weather on the logit scale
    keys = np.concatenate([_keys(each) for each in seen.values()])
    extra, share = (np.concatenate([getattr(each, part) for each in seen.values()]) for part in ("day", "share"))
    by_chance = np.concatenate([each.chance[0] for each in seen.values()])
    scale = np.square(share * (1 - share))
    usual = _pooled(keys, extra, scale, by_chance)
    places = np.cumsum([len(each.share) for each in seen.values()])[:-1]
    common = dict(zip(seen, np.split(usual[keys] * scale, places), strict=True))
    trust = _trust({name: (each.day, common[name], each.chance[0], each.worth) for name, each in seen.items()})
    days = {name: np.maximum(0.0, w * seen[name].day + (1 - w) * common[name]) for name, w in trust.items()}
    # between windows: neighbouring days are alike, weekdays cancel out; all columns together say how much of each
    whole, parts = sum(float(e.window.sum()) for e in seen.values()), sum(float(d.sum()) for d in days.values())
    ratio = max(1.0, whole / parts * length) if parts > 0 else 1.0
    windows = {name: found * ratio / length for name, found in days.items()}
    # what all have in common is known from windows, one a length of each column; segments share their column's weather
    shared = sum({name.partition("[")[0]: e.n for name, e in seen.items()}.values()) // length
    trust = _trust({name: (e.window, windows[name], e.chance[1], e.n // length) for name, e in seen.items()})
    found = {}
    for name, each in seen.items():
        w = trust[name]
        own = (1 - w) * windows[name] + w * np.maximum(0.0, each.window)
        behind = max(each.n, shared) if w < 1 else each.n
        found[name] = Noise(np.maximum(windows[name], own), float(behind), each.looks)
    return found


def _pooled(keys: NDArray[np.int64], extra: Floats, scale: Floats, chance: Floats) -> Floats:
    """Of each key the variance on the logit scale that its shares have in common, each counted by how well it knows it.

    What a variance of days spreads by chance is in proportion to all that the days vary; so of rare categories, whose
    days vary by chance alone, hardly anything is to be learnt, and of shares with more weather than chance all count
    alike.
    """
    held, size = scale > 0, int(keys.max()) + 1
    found = np.zeros(size)
    for _ in range(ROUNDS):
        weight = np.zeros(len(keys))
        weight[held] = np.square(scale[held] / (chance[held] + found[keys[held]] * scale[held]))
        told = np.bincount(keys[held], weights=weight[held] * extra[held] / scale[held], minlength=size)
        whole = np.bincount(keys[held], weights=weight[held], minlength=size)
        found = np.maximum(0.0, np.divide(told, whole, out=np.zeros(size), where=whole > 0))
    return found


def _seen(reference: Reference, at: NDArray[np.int64], cells: Floats, window: Window) -> list[_Seen]:
    """The weeks of series with the same slots and as many cells, (series, slots, cells); empty if too few."""
    start, span = to_micros(window.start), to_micros(window.end) - to_micros(window.start)
    length = int(max(1, span // DAY))
    # what changes now has perhaps begun before: the windows just before are left out, if enough is left without them
    known = int((start - at[0]) // DAY) if len(at) else 0
    start -= min(BEGUN * length, max(0, known - max(CALIBRATION, 8 * length))) * DAY
    held = int(np.searchsorted(at, start))
    days = by_day((at[:held] - start) // DAY, cells[:, :held])
    if days.shape[1] < CALIBRATION or days.shape[1] * DAY < 3 * span:
        return []
    rows = days.sum(axis=2)
    if len(days) > 1 and not rows.all():  # days on which some have no rows: each by itself
        return [one for each in cells for one in _seen(reference, at, each[None], window)]
    held_days = np.unique((at[:held] - start) // DAY)[rows[0] > 0]
    days, rows = days[:, rows[0] > 0], rows[:, rows[0] > 0]
    below = shares_of(reference, days)
    share = below.sum(axis=1) / rows.sum(axis=1)[:, None]
    reached = np.concatenate([np.zeros((len(below), 1, below.shape[2])), np.cumsum(below, axis=1)], axis=1)
    total = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    sums, sizes = reached[:, length:] - reached[:, :-length], total[:, length:] - total[:, :-length]
    daily = below / rows[:, :, None]
    weekly = length % WEEK == 0 and len(_pairs(held_days, WEEK)[0]) >= FEWEST_PAIRS
    # weekdays cancel out of whole weeks, so how they differ is no weather of windows: days a week apart are compared
    pairs = _pairs(held_days, WEEK) if weekly else _pairs(np.arange(len(held_days)), 1)
    day, by_chance = _beyond_chance(daily, rows, share, pairs)
    worth = len(pairs[0]) / 2 if weekly else float(rows.shape[1])  # gaps of a week overlap with those that follow
    looks = _looks(np.diff(daily, axis=1).reshape(-1, daily.shape[2]))
    # weeks next to each other are alike where days are, so those after next are compared, if there are enough
    apart = 2 * length if rows.shape[1] >= 6 * length else length
    whole, of_window = _beyond_chance(sums / sizes[:, :, None], sizes, share, _pairs(np.arange(sums.shape[1]), apart))
    chances = zip(by_chance, of_window, strict=True)
    return [
        _Seen(bool(reference.edges), share[k], day[k], whole[k], chance, rows.shape[1], looks, worth)
        for k, chance in enumerate(chances)
    ]


def _pairs(at: NDArray[np.int64], apart: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of an ascending series whose times lie so far apart, earlier and later."""
    later = np.searchsorted(at, at + apart)
    held = later < len(at)
    held[held] = at[later[held]] == at[held] + apart
    return np.flatnonzero(held), later[held]


def _beyond_chance(
    shares: Floats, rows: Floats, mean: Floats, pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[Floats, Floats]:
    """Variance of shares beyond chance, and by chance, from gaps of pairs (von Neumann 1941): a slow drift does not
    hide in it.
    """
    gaps = shares[:, pairs[1]] - shares[:, pairs[0]]
    chance = mean * (1 - mean) * (1 / rows).mean(axis=1)[:, None]
    return np.einsum("cij,cij->cj", gaps, gaps) / max(1, gaps.shape[1]) / 2 - chance, chance


def _looks(moves: Floats) -> float:
    """The effective number of shares that move as these do, (n, shares): (sum of roots of eigenvalues of their
    correlation) squared over their sum (Galwey 2009); never below 1.
    """
    scale = np.sqrt(np.einsum("ij,ij->j", moves, moves))
    used = moves[:, scale > 0] / scale[scale > 0]
    values = np.clip(np.linalg.eigvalsh(used.T @ used), 0.0, None)
    return max(1.0, float(np.sqrt(values).sum() ** 2 / values.sum())) if values.sum() > 0 else 1.0


def _keys(seen: _Seen) -> NDArray[np.int64]:
    """Cuts of numbers are told apart by their share in twentieths; categories are all alike."""
    return np.rint(20 * seen.share * seen.kind).astype(np.int64)


def _trust(columns: Mapping[str, tuple[Floats, Floats, Floats, float]]) -> dict[str, float]:
    """How far each column is believed against what is common to all, in [0, 1].

    Its total over the common one would spread by chance as a variance of so many days does; what it spreads beyond that
    is real. A column more than `FAR` standard errors above is believed in full.
    """
    ratio, chance = {}, {}
    for name, (own, common, by_chance, n) in columns.items():
        total = float(common.sum() + by_chance.sum())
        ratio[name] = (float(own.sum()) + float(by_chance.sum())) / total if total > 0 else 1.0
        chance[name] = 3.0 / max(n, 1)  # of a mean of squared differences of neighbours, whose cuts go together
    spread = float(np.mean([(r - 1) ** 2 for r in ratio.values()]))
    usual = float(np.mean(list(chance.values())))
    belief = max(0.0, 1 - usual / spread) if spread > 0 else 0.0
    return {name: 1.0 if r > 1 + FAR * chance[name] ** 0.5 else belief for name, r in ratio.items()}
