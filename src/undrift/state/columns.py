"""Columns on their way into and out of the lake: which type a value is stored as, and conditions as SQL text.

A column keeps the type it was first stored with; what does not fit is refused here instead of being turned into
something else in silence. Nothing here reads or writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from undrift.errors import DataError

__all__ = ["fitted", "holding", "predicate"]

_OPERATORS: Final = {"==": "=", "=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_SIGNED: Final = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.int64()}


def fitted(rows: pa.Table, schema: pa.Schema, table: str) -> pa.Table:
    """The rows with the types they are stored as, given the schema of the table they go to (empty for a new one).

    Strings, lists and binaries lose their "large" and "view" forms, dictionaries are decoded, timestamps become
    microseconds in UTC, integers and floats take the width of the table. Columns that the table lacks are new.

    Raises
    ------
    DataError : a column of nulls without a type that the table lacks too, a timestamp without a zone, a type that is
        not the table's, a value that does not fit into it.
    """
    fields = []
    for field in rows.schema:
        old = schema.field(field.name).type if field.name in schema.names else None
        fields.append(pa.field(field.name, _stored(field.type, old, f"{table}.{field.name}")))
    try:
        return rows.cast(pa.schema(fields))
    except pa.ArrowInvalid as error:
        raise DataError(f"rows for table {table} do not fit its columns: {error}.") from error


def _stored(new: pa.DataType, old: pa.DataType | None, where: str) -> pa.DataType:
    """The type under which values of type ``new`` go into a column of type ``old`` (None: a new column)."""
    if types.is_null(new):
        if old is None:
            raise DataError(
                f"{where} holds nothing but nulls and has no type.", hint="Give the column its type, as pa.string()."
            )
        return old
    if types.is_dictionary(new):
        return _stored(new.value_type, old, where)
    if types.is_list(new) or types.is_large_list(new) or types.is_list_view(new) or types.is_fixed_size_list(new):
        inner = old.value_type if old is not None and types.is_list(old) else None
        kind = pa.list_(_stored(new.value_type, inner, f"{where}[]"))
        return kind if old is None or types.is_list(old) else _refuse(new, old, where)
    if types.is_struct(new):
        if old is not None and not types.is_struct(old):
            _refuse(new, old, where)
        known = {f.name: f.type for f in old} if old is not None else {}
        return pa.struct([pa.field(f.name, _stored(f.type, known.get(f.name), f"{where}.{f.name}")) for f in new])
    plain = _plain(new, where)
    if old is None or plain == old:
        return plain
    widens = types.is_integer(plain) and (types.is_integer(old) or types.is_floating(old))
    if widens or (types.is_floating(plain) and types.is_floating(old)):
        return old  # the cast refuses values that do not fit
    return _refuse(new, old, where)


def _plain(kind: pa.DataType, where: str) -> pa.DataType:
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_timestamp(kind):
        if kind.tz is None:
            raise DataError(
                f"{where} holds times without a zone.", hint="Say which zone they are in; times are kept in UTC."
            )
        return pa.timestamp("us", "UTC")
    if types.is_date64(kind):
        return pa.date32()
    if types.is_float16(kind):
        return pa.float32()
    return _SIGNED.get(kind, kind)


def _refuse(new: pa.DataType, old: pa.DataType, where: str) -> pa.DataType:
    raise DataError(f"{where} is {old}, and {new} was to be stored in it.", hint="A column keeps its type for ever.")


def predicate(where: Sequence[tuple[str, str, Any]]) -> str | None:
    r"""Conditions that must all hold, as the text of a DataFusion predicate; None for no condition.

    Raises
    ------
    DataError : an operator or a type of value that is not known here.

    Examples
    --------
    >>> predicate([("carrier", "in", ["UA", "O'Hare"]), ("delay", ">", 15)])
    '"carrier" IN (\'UA\', \'O\'\'Hare\') AND "delay" > 15'
    """
    return " AND ".join(_condition(*condition) for condition in where) or None


def holding(rows: pa.Table, where: Sequence[tuple[str, str, Any]]) -> pa.Table:
    """The rows of a table for which all conditions hold, as `predicate` says them: a null meets none but ``== None``.

    Raises
    ------
    DataError : as `predicate` does.
    """
    predicate(where)  # refuses what cannot be said
    compare = {"=": pc.equal, "<>": pc.not_equal, "<": pc.less, "<=": pc.less_equal,
               ">": pc.greater, ">=": pc.greater_equal}  # fmt: skip
    held = None
    for column, op, value in where:
        given = rows[column]
        if op in ("in", "not in"):
            among = pc.is_in(given, value_set=pa.array(list(value), given.type))
            kept = among if op == "in" else pc.and_(pc.invert(among), pc.is_valid(given))
        elif value is None:
            kept = pc.is_null(given) if _OPERATORS[op] == "=" else pc.is_valid(given)
        else:
            kept = compare[_OPERATORS[op]](given, value)
        held = kept if held is None else pc.and_(held, kept)
    return rows if held is None or pc.all(held, min_count=0, skip_nulls=False).as_py() else rows.filter(held)


def _condition(column: str, op: str, value: Any) -> str:
    name = '"' + column.replace('"', '""') + '"'
    if op in ("in", "not in"):
        literals = ", ".join(_literal(v) for v in value)
        if not literals:
            return "false" if op == "in" else "true"
        return f"{name} {op.upper()} ({literals})"
    if op not in _OPERATORS:
        raise DataError(f"{op!r} is no operator; one of {', '.join([*_OPERATORS, 'in', 'not in'])} is.")
    if value is None:
        if _OPERATORS[op] not in ("=", "<>"):
            raise DataError(f"{column} {op} None compares with nothing; only == and != do.")
        return f"{name} IS NULL" if _OPERATORS[op] == "=" else f"{name} IS NOT NULL"
    return f"{name} {_OPERATORS[op]} {_literal(value)}"


def _literal(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if value - value == 0:  # neither infinite nor NaN
            return repr(value)
        case str():
            return "'" + value.replace("'", "''") + "'"
        case datetime() if value.tzinfo is not None:
            text = value.astimezone(UTC).isoformat(timespec="microseconds")
            return f"arrow_cast('{text}', 'Timestamp(Microsecond, Some(\"UTC\"))')"
        case date() if not isinstance(value, datetime):
            return f"DATE '{value.isoformat()}'"
    raise DataError(f"{value!r} cannot be compared with a column here; use a number, text, date or time with a zone.")
