"""Three summaries of a column that are small, merge with ``+`` and never depend on chance: quantiles, frequent values,
how many different ones.

Libraries have such sketches, but theirs draw random numbers without a seed, and here equal data must give equal
decisions. Which column gets which summary is profile.py's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

__all__ = ["DistinctValues", "FrequentValues", "QuantileSketch", "text_hashes"]

Floats = NDArray[np.float64]

_K: Final = 256
_LEAST: Final = 8
_SHRINK: Final = 2.0 / 3.0


class QuantileSketch(msgspec.Struct, frozen=True):
    """Quantiles of a stream, after KLL (Karnin, Lang and Liberty 2016, "Optimal quantile approximation in streams").

    Items of level h stand for 2**h values each. A level over its capacity is sorted and every second item moves up;
    where KLL tosses a coin whether to keep the odd or the even ones, here they take turns, so equal data give equal
    sketches. Up to 256 values are kept exactly; beyond that ranks are off by less than 2 % of n in the simulations of
    tests/data/test_sketch.py, at less than 6 KB. ``a + b == b + a``; different groupings agree within that error.

    Parameters
    ----------
    n : values seen.
    levels : for each level its items, sorted, as the bytes of little-endian float64.
    turns : bit h says which items of level h go up next.
    """

    n: int = 0
    levels: tuple[bytes, ...] = ()
    turns: int = 0

    @classmethod
    def of(cls, values: ArrayLike) -> QuantileSketch:
        """The sketch of finite values of any shape."""
        return cls.of_sorted(np.sort(np.asarray(values, dtype=np.float64).ravel() + 0.0))  # a negative zero is a zero

    @classmethod
    def of_sorted(cls, x: Floats) -> QuantileSketch:
        """The sketch of finite values in ascending order, shape (n,)."""
        return _packed(int(x.size), [x], 0)

    def __add__(self, other: QuantileSketch) -> QuantileSketch:
        mine, theirs = self._unpacked(), other._unpacked()
        height = max(len(mine), len(theirs))
        empty = np.empty(0)
        levels = [
            np.sort(np.concatenate([mine[h] if h < len(mine) else empty, theirs[h] if h < len(theirs) else empty]))
            for h in range(height)
        ]
        return _packed(self.n + other.n, levels, self.turns ^ other.turns)

    def _unpacked(self) -> list[Floats]:
        return [np.frombuffer(level, dtype="<f8") for level in self.levels]

    def weighted(self) -> tuple[Floats, Floats]:
        """The items, sorted, and how many values each stands for; the weights sum to n."""
        levels = self._unpacked()
        values = np.concatenate([np.empty(0), *levels])
        weights = np.concatenate([np.empty(0), *(np.full(x.size, 2.0**h) for h, x in enumerate(levels))])
        order = np.argsort(values, kind="stable")
        return values[order], weights[order]

    def quantiles(self, qs: ArrayLike) -> Floats:
        """The values at ranks ``qs`` in [0, 1]: the least item with that share at or below it; NaN where n is 0."""
        wanted = np.asarray(qs, dtype=np.float64)
        if not self.n:
            return np.full(wanted.shape, np.nan)
        values, weights = self.weighted()
        reached = np.cumsum(weights)
        place = np.searchsorted(reached, wanted * self.n - 1e-9 * self.n, side="left")
        return values[np.minimum(place, values.size - 1)]

    def below(self, points: ArrayLike) -> Floats:
        """How many values are below each point, estimated."""
        values, weights = self.weighted()
        reached = np.concatenate([[0.0], np.cumsum(weights)])
        found: Floats = reached[np.searchsorted(values, np.asarray(points, dtype=np.float64), side="left")]
        return found


def _packed(n: int, levels: list[Floats], turns: int) -> QuantileSketch:
    """Move items up from the lowest level that is over its capacity until none is."""
    h = 0
    while h < len(levels):
        capacity = max(_LEAST, int(np.ceil(_K * _SHRINK ** (len(levels) - 1 - h))))
        if levels[h].size <= capacity:
            h += 1
            continue
        if h + 1 == len(levels):
            levels.append(np.empty(0))
            h = 0  # a higher sketch has smaller low levels
            continue
        whole = levels[h]
        pairs, odd = whole[: whole.size - whole.size % 2], whole[whole.size - whole.size % 2 :]
        risen = pairs[turns >> h & 1 :: 2]
        levels[h + 1] = np.sort(np.concatenate([levels[h + 1], risen])) if levels[h + 1].size else risen
        levels[h] = odd
        turns ^= 1 << h
        h += 1
    while levels and not levels[-1].size:
        levels.pop()
    return QuantileSketch(n, tuple(level.astype("<f8").tobytes() for level in levels), turns)


class FrequentValues(msgspec.Struct, frozen=True):
    """Counts of the values that occur most, exact while there are few different ones.

    Up to ``capacity`` different values every count is exact. Beyond it the count of the first value left out is taken
    from all others (Misra and Gries 1982; merging after Agarwal and others 2012, "Mergeable summaries"), so that a true
    count lies in ``[count, count + missed]`` and that of a value not kept in ``[0, missed]``, with
    ``missed <= n / (capacity + 1)``.

    >>> few = FrequentValues.of({"a": 3, "b": 1}, 2) + FrequentValues.of({"b": 1, "c": 1}, 2)
    >>> few.counts, few.missed
    ({'a': 2, 'b': 1}, 1)
    """

    counts: dict[str, int]
    capacity: int
    missed: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, int], capacity: int) -> FrequentValues:
        """From the counts of all values."""
        return _kept(dict(counts), capacity, 0)

    def __add__(self, other: FrequentValues) -> FrequentValues:
        counts = dict(self.counts)
        for value, count in other.counts.items():
            counts[value] = counts.get(value, 0) + count
        return _kept(counts, min(self.capacity, other.capacity), self.missed + other.missed)


def _kept(counts: dict[str, int], capacity: int, missed: int) -> FrequentValues:
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    cut = ordered[capacity][1] if len(ordered) > capacity else 0
    kept = {value: count - cut for value, count in ordered[:capacity] if count > cut}
    return FrequentValues(kept, capacity, missed + cut)


Hashes = NDArray[np.uint64]

_HASHES: Final = 256
_BLOCK: Final = 1 << 13
_WHOLE: Final = 2.0**64


class DistinctValues(msgspec.Struct, frozen=True):
    """How many different values there are, from the least hashes (Bar-Yossef and others 2002, "Counting distinct
    elements in a data stream", algorithm 2).

    Up to 255 different values are counted exactly; beyond, the estimate (k - 1) / (the k-th least hash as a share of
    all hashes), k = 256, has a standard error of 6 %. Sums are exact: whatever the order and grouping of the parts, the
    sketch is the same. Hashes are fixed, so equal data give equal sketches everywhere.

    >>> DistinctValues.of([1.0, 2.0, 2.0]).estimate, (DistinctValues.of([1.0]) + DistinctValues.of([1.0, 3.0])).estimate
    (2.0, 2.0)
    """

    hashes: bytes = b""

    @classmethod
    def of(cls, values: ArrayLike) -> DistinctValues:
        """Of numbers of any shape."""
        x = np.ascontiguousarray(np.asarray(values, dtype=np.float64).ravel() + 0.0).view(np.uint64)
        if x.size > 16 * _HASHES:  # most hashes lie above any possible answer: few are kept, a block that fits a cache
            limit = np.uint64(_WHOLE * 8.0 * _HASHES / x.size) | np.uint64((1 << 31) - 1)
            blocks = (_stirred(x[k : k + _BLOCK]) for k in range(0, x.size, _BLOCK))
            # the last step of mixing changes nothing above the bits of the limit that are set: the few low ones get it
            few = np.concatenate([hashes[hashes <= limit] for hashes in blocks])
            found = np.unique(few ^ (few >> np.uint64(33)))
            if found.size >= _HASHES:
                return cls(found[:_HASHES].astype("<u8").tobytes())
        return cls._least(_mixed(x))

    @classmethod
    def of_texts(cls, values: pa.Array) -> DistinctValues:
        """Of an Arrow array of strings without nulls."""
        return cls._least(text_hashes(values))

    @classmethod
    def _least(cls, hashes: Hashes) -> DistinctValues:
        return cls(np.unique(hashes)[:_HASHES].astype("<u8").tobytes())

    def __add__(self, other: DistinctValues) -> DistinctValues:
        if not (self.hashes and other.hashes):
            return self if self.hashes else other
        both = [np.frombuffer(each.hashes, dtype="<u8") for each in (self, other)]
        return DistinctValues(np.unique(np.concatenate(both))[:_HASHES].tobytes())

    @property
    def estimate(self) -> float:
        """How many different values there are, about."""
        least = np.frombuffer(self.hashes, dtype="<u8")
        if least.size < _HASHES:
            return float(least.size)
        return (_HASHES - 1) / (float(least[-1]) / _WHOLE)


def _mixed(x: Hashes) -> Hashes:
    """The finaliser of MurmurHash3 (Appleby 2011): every bit of the input moves half of the output's."""
    h = _stirred(x)
    h ^= h >> np.uint64(33)
    return h


def _stirred(x: Hashes) -> Hashes:
    """`_mixed` but for its last step, which changes the lower 31 bits alone."""
    h = x >> np.uint64(33)
    h ^= x
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h


def text_hashes(values: pa.Array) -> Hashes:
    """A hash of each text of an array without nulls, (n,) uint64: a polynomial in its bytes modulo 2**64, mixed."""
    count = len(values)
    if not count:
        return np.empty(0, dtype=np.uint64)
    values = pa.concat_arrays([values])  # a slice starts at its own beginning
    content, offsets = values.buffers()[2], np.frombuffer(values.buffers()[1], dtype=np.int32)[: count + 1]
    lengths = np.diff(offsets).astype(np.int64)
    total = int(offsets[-1])
    sums = np.zeros(count, dtype=np.uint64)
    if total:
        letters = _mixed(np.frombuffer(content, dtype=np.uint8)[:total].astype(np.uint64) + np.uint64(1))
        place = np.arange(total, dtype=np.int64) - np.repeat(offsets[:-1].astype(np.int64), lengths)
        powers = np.multiply.accumulate(
            np.concatenate([[np.uint64(1)], np.full(max(int(lengths.max()) - 1, 0), 0x9E3779B97F4A7C15, np.uint64)])
        )
        held = lengths > 0
        sums[held] = np.add.reduceat(letters * powers[place], offsets[:-1][held])
    return _mixed(sums ^ (lengths.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)))
