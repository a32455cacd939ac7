"""The profile of one column, which merges with ``+``.

How a column is counted stands in tally.py, tables of columns in profile.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.data.sketch import DistinctValues, FrequentValues, QuantileSketch
from undrift.errors import DataError
from undrift.stats.summary import Moments

__all__ = ["ColumnProfile", "Kind"]

Floats = NDArray[np.float64]
Kind = Literal["string", "integer", "number", "boolean", "timestamp"]

_TEXTS: Final = 256


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One column: counts, moments, quantiles, histogram, the values that occur most, and how many different ones.

    ``n`` counts rows, ``nulls`` those without a value (NaN too), ``infinite`` those that are plus or minus infinity;
    everything else is of the finite values. Timestamps are microseconds since 1970 UTC, booleans 0 and 1; of strings,
    moments, extremes, quantiles and histogram are of their lengths in characters. ``counts`` has one bin more than
    there are ``edges``: below the first, then from each edge (included) to the next. ``common`` names integers and
    floats as Python writes them, booleans ``true`` and ``false``. ``shapes`` of strings: runs of letters as ``a``, of
    digits as ``9``. ``sampled``: only some rows were looked at, and ``n`` counts those that gave a value.
    """

    kind: Kind
    n: int
    nulls: int = 0
    infinite: int = 0
    minimum: float | None = None
    maximum: float | None = None
    moments: Moments = Moments()
    sketch: QuantileSketch = QuantileSketch()
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    common: FrequentValues = FrequentValues({}, _TEXTS)
    distinct: DistinctValues = DistinctValues()
    shapes: FrequentValues = FrequentValues({}, 32)
    sampled: bool = False

    @property
    def values(self) -> int:
        """Rows with a finite value."""
        return self.n - self.nulls - self.infinite

    @property
    def null_rate(self) -> float:
        """Share of rows without a value, [0, 1]; NaN without rows."""
        return self.nulls / self.n if self.n else float("nan")

    @property
    def top(self) -> tuple[tuple[str, int], ...]:
        """The values that occur most with their counts, most first; how exact they are says ``common``."""
        return tuple(sorted(self.common.counts.items(), key=lambda each: (-each[1], each[0])))

    @property
    def true_rate(self) -> float:
        """Share of true among the values of a boolean; NaN without values."""
        return self.moments.mean if self.moments.n else float("nan")

    def histogram(self, edges: Sequence[float] | None = None) -> Floats:
        """Counts below the first edge, from each edge to the next, and from the last on.

        Parameters
        ----------
        edges : ascending; the profile's own if left out. On its own edges (or some of them) the counts are exact, on
            others estimated from the sketch.

        Returns
        -------
        (len(edges) + 1,) float64, with the sum ``values``.
        """
        wanted = self.edges if edges is None else tuple(float(edge) for edge in edges)
        if any(b <= a for a, b in pairwise(wanted)):
            raise ValueError(f"edges must ascend, got {wanted}")
        if set(wanted) <= set(self.edges) and self.counts:
            reached = np.concatenate([[0.0], np.cumsum(self.counts, dtype=np.float64)])
            below = [reached[self.edges.index(edge) + 1] for edge in wanted]
        else:
            below = list(self.sketch.below(wanted))
        return np.diff([0.0, *below, float(self.values)])

    def quantiles(self, qs: ArrayLike) -> Floats:
        """The values at ranks ``qs`` in [0, 1]; 0 and 1 are the exact extremes; NaN without values."""
        asked = np.asarray(qs, dtype=np.float64)
        found = self.sketch.quantiles(asked)
        if self.minimum is not None and self.maximum is not None and self.sketch.n:
            found = np.where(asked <= 0, self.minimum, np.where(asked >= 1, self.maximum, found))
        return found

    def shares(self, values: Sequence[str]) -> Floats:
        """Counts of the named values, and of all others as the last; for distances between closed sets."""
        named = [float(self.common.counts.get(value, 0)) for value in values]
        return np.asarray([*named, max(0.0, self.values - sum(named))])

    def __add__(self, other: ColumnProfile) -> ColumnProfile:
        if self.kind != other.kind:
            raise DataError(f"a profile of a {self.kind} and one of a {other.kind} cannot be added.")
        if self.edges != other.edges and self.counts and other.counts:
            raise DataError(
                "profiles with different histogram edges cannot be added.",
                hint="Build both with edges_from the same reference profile.",
            )
        mine, theirs = self.counts, other.counts
        return ColumnProfile(
            kind=self.kind,
            n=self.n + other.n,
            nulls=self.nulls + other.nulls,
            infinite=self.infinite + other.infinite,
            minimum=min((v for v in (self.minimum, other.minimum) if v is not None), default=None),
            maximum=max((v for v in (self.maximum, other.maximum) if v is not None), default=None),
            moments=self.moments + other.moments,
            sketch=self.sketch + other.sketch,
            edges=self.edges or other.edges,
            counts=tuple(a + b for a, b in zip(mine, theirs, strict=True)) if mine and theirs else mine or theirs,
            common=self.common + other.common,
            distinct=self.distinct + other.distinct,
            shapes=self.shapes + other.shapes,
            sampled=self.sampled or other.sampled,
        )
