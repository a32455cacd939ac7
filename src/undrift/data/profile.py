"""The profile: what a table looked like, in a few kilobytes that merge with ``+``.

All monitoring runs on profiles, built batch by batch; the reference travels with the model version, so raw reference
data is not needed. No thresholds are chosen and no distances taken here (stats/distance.py takes the histograms).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from undrift.data.sketch import FrequentValues, QuantileSketch
from undrift.errors import DataError
from undrift.stats.summary import Moments

__all__ = ["ColumnProfile", "Profile"]

Floats = NDArray[np.float64]
Kind = Literal["string", "integer", "number", "boolean", "timestamp"]

_BINS: Final = 20
_TEXTS: Final = 256
_NUMBERS: Final = 32


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One column: counts, moments, quantiles, histogram and the values that occur most.

    ``n`` counts rows, ``nulls`` those without a value (NaN too), ``infinite`` those that are plus or minus infinity;
    everything else is of the finite values. Timestamps are microseconds since 1970 UTC, booleans 0 and 1. ``counts``
    has one bin more than there are ``edges``: below the first, then from each edge (included) to the next. ``common``
    names integers and floats as Python writes them, booleans ``true`` and ``false``.
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
        """The values at ranks ``qs`` in [0, 1]; 0 and 1 are the exact extremes; NaN without values or for text."""
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
        )


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A table, column by column; ``+`` is the profile of both tables together, whatever the order or grouping.

    Counts, extremes, histograms and (up to their capacity) frequent values come out the same in any grouping; moments
    within rounding, quantiles within the error of the sketch.
    """

    n: int = 0
    columns: dict[str, ColumnProfile] = {}
    format: int = 1

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
        rows = table if isinstance(table, pa.Table) else pa.table(table)
        known = edges_from.columns if edges_from is not None else {}
        columns = {
            name: _column(name, rows[name], known[name].edges if name in known else None) for name in rows.column_names
        }
        return cls(n=rows.num_rows, columns=columns)

    @classmethod
    def total(cls, profiles: Sequence[Profile]) -> Profile:
        """The sum of any number of profiles; the empty profile for none."""
        return reduce(lambda a, b: a + b, profiles, cls())

    def __add__(self, other: Profile) -> Profile:
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
        DataError : the text is no profile.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise DataError(f"the text is no profile: {error}.") from error


def _lacking(profile: Profile, other: Profile, name: str) -> ColumnProfile:
    """A column of a profile; where it has none, as many rows without a value."""
    found = profile.columns.get(name)
    if found is not None:
        return found
    like = other.columns[name]
    return ColumnProfile(kind=like.kind, n=profile.n, nulls=profile.n, common=FrequentValues({}, like.common.capacity))


def _column(name: str, column: pa.ChunkedArray, edges: tuple[float, ...] | None) -> ColumnProfile:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = _kind(name, column.type)
    n = len(column)
    missing = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
    values = column.filter(pc.invert(missing))
    nulls = n - len(values)
    if kind == "string":
        common = FrequentValues.of(_counted(values.cast(pa.string()), _TEXTS), _TEXTS)
        return ColumnProfile(kind=kind, n=n, nulls=nulls, common=common)
    numbers = _numbers(values, kind)
    finite = numbers[np.isfinite(numbers)] + 0.0
    if edges is None:
        edges = _edges(finite)
    names: Mapping[str, int] = _counted(values, _NUMBERS) if kind != "timestamp" else {}
    if kind == "boolean":
        names = {value.lower(): count for value, count in names.items()}
    return ColumnProfile(
        kind=kind,
        n=n,
        nulls=nulls,
        infinite=len(values) - int(finite.size),
        minimum=float(finite.min()) if finite.size else None,
        maximum=float(finite.max()) if finite.size else None,
        moments=Moments.of(finite),
        sketch=QuantileSketch.of(finite) if kind != "boolean" else QuantileSketch(),
        edges=edges,
        counts=tuple(np.bincount(np.searchsorted(edges, finite, side="right"), minlength=len(edges) + 1).tolist()),
        common=FrequentValues.of(names, _NUMBERS),
    )


def _kind(name: str, kind: pa.DataType) -> Kind:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp"
    raise DataError(f"the column {name!r} holds {kind}, of which no profile can be made: flatten it or leave it out.")


def _numbers(values: pa.ChunkedArray, kind: Kind) -> Floats:
    if kind == "timestamp":
        zone = values.type.tz if pa.types.is_timestamp(values.type) else None
        values = values.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _counted(values: pa.ChunkedArray, capacity: int) -> dict[str, int]:
    """How often the most frequent values occur, infinities left out; one more than the capacity.

    That one is the first left out, whose count FrequentValues takes off; with ties it does not matter which it is.
    """
    if pa.types.is_decimal(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.float64(), safe=False)
    if pa.types.is_floating(values.type):
        values = pc.add(values.filter(pc.is_finite(values)), pa.scalar(0.0, values.type))  # a negative zero is a zero
    counts = pc.value_counts(values)
    order = pc.sort_indices(counts.field("counts"), sort_keys=[("", "descending")])[: capacity + 1]
    names, numbers = (counts.field(part).take(order).to_pylist() for part in ("values", "counts"))
    return {str(name): number for name, number in zip(names, numbers, strict=True)}


def _edges(finite: Floats) -> tuple[float, ...]:
    """Inner quantiles as edges, fewer where they coincide."""
    if not finite.size:
        return ()
    quantiles = np.quantile(finite, np.linspace(0, 1, _BINS + 1)[1:-1], method="inverted_cdf")
    return tuple(float(edge) for edge in np.unique(quantiles))
