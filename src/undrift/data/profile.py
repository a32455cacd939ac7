"""The profile: what a table looked like, in a few kilobytes that merge with ``+``.

All monitoring runs on profiles, built batch by batch; the reference travels with the model version, so raw reference
data is not needed. How a column is counted stands in tally.py; no distances are taken here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from undrift.data.sketch import DistinctValues, FrequentValues, QuantileSketch
from undrift.errors import DataError
from undrift.stats.summary import Moments

__all__ = ["ColumnProfile", "Kind", "Profile"]

Floats = NDArray[np.float64]
Kind = Literal["string", "integer", "number", "boolean", "timestamp"]

_FORMAT: Final = 2
_TEXTS: Final = 256
_PART: Final = 1 << 18
"""Rows of a part when a stream is read."""
_MANY: Final = 50_000
"""Rows from which columns are counted side by side: sorting lets go of the interpreter."""
_THREADS: Final = 4


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One column: counts, moments, quantiles, histogram, the values that occur most, and how many different ones.

    ``n`` counts rows, ``nulls`` those without a value (NaN too), ``infinite`` those that are plus or minus infinity;
    everything else is of the finite values. Timestamps are microseconds since 1970 UTC, booleans 0 and 1; of strings,
    moments, extremes, quantiles and histogram are of their lengths in characters. ``counts`` has one bin more than
    there are ``edges``: below the first, then from each edge (included) to the next. ``common`` names integers and
    floats as Python writes them, booleans ``true`` and ``false``. ``shapes`` of strings: runs of letters as ``a``, of
    digits as ``9``.
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
        )


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A table, column by column; ``+`` is the profile of both tables together, whatever the order or grouping.

    Counts, extremes, histograms, different values and (up to their capacity) frequent values come out the same in any
    grouping; moments within rounding, quantiles within the error of the sketch. Processes and machines agree.
    """

    n: int = 0
    columns: dict[str, ColumnProfile] = {}
    format: int = _FORMAT

    @classmethod
    def of(cls, table: Any, *, edges_from: Profile | None = None) -> Profile:
        """The profile of a table.

        Parameters
        ----------
        table : anything with the Arrow PyCapsule interface, or a mapping of columns.
        edges_from : reference whose histogram edges are used, so that the two compare bin by bin. Without it the edges
            are 19 quantiles of the table itself, which is then a reference.

        Raises
        ------
        DataError : a column that is no plain value (lists, structs): flatten or leave it out.
        """
        from undrift.data.tally import tally

        rows = table if isinstance(table, pa.Table) else pa.table(table)
        known = edges_from.columns if edges_from is not None else {}

        def one(name: str) -> ColumnProfile:
            return tally(name, rows[name], known[name].edges if name in known else None)

        names = rows.column_names
        if rows.num_rows < _MANY or len(names) < 2:
            return cls(n=rows.num_rows, columns={name: one(name) for name in names})
        with ThreadPoolExecutor(_THREADS) as pool:
            return cls(n=rows.num_rows, columns=dict(zip(names, pool.map(one, names), strict=True)))

    @classmethod
    def stream(cls, source: Any, *, edges_from: Profile | None = None) -> Profile:
        """The profile of rows that come one batch after the other, in memory that does not grow with them.

        Parameters
        ----------
        source : anything with the Arrow stream interface, or an iterable of record batches or tables.
        edges_from : as in `of`. Without it the first quarter of a million rows give the edges.
        """
        total, edges = cls(), edges_from
        for part in _parts(source):
            found = cls.of(part, edges_from=edges)
            edges = edges if edges is not None else found
            total += found
        return total

    @classmethod
    def total(cls, profiles: Sequence[Profile]) -> Profile:
        """The sum of any number of profiles; the empty profile for none."""
        return reduce(lambda a, b: a + b, profiles, cls())

    def __add__(self, other: Profile) -> Profile:
        if not (self.columns and other.columns):  # nothing to add up; rows without columns only count
            whole = self if self.columns else other
            if self.n + other.n == whole.n:
                return whole
        columns = {
            name: _lacking(self, other, name) + _lacking(other, self, name)
            for name in dict.fromkeys([*self.columns, *other.columns])
        }
        return Profile(n=self.n + other.n, columns=columns)

    def to_json(self) -> str:
        """The profile as JSON text."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Profile:
        """Read what ``to_json`` wrote.

        Raises
        ------
        DataError : the text is no profile, or one of a later format.
        """
        try:
            found = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise DataError(f"the text is no profile: {error}.") from error
        if found.format > _FORMAT:
            raise DataError(
                f"the profile is of format {found.format}; this version reads up to {_FORMAT}.",
                hint="A later undrift wrote it: update this one.",
            )
        return found


def _parts(source: Any) -> Iterator[pa.Table]:
    """The rows in tables of about a quarter of a million."""
    batches: Iterable[Any]
    if hasattr(source, "__arrow_c_stream__"):
        batches = source.to_batches(_PART) if isinstance(source, pa.Table) else pa.RecordBatchReader.from_stream(source)
    else:
        batches = source
    held: list[pa.Table] = []
    rows = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else pa.table(batch)
        held.append(table)
        rows += table.num_rows
        if rows >= _PART:
            yield pa.concat_tables(held)
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held)


def _lacking(profile: Profile, other: Profile, name: str) -> ColumnProfile:
    """A column of a profile; where it has none, as many rows without a value."""
    found = profile.columns.get(name)
    if found is not None:
        return found
    like = other.columns[name]
    return ColumnProfile(kind=like.kind, n=profile.n, nulls=profile.n, common=FrequentValues({}, like.common.capacity))
