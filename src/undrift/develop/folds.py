"""What a train function gets, and how rows are divided in time: growing folds and a held-out tail.

A random split would let the model see tomorrow while it is tested on today; here every test part is later than its
training part, as in production. Fitting and measuring stand in training.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undrift.develop.bundle import Interface
from undrift.develop.performance import label_codes
from undrift.develop.rows import matrix, table_columns
from undrift.errors import DataError

__all__ = ["Fold", "Splits", "TrainingData", "labels", "split", "times"]

FEWEST_ROWS: Final = 30


@dataclass(frozen=True)
class TrainingData:
    """What a train function gets: rows in order of time, laid out as serving will lay them out.

    Parameters
    ----------
    table : the rows with all their columns, labels included.
    X : shape (n, d), columns in the order of ``inputs``: an object array with text as str (``""`` where absent) and
        numbers as float (NaN where absent), or a float64 array if no input is text.
    y : shape (n,): class codes 0..k-1 in the order of ``interface.classes``, or float64 values for regression.
    time : shape (n,) ``datetime64[us]`` in UTC, ascending; None if the interface names no time.
    seed : for whatever is random in the model.
    """

    interface: Interface
    table: pa.Table
    X: NDArray[Any]
    y: NDArray[Any]
    time: NDArray[Any] | None
    seed: int = 0

    @classmethod
    def of(cls, interface: Interface, table: pa.Table, *, seed: int = 0) -> TrainingData:
        """Order and lay out the labelled rows of a table.

        Raises
        ------
        DataError : a column is missing, a label is unknown, or fewer than 30 rows have a label.
        """
        _check_classes(interface)
        for name in {interface.label, *((interface.time,) if interface.time else ())}:
            if name not in table.column_names:
                raise DataError(f"the table has no column {name!r}; it has {', '.join(table.column_names)}.")
        table = table.filter(table.column(interface.label).is_valid())
        if table.num_rows < FEWEST_ROWS:
            raise DataError(f"{table.num_rows} rows have a label in {interface.label!r}; {FEWEST_ROWS} are needed.")
        time = times(interface, table)
        rng = np.random.default_rng(seed)
        order = rng.permutation(table.num_rows) if time is None else np.argsort(time, kind="stable")
        table = table.take(order)
        X = matrix(interface.inputs, table_columns(interface.inputs, table))
        if all(i.type != "string" for i in interface.inputs):
            X = X.astype(np.float64)
        return cls(interface, table, X, labels(interface, table), None if time is None else time[order], seed)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the columns of ``X``."""
        return tuple(i.name for i in self.interface.inputs)

    @cached_property
    def categorical(self) -> list[int]:
        """The columns of ``X`` that hold text."""
        return [place for place, i in enumerate(self.interface.inputs) if i.type == "string"]

    @cached_property
    def numeric(self) -> list[int]:
        """The columns of ``X`` that hold numbers."""
        return [place for place, i in enumerate(self.interface.inputs) if i.type != "string"]

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)

    def take(self, rows: NDArray[Any]) -> TrainingData:
        """Some of the rows, by number."""
        time = None if self.time is None else self.time[rows]
        return replace(self, table=self.table.take(rows), X=self.X[rows], y=self.y[rows], time=time)


def times(interface: Interface, table: pa.Table) -> NDArray[Any] | None:
    """The time of each row as ``datetime64[us]`` in UTC; None if the interface names none.

    Raises
    ------
    DataError : the column holds nulls or no times.
    """
    if not interface.time:
        return None
    column = table.column(interface.time)
    if column.null_count:
        raise DataError(f"{column.null_count} rows have no time in {interface.time!r}.")
    try:
        micros = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {interface.time!r} is {column.type}, and cannot be read as times: {error}.") from error
    return np.asarray(micros).astype("datetime64[us]")


def labels(interface: Interface, table: pa.Table) -> NDArray[Any]:
    """The labels as class codes, or as float64 values for regression.

    Raises
    ------
    DataError : a label is missing, unknown, or no number.
    """
    column = table.column(interface.label)
    if interface.task != "regression":
        coded = column.combine_chunks().dictionary_encode()
        if coded.null_count:
            raise DataError(f"{coded.null_count} rows have no label in {interface.label!r}.")
        codes = label_codes(interface, coded.dictionary.to_pylist())
        return np.asarray(codes[coded.indices.to_numpy(zero_copy_only=False)])
    try:
        values = np.array(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {interface.label!r} is {column.type}; regression needs numbers: {error}.") from error
    if not np.isfinite(values).all():
        raise DataError(f"column {interface.label!r} holds values that are missing, NaN or infinite.")
    return values


def _check_classes(interface: Interface) -> None:
    wanted = {"binary": "exactly two", "multiclass": "three or more"}.get(interface.task)
    n = len(interface.classes)
    if wanted and not (n == 2 if interface.task == "binary" else n >= 3):
        raise DataError(
            f"model {interface.model!r} is declared {interface.task}, which needs {wanted} classes; it has {n}: "
            f"{', '.join(interface.classes[:10])}.",
            hint="Check `task` and `classes` of the declaration, and the label column.",
        )


class Fold(NamedTuple):
    """Row numbers to train on and to test on."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]


class Splits(NamedTuple):
    """Growing folds over the first part, and the final split: everything before the tail, and the tail."""

    folds: tuple[Fold, ...]
    final: Fold


def split(
    n: int, time: NDArray[Any] | None, *, folds: int = 3, holdout: float = 0.2, gap: timedelta = timedelta()
) -> Splits:
    """Split rows in order: ``folds`` growing windows over the development part, and the last ``holdout`` share.

    Rows of one moment are never divided. Rows less than ``gap`` before a test part are left out of its training part,
    because their labels were not known yet when it began.

    Parameters
    ----------
    folds : 0 or more; 0 tests on the held-out tail alone.
    holdout : share of rows, in (0, 1).

    Raises
    ------
    DataError : too few rows or moments for so many parts.
    """
    if not 0 < holdout < 1 or folds < 0:
        raise DataError(f"holdout must lie in (0, 1) and folds be 0 or more; got {holdout} and {folds}.")
    tail = round(n * (1 - holdout))
    cuts = [_between(time, n, tail * block // (folds + 1)) for block in range(1, folds + 1)] + [_between(time, n, tail)]
    parts = []
    for begin, end in zip(cuts, [*cuts[1:], n], strict=True):
        before = np.arange(begin)
        if time is not None and gap:
            before = before[time[:begin] + np.timedelta64(gap) <= time[begin]]
        if not before.size or begin >= end:
            raise DataError(
                f"{n} rows cannot be split by time into {folds} folds and a tail of {holdout:.0%} (gap {gap}).",
                hint="Use fewer folds or more rows; rows of the same moment are never divided.",
            )
        parts.append(Fold(before, np.arange(begin, end)))
    return Splits(tuple(parts[:-1]), parts[-1])


def _between(time: NDArray[Any] | None, n: int, place: int) -> int:
    """The nearest place for a cut that divides no moment, before ``place`` or else after it; n if there is none."""
    place = min(place, n - 1)
    if time is None or place <= 0:
        return place
    return int(np.searchsorted(time, time[place], "left")) or int(np.searchsorted(time, time[place], "right"))
