"""A column as counts in cells: what it was in training, and how it came in over time.

Cells are those of the reference, so that all that follows is sums of counts. What a difference means is judged in
drift.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.data.column import ColumnProfile
from undrift.data.difference import MOST_CELLS
from undrift.data.profile import Profile
from undrift.ids import to_micros
from undrift.monitor.frames import column, numeric

__all__ = ["Reference", "Slots", "reference_from", "reference_of", "slots_of"]

SLOT: Final = 3_600_000_000

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A column as it was in training: counts in cells.

    Parameters
    ----------
    edges : inner cut points of a numeric column, ascending; cell i holds values in [edges[i-1], edges[i]), the first
        and last are open. Empty for categories.
    labels : categories, the last cell being all others. Empty for numbers.
    counts : rows per cell, one more than edges or labels.
    nulls : rows without a value.
    minimum, maximum : of numbers, if known.
    complete : whether ``labels`` are all the categories there were.
    spike : share of the most frequent value of a numeric column.
    """

    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    counts: tuple[float, ...] = ()
    nulls: int = 0
    minimum: float | None = None
    maximum: float | None = None
    complete: bool = False
    spike: float = 0.0

    @property
    def size(self) -> int:
        """How many cells there are."""
        return (len(self.edges) or len(self.labels)) + 1

    @property
    def n(self) -> float:
        """Rows with a value."""
        return float(sum(self.counts))


def reference_of(values: Any) -> Reference:
    """The reference of a column of training rows: twentieths for numbers, the frequent categories else."""
    import pyarrow as pa

    whole = Profile.of(pa.table({"x": values}))
    return reference_from(whole.columns["x"])


def reference_from(column: ColumnProfile) -> Reference:
    """The reference that a column's profile holds."""
    if column.kind in ("string", "boolean"):
        top = dict(column.top[:MOST_CELLS])
        labels = tuple(sorted(top))
        others = max(column.values - sum(top.values()), 0)
        return Reference(
            labels=labels,
            counts=(*(float(top[name]) for name in labels), float(others)),
            nulls=column.nulls,
            complete=others == 0 and not column.common.missed,
        )
    most = max((count for _, count in column.top), default=0) + column.common.missed
    return Reference(
        edges=column.edges,
        counts=tuple(float(c) for c in column.counts),
        nulls=column.nulls,
        minimum=column.minimum,
        maximum=column.maximum,
        spike=most / column.values if column.values else 0.0,
    )


class Slots(NamedTuple):
    """A column's rows over time: when each slot begins (microseconds, ascending), its counts (slots, cells)."""

    at: NDArray[np.int64]
    cells: Floats


def slots_of(reference: Reference, values: Any, times: NDArray[np.int64], which: Bools, now: datetime) -> Slots:
    """A column's rows in slots of an hour before ``now``."""
    cells = cells_of(reference, values)
    held = which & (cells >= 0)
    slot = (times[held] - to_micros(now)) // SLOT
    begins, place = np.unique(slot, return_inverse=True)
    size = reference.size
    table = np.bincount(place * size + cells[held], minlength=len(begins) * size)
    return Slots(begins * SLOT + to_micros(now), table.reshape(len(begins), size).astype(np.float64))


def cells_of(reference: Reference, values: Any) -> NDArray[np.int64]:
    """The cell of each row's value; -1 for none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if reference.edges and numeric(values):
        x = column(values)
        cells = np.searchsorted(np.asarray(reference.edges), x, side="right")
        return np.where(np.isfinite(x), cells, -1).astype(np.int64)
    if reference.edges:
        return np.full(len(values), -1, dtype=np.int64)
    texts = pc.cast(values, pa.string())
    place = pc.index_in(texts, value_set=pa.array(reference.labels, pa.string()))
    cells = pc.fill_null(place, len(reference.labels))
    held = texts.is_valid().to_numpy(zero_copy_only=False)
    return np.where(held, np.asarray(cells.to_numpy()), -1).astype(np.int64)
