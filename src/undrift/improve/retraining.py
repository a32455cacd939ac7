"""The rows a challenger learns from: fresh, labelled, and free of what faults spoiled.

They are made of captured requests and their outcomes, so features are joined again, point in time, by the caller; what
a fault had put into features or answers is never copied. Training and the gate against the champion on the same fresh
rows are those of any other candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from undrift.develop.bundle import Interface
from undrift.finding import Window
from undrift.ids import duration
from undrift.improve.triggers import Retrain
from undrift.monitor.frames import inside, micros, outside

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Fresh", "fresh_rows", "training_window"]


class Fresh(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a retrain: the contract's fields and the label, in time order, and what was left out and why."""

    table: Any
    window: Window
    seen: int
    unlabelled: int
    spoiled: int
    enough: bool

    @property
    def why(self) -> str:
        """In words."""
        left = f"{self.unlabelled} without a label and {self.spoiled} from windows of faults are left out"
        return f"{self.table.num_rows} labelled rows of {self.window}; {left}"


def training_window(declared: Retrain, now: datetime) -> Window:
    """The span of event time a retrain learns from."""
    return Window(now - duration(declared.window), now)


def fresh_rows(
    declared: Retrain, interface: Interface, rows: pa.Table, now: datetime, *, spoiled: Sequence[Window] = ()
) -> Fresh:
    """Training rows out of predictions with outcomes; pure.

    Parameters
    ----------
    rows : predictions with outcomes of at least the training window.
    spoiled : windows of faults; their rows are not learnt from.

    Returns
    -------
    Fresh
        ``table`` has one row per prediction id (a request answered twice counts once), the fields of the contract typed
        as captured, and the label under its own name: text for classes, float64 for regression.
    """
    import pyarrow.compute as pc

    window = training_window(declared, now)
    times = micros(rows, "event_time")
    fresh = inside(times, window.start, window.end)
    truth = rows["value"] if interface.task == "regression" else rows["label"]
    labelled = np.asarray(truth.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    sound = outside(times, spoiled)
    keep = fresh & labelled & sound & _first(rows["prediction_id"])
    picked, answers = rows.filter(keep), truth.filter(keep)
    table = picked.select([])
    if "inputs" in picked.column_names:
        present = {field.name for field in picked["inputs"].type}
        for field in interface.contract.fields:
            if field.name in present and field.name != interface.label:
                table = table.append_column(field.name, pc.struct_field(picked["inputs"], field.name))
    table = table.append_column(interface.label, answers)
    table = table.take(pc.sort_indices(picked["event_time"]))
    return Fresh(
        table=table,
        window=window,
        seen=int(fresh.sum()),
        unlabelled=int((fresh & ~labelled).sum()),
        spoiled=int((fresh & labelled & ~sound).sum()),
        enough=table.num_rows >= declared.minimum_rows,
    )


def _first(ids: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each id stands here for the first time."""
    held = np.zeros(len(ids), dtype=bool)
    coded = ids.dictionary_encode().combine_chunks()
    _, first = np.unique(coded.indices.to_numpy(zero_copy_only=False), return_index=True)
    held[first] = True
    return held
