"""Rows that are not news of their own: the same thing asked about again and again, as a customer scored daily.

What a model gets wrong about a thing it gets wrong each time, so a hundred rows of ten customers are nearly ten rows.
What rows of one thing share is measured on the past; so much of it as a thing's own past tells is expected of it, and
what is left makes a mean less certain (the design effect, Kish 1965). That days are units too is left to who judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.monitor.frames import column, numeric

__all__ = ["Repeats", "same_rows", "same_values"]

FEWEST_PAIRS: Final = 100
"""Pairs of past rows of one thing from which it is measured what they share; below that all is taken for shared."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Repeats(NamedTuple):
    """Which thing each row is about, and what its rows share.

    ``codes``: a code per row, equal for rows of one thing. ``loss``: of each row. ``usual``: what the thing's own past
    leads to expect of it. ``left``: the share of the loss's variance in [0, 1] that rows of the thing have in common
    all the same; 1 where it was not seen before and things are all there is to know, 0 where rows are of their own.
    """

    codes: Ints
    loss: Floats
    usual: Floats
    left: Floats

    @classmethod
    def measured(cls, codes: Ints, loss: Floats, past: NDArray[np.bool_]) -> Repeats | None:
        """What rows of one thing share of the loss, by pairs of past rows; None where no thing comes twice.

        The mean of a thing's n past rows is drawn towards the whole by its reliability n r / (1 + (n - 1) r), where r
        is the share (the best linear predictor; Robinson 1991); r (1 - reliability) is left.

        Parameters
        ----------
        codes, loss, past : of the same rows. NaN losses count nowhere.

        Examples
        --------
        >>> who = np.array([0, 0, 1, 1] * 60)
        >>> always = np.array([0.0, 0.0, 1.0, 1.0] * 60)
        >>> found = Repeats.measured(who, always, np.ones(240, bool))
        >>> found.usual[:4].round(6).tolist(), found.left[:4].round(6).tolist()
        ([-0.5, -0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0])
        """
        things, of = np.unique(codes, return_inverse=True)
        if len(things) == len(codes):
            return None
        held = past & np.isfinite(loss)
        rows = np.bincount(of[held], minlength=len(things))
        pairs = float((rows * (rows - 1.0)).sum())
        if pairs < FEWEST_PAIRS:
            return cls(of, loss, np.zeros(len(loss)), np.ones(len(loss)))
        off = loss[held] - loss[held].mean()
        sums = np.bincount(of[held], weights=off, minlength=len(things))
        squares = float(np.square(off).sum())
        together = (float(np.square(sums).sum()) - squares) / pairs
        share = float(np.clip(together * len(off) / squares, 0.0, 1.0)) if squares else 0.0
        trust = rows * share / np.maximum(1 + (rows - 1) * share, 1e-9) if share else np.zeros(len(rows))
        usual = trust * sums / np.maximum(rows, 1)
        return cls(of, loss, usual[of], (share * (1 - trust))[of])

    def take(self, rows: NDArray[np.bool_]) -> Repeats:
        """The same of some rows."""
        codes = np.unique(self.codes[rows], return_inverse=True)[1]
        return Repeats(codes, self.loss[rows], self.usual[rows], self.left[rows])

    def cost(self, rows: NDArray[np.bool_]) -> tuple[float, float]:
        """What is to be added to the variance of the mean of some rows, and how many rows apart they are worth.

        With n_g rows of thing g, of which r_g is left, and variance s^2: sum r_g s^2 n_g (n_g - 1) / n^2, and
        sum n_g / (1 + (n_g - 1) r_g).
        """
        codes = self.codes[rows]
        counts = np.bincount(codes)
        of_thing = np.zeros(len(counts))
        of_thing[codes] = self.left[rows]
        held, left = counts[counts > 0], of_thing[counts > 0]
        worth = float((held / (1 + (held - 1) * left)).sum())
        variance = float(self.loss[rows].var()) * worth / max(worth - 1, 1e-9)
        return variance * float((left * held * (held - 1.0)).sum()) / float(held.sum()) ** 2, worth


def same_rows(columns: Mapping[str, Any]) -> Ints:
    """A code per row, equal for rows with equal values in all columns (Arrow columns; absent equals absent)."""
    mixed: NDArray[np.uint64] | None = None
    for place, name in enumerate(sorted(columns)):
        own = _mixed(same_values(columns[name]).astype(np.uint64) + np.uint64(place << 40))
        mixed = own if mixed is None else _mixed(mixed + own)
    if mixed is None:
        return np.zeros(0, dtype=np.int64)
    return np.unique(mixed, return_inverse=True)[1].astype(np.int64)


def same_values(values: Any) -> Ints:
    """A code per row of one Arrow column, equal for equal values."""
    if numeric(values):
        return np.unique(column(values), return_inverse=True)[1].astype(np.int64)
    coded = values.cast("string").combine_chunks().dictionary_encode().indices.fill_null(-1)
    return np.asarray(coded.to_numpy(zero_copy_only=False), dtype=np.int64) + 1


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number as one that looks random, the same for the same (the finaliser of SplitMix64; Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
