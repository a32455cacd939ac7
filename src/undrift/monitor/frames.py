"""Arrow tables as arrays for monitors: moments in microseconds, columns by name wherever they stand, nulls as NaN.

Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Window
from undrift.ids import to_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["column", "columns_of", "inside", "micros", "numeric", "outside", "past_rates"]

Bools = NDArray[np.bool_]


def micros(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A timestamp column as microseconds since 1970 UTC."""
    import pyarrow as pa

    return np.asarray(table[name].cast(pa.timestamp("us", "UTC")).cast("int64").to_numpy(), dtype=np.int64)


def inside(times: NDArray[np.int64], start: datetime, end: datetime) -> Bools:
    """Which moments lie in [start, end)."""
    return np.asarray((times >= to_micros(start)) & (times < to_micros(end)))


def outside(times: NDArray[np.int64], windows: Sequence[Window]) -> Bools:
    """Which moments lie in none of the windows."""
    held = np.ones(len(times), dtype=bool)
    for window in windows:
        held &= ~inside(times, window.start, window.end)
    return held


def past_rates(flag: Bools, times: NDArray[np.int64], past: Bools, window: Window) -> NDArray[np.float64]:
    """The share of flagged rows in each earlier window of the same length that has rows, the latest first.

    What one window may naturally show is learnt from these, not from rows: rows of one window are alike.
    """
    start, end = to_micros(window.start), to_micros(window.end)
    ages = (start - 1 - times[past]) // (end - start)
    if not len(ages):
        return np.zeros(0)
    rows = np.bincount(ages)
    flagged = np.bincount(ages, weights=flag[past].astype(np.float64), minlength=len(rows))
    return np.asarray(flagged[rows > 0] / rows[rows > 0], dtype=np.float64)


def columns_of(rows: pa.Table) -> dict[str, Any]:
    """Every input and feature of captured predictions as a column, by name; then ``score`` and ``label``.

    ``label`` is the class, or the value in regression; it is left out while there is none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, Any] = {}
    for part in ("inputs", "features"):
        if part in rows.column_names and pa.types.is_struct(rows[part].type):
            for field in rows[part].type:
                found[field.name] = pc.struct_field(rows[part], field.name)
    found["score"] = rows["score"]
    if "label" in rows.column_names:
        if rows["label"].null_count < rows.num_rows:
            found["label"] = rows["label"]
        elif rows["value"].null_count < rows.num_rows:
            found["label"] = rows["value"]
    return found


def numeric(column: Any) -> bool:
    """Whether a column holds numbers (booleans and times do not count)."""
    import pyarrow as pa

    return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))


def column(values: Any) -> NDArray[np.float64]:
    """A numeric column as float64, null as NaN."""
    return np.asarray(values.cast("float64").to_numpy(zero_copy_only=False), dtype=np.float64)
