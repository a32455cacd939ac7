"""Columns of text, as CSV has them, in the types of a contract; what is no value of its type is put aside.

`check` (inspect.py) takes tables that have types. Nothing but the reading of text stands here.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from undrift.data.contract import Contract, FieldType
from undrift.data.inspect import UTC_MICROS

__all__ = ["Typed", "typed"]

ABSENT: Final = ("", "#N/A", "NA", "N/A", "NULL", "NaN", "n/a", "nan", "null", "None")
"""Texts that mean no value in a column of numbers, booleans or times; in a column of text they are text."""

_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_WHOLE: Final = r"^[+-]?\d+$"
_BOOLEAN: Final = ("true", "false", "True", "False", "TRUE", "FALSE", "1", "0")


class Typed(NamedTuple):
    """``table``: the rows with typed columns. ``wrong``: per row what is no value of its type, "" where all is well."""

    table: pa.Table
    wrong: pa.ChunkedArray


def typed(table: pa.Table, contract: Contract) -> Typed:
    """A table of text columns with those of the contract in its types; other columns stay text.

    >>> from undrift.data.contract import Field
    >>> contract = Contract(name="t", fields=(Field(name="x", type="number"),))
    >>> found = typed(pa.table({"x": ["1.5", "", "far"]}), contract)
    >>> found.table["x"].to_pylist(), found.wrong.to_pylist()
    ([1.5, None, None], ['', '', 'x is no number'])
    """
    wrong: Any = pa.array([""] * table.num_rows, pa.string())
    for field in contract.fields:
        if field.name not in table.column_names or field.type == "string":
            continue
        place = table.column_names.index(field.name)
        text = pc.utf8_trim_whitespace(table[field.name])
        text = pc.if_else(pc.is_in(text, value_set=pa.array(ABSENT)), pa.scalar(None, pa.string()), text)
        values = _values(text, field.type)
        table = table.set_column(place, field.name, values)
        broken = pc.and_(pc.is_valid(text), pc.is_null(values))
        if pc.any(broken).as_py():
            said = f"{field.name} is no {field.type}"
            both = pc.if_else(pc.equal(wrong, ""), said, pc.binary_join_element_wise(wrong, said, "; "))
            wrong = pc.if_else(broken, both, wrong)
    return Typed(table, wrong)


def _values(text: Any, kind: FieldType) -> Any:
    """The values that texts mean; null where one means none of its type."""
    if kind == "boolean":
        lowered = pc.utf8_lower(pc.if_else(pc.is_in(text, value_set=pa.array(_BOOLEAN)), text, None))
        return lowered.cast(pa.bool_())
    if kind == "timestamp":
        return _times(text)
    if kind == "integer":
        try:
            return text.cast(pa.int64())
        except pa.ArrowInvalid:
            pass  # some are no whole numbers; as numbers they can be told apart
    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid:
        return pc.if_else(pc.match_substring_regex(text, _NUMBER), text, None).cast(pa.float64())


def _times(text: Any) -> Any:
    if pc.all(pc.match_substring_regex(text, _WHOLE)).as_py():  # microseconds, or nothing at all
        return text.cast(pa.int64()).cast(UTC_MICROS)
    for kind in (UTC_MICROS, pa.timestamp("us")):  # with a zone, or without one, which is read as UTC
        try:
            return text.cast(kind).cast(UTC_MICROS)
        except pa.ArrowInvalid:
            continue
    return text  # one of them is no time, or they are of several forms: `check` reads them one by one
