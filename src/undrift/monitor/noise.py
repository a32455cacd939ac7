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

Floats = NDArray[np.float64]


class Noise(NamedTuple):
    """What the shares of a column's windows vary beyond chance (variances), and the days' worth behind that."""

    variance: Floats
    days: float


class _Seen(NamedTuple):
    """A column's weeks: mean shares, variance of days and of windows beyond chance, chance's own part of each."""

    kind: bool
    share: Floats
    day: Floats
    window: Floats
    chance: tuple[Floats, Floats]
    n: int


def shares_of(reference: Reference, counts: Floats) -> Floats:
    """Rows below each cut of a numeric reference, or in each cell of a categorical one; of counts (..., cells)."""
    return np.cumsum(counts, axis=-1)[..., :-1] if reference.edges else counts


def by_day(days: NDArray[np.int64], table: Floats) -> Floats:
    """Slots, which ascend, added up by day."""
    begins = np.flatnonzero(np.diff(days, prepend=days[:1] - 1))
    return table if len(begins) == len(days) else np.add.reduceat(table, begins, axis=0)


def noises(series: Mapping[str, Slots], references: Mapping[str, Reference], window: Window) -> dict[str, Noise]:
    """The noise of windows as long as this one, of each series with `CALIBRATION` days before it; pure."""
    seen = {name: found for name, slots in series.items() if (found := _seen(references[name], slots, window))}
    length = max(1, (to_micros(window.end) - to_micros(window.start)) // DAY)
    kinds = [{name: each for name, each in seen.items() if each.kind is kind} for kind in (True, False)]
    return {name: noise for alike in kinds if alike for name, noise in _together(alike, length).items()}


def _together(seen: Mapping[str, _Seen], length: int) -> dict[str, Noise]:
    """The noise of columns of one kind; numbers and categories have rhythms of their own."""
    # between days: shares with the same rank among the cuts have the same weather on the logit scale
    pooled: dict[int, list[float]] = {}
    for each in seen.values():
        for key, extra, share in zip(_keys(each), each.day, each.share, strict=True):
            if 0 < share < 1:
                pooled.setdefault(key, []).append(extra / (share * (1 - share)) ** 2)
    usual = {key: max(0.0, float(np.mean(found))) for key, found in pooled.items()}
    common = {
        name: np.array([usual.get(key, 0.0) for key in _keys(each)]) * np.square(each.share * (1 - each.share))
        for name, each in seen.items()
    }
    trust = _trust({name: (each.day, common[name], each.chance[0], each.n) for name, each in seen.items()})
    days = {name: np.maximum(0.0, w * seen[name].day + (1 - w) * common[name]) for name, w in trust.items()}
    # between windows: neighbouring days are alike, weekdays cancel out; all columns together say how much of each
    whole, parts = sum(float(e.window.sum()) for e in seen.values()), sum(float(d.sum()) for d in days.values())
    ratio = max(1.0, whole / parts * length) if parts > 0 else 1.0
    windows = {name: found * ratio / length for name, found in days.items()}
    trust = _trust({name: (e.window, windows[name], e.chance[1], e.n // length) for name, e in seen.items()})
    found = {}
    for name, each in seen.items():
        w = trust[name]
        own = (1 - w) * windows[name] + w * np.maximum(0.0, each.window)
        behind = sum(e.n for e in seen.values()) if w < 1 else each.n
        found[name] = Noise(np.maximum(windows[name], own), float(behind))
    return found


def _seen(reference: Reference, slots: Slots, window: Window) -> _Seen | None:
    start, span = to_micros(window.start), to_micros(window.end) - to_micros(window.start)
    held = slots.at < start
    days = by_day((slots.at[held] - start) // DAY, slots.cells[held])
    if len(days) < CALIBRATION or len(days) * DAY < 3 * span:
        return None
    days = days[days.sum(axis=1) > 0]
    below, rows = shares_of(reference, days), days.sum(axis=1)
    share = below.sum(axis=0) / rows.sum()
    length = int(max(1, span // DAY))
    reached = np.vstack([np.zeros(below.shape[1]), np.cumsum(below, axis=0)])
    total = np.concatenate([[0.0], np.cumsum(rows)])
    sums, sizes = reached[length:] - reached[:-length], total[length:] - total[:-length]
    day, by_chance = _neighbours(below / rows[:, None], rows, share, 1)
    whole, of_window = _neighbours(sums / sizes[:, None], sizes, share, length)
    return _Seen(bool(reference.edges), share, day, whole, (by_chance, of_window), len(days))


def _neighbours(shares: Floats, rows: Floats, mean: Floats, apart: int) -> tuple[Floats, Floats]:
    """Variance of shares beyond chance, and by chance, from rows so far apart (von Neumann 1941): a slow drift does not
    hide in it.
    """
    gaps = shares[apart:] - shares[:-apart]
    chance = mean * (1 - mean) * float((1 / rows).mean())
    return np.einsum("ij,ij->j", gaps, gaps) / max(1, len(gaps)) / 2 - chance, chance


def _keys(seen: _Seen) -> list[int]:
    """Cuts of numbers are told apart by their share in twentieths; categories are all alike."""
    return [round(20 * share) if seen.kind else 0 for share in seen.share.tolist()]


def _trust(columns: Mapping[str, tuple[Floats, Floats, Floats, int]]) -> dict[str, float]:
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
