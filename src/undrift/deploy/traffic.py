"""What a captured row says: one value a metric, the segments it lies in, whether it failed, whether it is labelled.

Nothing is summed or compared here: rollouts do it in tally.py, shadows in paired.py, monitors in performance.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from undrift.develop.bundle import Interface
from undrift.develop.segments import fields_of, segment_texts
from undrift.validate.metrics import row_losses

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["failed_rows", "floats", "labelled_rows", "segment_columns", "stand_ins", "values_of"]


def values_of(rows: pa.Table, interface: Interface, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """One value a row and name; NaN where there is none (no label yet, no answer).

    Parameters
    ----------
    metrics : values of rows as `Metric.of` names them, or the built-in metrics that are their means.
    """
    n = rows.num_rows
    found: dict[str, NDArray[np.float64]] = {}
    failed = failed_rows(rows)
    direct: dict[str, Callable[[], NDArray[np.float64]]] = {
        "failed": lambda: failed.astype(np.float64),
        "score": lambda: np.where(failed, np.nan, floats(rows["score"])),
        "labelled_score": lambda: np.where(failed | ~labelled_rows(rows), np.nan, floats(rows["score"])),
        "violations": lambda: np.asarray([float(bool(v)) for v in rows["violations"].to_pylist()], dtype=np.float64),
        "latency": lambda: np.where(failed, np.nan, floats(rows["latency_us"]) / 1000.0),
    }
    losses: dict[str, NDArray[np.float64]] | None = None
    for metric in metrics:
        source = "score" if metric in ("shift", "standardized_shift") else metric
        if source in direct:
            found[metric] = direct[source]()
            continue
        if losses is None:
            losses = _losses(rows, interface, failed)
        found[metric] = losses.get(metric, np.full(n, np.nan))
    return found


def segment_columns(rows: pa.Table, interface: Interface) -> dict[str, tuple[NDArray[np.int64], list[str]]]:
    """Each declared segment as (code per row, names); -1 where the row has no value."""
    import pyarrow.compute as pc

    found: dict[str, tuple[NDArray[np.int64], list[str]]] = {}
    if "inputs" not in rows.column_names:
        return found
    inputs = rows["inputs"]
    held = {field.name for field in inputs.type}
    columns = {name: pc.struct_field(inputs, name) for name in fields_of(interface.segments, held) if name in held}
    for name, column in segment_texts(interface, columns):
        encoded = column.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        order = {old: new for new, old in enumerate(sorted(range(len(names)), key=lambda i: names[i]))}
        raw = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        codes = np.array([order.get(int(i), -1) for i in range(len(names))] + [-1], dtype=np.int64)[raw]
        found[name] = (codes, sorted(names))
    return found


def _losses(rows: pa.Table, interface: Interface, failed: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    known = labelled_rows(rows) & ~failed
    picked = rows.filter(known)
    losses = row_losses(interface, picked)
    full = {}
    for name, values in losses.items():
        column = np.full(rows.num_rows, np.nan)
        column[known] = values
        full[name] = column
    if "error" in full:
        full["accuracy"] = 1.0 - full["error"]
    return full


def failed_rows(rows: pa.Table) -> NDArray[np.bool_]:
    """Rows a variant could not answer; none in a table of no rows, which may lack the column."""
    if "error" not in rows.column_names:
        return np.zeros(rows.num_rows, dtype=bool)
    return np.asarray(rows["error"].is_valid().to_numpy(zero_copy_only=False), dtype=bool)


def labelled_rows(rows: pa.Table) -> NDArray[np.bool_]:
    """Rows whose label is known: its class, or its value."""
    import pyarrow.compute as pc

    either = pc.or_(rows["label"].is_valid(), rows["value"].is_valid())
    return np.asarray(either.to_numpy(zero_copy_only=False), dtype=bool)


def stand_ins(rows: pa.Table, revision: NDArray[Any], candidate: str) -> NDArray[np.bool_]:
    """Rows the champion answered because the candidate had failed on them: they count for neither arm."""
    failed = np.flatnonzero(failed_rows(rows) & (revision == candidate))
    if not len(failed):
        return np.zeros(rows.num_rows, dtype=bool)
    asked = list(zip(rows["request_id"].to_pylist(), rows["unit"].to_pylist(), strict=True))
    broken = {asked[i] for i in failed}
    return np.fromiter((pair in broken for pair in asked), dtype=bool, count=len(asked))


def floats(column: Any) -> NDArray[np.float64]:
    """A column as float64, null as NaN."""
    return np.asarray(column.cast("float64").to_numpy(zero_copy_only=False), dtype=np.float64)
