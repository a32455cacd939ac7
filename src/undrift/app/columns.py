"""What the columns of a new table are: which task the label makes, which columns are no inputs, one row as a request.

Every rule here is stated where its result is shown, and can be overruled by an option or in the written project.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from undrift.develop.bundle import Task
from undrift.develop.performance import label_text
from undrift.errors import DataError, SettingsError

__all__ = ["Outcome", "check_named", "check_roles", "example_row", "is_number", "outcome", "unfit"]

MOST_WHOLE_CLASSES: Final = 20
"""So many different whole numbers are still names of classes; more are a quantity."""
MOST_CLASSES: Final = 100
FEWEST_ROWS: Final = 30
"""What training asks for."""
_NEGATIVE: Final = frozenset({"0", "-1", "false", "f", "no", "n", "negative", "none", "off"})


class Outcome(NamedTuple):
    """What is predicted: the task, its classes (negative first; empty for regression), and by which rule."""

    task: Task
    classes: tuple[str, ...]
    reason: str


def check_named(table: pa.Table, **columns: str) -> None:
    """Refuse options that name no column; says the nearest that exists.

    Raises
    ------
    SettingsError : an option (``label``, ``time`` ...) names a column that the table does not have.
    DataError : the table has no rows, or two columns of one name.
    """
    names = table.column_names
    if table.num_rows == 0:
        raise DataError("the table has no rows.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"two columns are named {twice[0]!r}.", hint="Rename one of them.")
    for option, name in columns.items():
        if name and name not in names:
            lowered = {known.lower(): known for known in names}
            near = difflib.get_close_matches(name.lower(), list(lowered), n=1)
            hint = f"Did you mean {lowered[near[0]]!r}?" if near else f"Columns: {', '.join(names[:30])}."
            raise SettingsError(
                f"--{option.replace('_', '-')} names {name!r}, which is no column of the table.", hint=hint
            )


def check_roles(table: pa.Table, *, label: str, time: str, key: str) -> None:
    """Refuse a key that does not name rows and a time that is none.

    Raises
    ------
    DataError : the key has nulls or repeats, or the time column is no timestamp or has nulls.
    SettingsError : one column is given two roles.
    """
    given = [name for name in (label, time, key) if name]
    if len(set(given)) != len(given):
        raise SettingsError("--label, --time and --key must be different columns.")
    if time:
        column = table[time]
        if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
            raise DataError(
                f"the time column {time!r} is {column.type}, not a timestamp.",
                hint="Write times as 2013-04-01T12:00:00Z; times without an offset are read as UTC.",
            )
        if column.null_count:
            raise DataError(f"{column.null_count} rows have no time in {time!r}.")
    if key:
        column = table[key]
        if column.null_count:
            raise DataError(f"{column.null_count} rows have no key in {key!r}.")
        counts = pc.value_counts(column.combine_chunks())
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(repeated):
            raise DataError(
                f"{key!r} names no single row: {repeated[0]['values'].as_py()!r} stands in "
                f"{repeated[0]['counts'].as_py()} of them.",
                hint="Leave --key out; every prediction then gets an id of its own.",
            )


def outcome(table: pa.Table, label: str, task: Task | None = None) -> Outcome:
    """The task that a label makes.

    Two different values are ``binary``. Text and, up to 20 of them, whole numbers are ``multiclass``. Other numbers are
    ``regression``. Of two values the negative is the one that says so (0, false, no ...), else the more frequent.

    Raises
    ------
    DataError : the label is empty, constant, has too few rows, or cannot be what `task` says.
    """
    column = _known(table[label])
    if len(column) == 0:
        raise DataError(f"the label {label!r} is empty in all {table.num_rows} rows.")
    number, text = is_number(column.type), pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not (number or text or pa.types.is_boolean(column.type)):
        raise DataError(f"the label {label!r} is {column.type}, which can be neither a class nor a number to predict.")
    counts = pc.value_counts(column)
    values = {label_text(entry["values"]): entry["counts"] for entry in counts.to_pylist()}
    if len(values) == 1:
        raise DataError(f"the label {label!r} is {next(iter(values))!r} in every row: there is nothing to predict.")
    if len(column) < FEWEST_ROWS:
        raise DataError(f"only {len(column)} rows have a label in {label!r}; at least {FEWEST_ROWS} are needed.")
    found, reason = _task(column, len(values), label)
    if task is not None and task != found:
        _check_task(task, label, column.type, len(values))
        found, reason = task, "as you said with --task"
    if found == "regression":
        return Outcome(found, (), reason)
    if found == "binary":
        return Outcome(found, _negative_first(values), reason)
    return Outcome(found, tuple(sorted(values, key=float if number else str)), reason)


def _known(column: pa.ChunkedArray) -> pa.Array:
    """The values that are there; NaN counts as absent."""
    known = column.drop_null().combine_chunks()
    if pa.types.is_dictionary(known.type):
        known = known.dictionary_decode()
    return known.filter(pc.invert(pc.is_nan(known))) if pa.types.is_floating(known.type) else known


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of a type holds numbers (booleans do not count)."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _task(column: pa.Array, distinct: int, label: str) -> tuple[Task, str]:
    if distinct == 2:
        return "binary", f"{label!r} has two different values"
    if not is_number(column.type):
        if distinct > MOST_CLASSES:
            raise DataError(
                f"the label {label!r} is text with {distinct} different values; up to {MOST_CLASSES} can be classes.",
                hint="Is it an identifier? Group the rare values, or choose another label.",
            )
        return "multiclass", f"{label!r} is text with {distinct} different values"
    whole = not pa.types.is_floating(column.type) or bool(pc.all(pc.equal(pc.floor(column), column)).as_py())
    if whole and distinct <= MOST_WHOLE_CLASSES:
        doubt = "--task regression if they are a quantity"
        return "multiclass", f"{label!r} has {distinct} different whole numbers ({doubt})"
    what = f"{distinct} different whole numbers" if whole else "fractions"
    return "regression", f"{label!r} is a number with {what}"


def _check_task(task: Task, label: str, kind: pa.DataType, distinct: int) -> None:
    if task == "regression" and not is_number(kind):
        raise DataError(f"--task regression needs a number, but the label {label!r} is {kind}.")
    if task == "binary" and distinct != 2:
        raise DataError(f"--task binary needs two different labels, but {label!r} has {distinct}.")
    if task == "multiclass" and not 3 <= distinct <= MOST_CLASSES:
        raise DataError(f"--task multiclass needs 3 to {MOST_CLASSES} different labels, but {label!r} has {distinct}.")


def _negative_first(values: dict[str, int]) -> tuple[str, ...]:
    names = sorted(values)
    said = [name for name in names if name.lower() in _NEGATIVE]
    negative = said[0] if len(said) == 1 else max(names, key=lambda name: values[name])
    return (negative, next(name for name in names if name != negative))


def unfit(table: pa.Table, candidates: Sequence[str]) -> dict[str, str]:
    """Columns that cannot be inputs, with why: empty, constant, nested, or text that differs in nearly every row."""
    found = {}
    for name in candidates:
        column = table[name]
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_null(column.type):
            empty = pa.types.is_null(column.type)
            found[name] = "it is empty" if empty else f"its type {column.type} cannot be an input"
            continue
        distinct = len(column.drop_null().unique())
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if distinct == 0:
            found[name] = "it is empty"
        elif distinct == 1 and not column.null_count:
            found[name] = f"it is {column[0].as_py()!r} in every row"
        elif text and distinct > 50 and distinct > table.num_rows / 2:
            found[name] = f"it is text with {distinct} different values, nearly one per row"
    return found


def example_row(table: pa.Table, names: Sequence[str]) -> dict[str, Any]:
    """The last row without gaps (the last one, if all have some) as JSON values; absent values are left out."""
    last = table.num_rows - 1
    rows = (
        {name: _plain(table[name][place].as_py()) for name in names} for place in range(last, max(-1, last - 1000), -1)
    )
    fallback = {name: _plain(table[name][last].as_py()) for name in names}
    row = next((row for row in rows if all(value is not None for value in row.values())), fallback)
    return {name: value for name, value in row.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and value != value:
        return None
    return value
