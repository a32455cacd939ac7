"""Days of lake tables that were read already, kept in memory for as long as their files are the same.

Ticks look at the same weeks again and again, and only the last days of them change. Files of a Delta table are
never changed, so a day with the same files has the same rows. Reading stands in lake.py.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from undrift.state.columns import holding

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["Days", "Files", "days_of"]

_MOST_BYTES: Final = 128 << 20

Files = frozenset[tuple[str, int, int]]


def days_of(delta: DeltaTable, where: Sequence[tuple[str, str, Any]] = ()) -> dict[date, Files] | None:
    """The files (path, bytes, time of writing) of each day that conditions on ``date`` let through.

    None where a table has no days, or files may be amended.
    """
    if delta.protocol().reader_features:  # as deletion vectors, which other engines write beside a file
        return None
    actions = pa.table(delta.get_add_actions(flatten=True))
    if "partition.date" not in actions.column_names:
        return None
    actions = holding(actions.rename_columns({"partition.date": "date"}), where)
    files: dict[date, set[tuple[str, int, int]]] = {}
    names = ("date", "path", "size_bytes", "modification_time")
    for day, path, size, written in zip(*(actions[name].to_pylist() for name in names), strict=True):
        files.setdefault(day, set()).add((path, size, written))
    return {day: frozenset(found) for day, found in files.items()}


class Days:
    """What is kept, the least recently used days going first; safe for threads.

    Parameters
    ----------
    most_bytes : how much may be kept.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[str, tuple[str, ...], date], tuple[Files, pa.Table]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, table: str, columns: Sequence[str], day: date, files: Files) -> pa.Table | None:
        """The rows of a day as they were read from these very files; None where that was not kept."""
        key = (table, tuple(columns), day)
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept[0] != files:
                return None
            self._kept.move_to_end(key)
            return kept[1]

    def put(self, table: str, columns: Sequence[str], day: date, files: Files, rows: pa.Table) -> None:
        """Keep the rows of a day instead of what was kept of it."""
        key = (table, tuple(columns), day)
        with self._lock:
            if key in self._kept:
                self._bytes -= self._kept.pop(key)[1].nbytes
            self._kept[key] = (files, rows)
            self._bytes += rows.nbytes
            while self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1][1].nbytes

    def split(self, rows: pa.Table, wanted: Sequence[date]) -> dict[date, pa.Table]:
        """Rows by their ``date``, each day with buffers of its own, so that one can be let go without the others."""
        found = {}
        for day in wanted:
            part = rows.filter(pc.equal(rows["date"], pa.scalar(day, pa.date32())))
            found[day] = part.combine_chunks()
        return found
