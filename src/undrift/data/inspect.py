"""Tables against contracts: infer a contract for people to review, and check a table, row by row, by every rule.

Rows that break a rejecting rule are put aside with the reason, never dropped. Requests are checked in decoder.py, by
the same rules under the same names. Any table that speaks the Arrow PyCapsule interface is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from undrift.data.contract import Contract, Field, FieldType
from undrift.errors import DataError
from undrift.finding import Finding, Measurement, Report, Rule, judge

__all__ = ["ARROW", "UTC_MICROS", "Inspection", "arrow_schema", "check", "infer"]

UTC_MICROS: Final = pa.timestamp("us", "UTC")
ARROW: Final[dict[str, pa.DataType]] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": UTC_MICROS,
}
"""The Arrow type of each type of a contract; what accepted tables and the lake hold."""

_FEW_CODES: Final = 12
_OFTEN: Final = 20
_ALONE: Final = 5.0
_EXAMPLES: Final = 5


class Inspection(NamedTuple):
    """A checked table.

    ``accepted``: the rows that may be used, in the types of the contract. ``quarantined``: the others as they came, and
    why in the column ``reason``. ``report``: one finding per rule; ``facts`` counts rows.
    """

    accepted: pa.Table
    quarantined: pa.Table
    report: Report


def arrow_schema(contract: Contract) -> pa.Schema:
    """The Arrow schema of rows that keep a contract."""
    return pa.schema([pa.field(f.name, ARROW[f.type], nullable=f.nullable) for f in contract.fields])


def infer(
    table: Any,
    name: str,
    *,
    slack: float = 0.1,
    max_categories: int = 50,
    context: Sequence[str] = (),
    keys: Sequence[str] = (),
) -> Contract:
    """Propose a contract that the table keeps; a draft for a person to review, with what is odd in ``description``.

    Ranges reach from the smallest to the largest value, widened at both ends by ``slack`` of their distance, but not
    across zero. A lone value further from all others than 5 times their whole range is left outside the range and
    named. Text with few values that come again is a closed set, and so are codes: up to 12 whole numbers with gaps
    between them, each seen 20 times on average; without gaps their range is exact. A column is nullable if it holds a
    null or a NaN. Units cannot be seen in a table and stay empty.

    Parameters
    ----------
    table : anything with the Arrow PyCapsule interface, or a mapping of columns.
    name : of the contract.
    slack : share of the observed range, 0 or more.
    max_categories : most values of a closed set of text.
    context : columns that are sent along but are no input of the model.
    keys : columns that name a row. The next row has a value that was never seen, so they get no range and no closed
        set; only their type and whether they may be absent.

    Raises
    ------
    DataError : no rows, a column that no request could hold (lists, structs, bytes), a context or key column not there.
    """
    rows = _table(table)
    if slack < 0:
        raise ValueError(f"slack must be 0 or more, got {slack}")
    if not rows.num_rows or not rows.num_columns:
        raise DataError(f"contract {name!r} cannot be inferred: the table has no rows or no columns.")
    missing = [column for column in (*context, *keys) if column not in rows.column_names]
    if missing:
        kind = "context" if missing[0] in context else "key"
        raise DataError(f"{kind} column {missing[0]!r} is not in the table; it has {', '.join(rows.column_names)}.")
    fields = []
    for column in rows.column_names:
        role = "context" if column in context else "feature"
        proposed = _propose(column, _plain(rows[column]), slack, max_categories, bounded=column not in keys)
        fields.append(Field(name=column, role=role, **proposed))  # type: ignore[arg-type]
    return Contract(name=name, fields=tuple(fields), description=f"Inferred from {rows.num_rows} rows; to be reviewed.")


def _propose(
    name: str, column: pa.ChunkedArray, slack: float, max_categories: int, *, bounded: bool = True
) -> dict[str, Any]:
    kind, notes = _type_of(name, column.type)
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        notes.append("times without a zone were read as UTC")
    converted = _converted(column, kind)
    values = converted.values.drop_null()
    found: dict[str, Any] = {"type": kind, "nullable": bool(pc.any(converted.missing).as_py())}
    if not len(values):
        notes.append("no value was seen: the type is a guess")
    elif not bounded:
        notes.append("names a row: any value of its type")
    elif kind == "string":
        counts = pc.value_counts(values)
        distinct = sorted(counts.field("values").to_pylist())
        if len(distinct) <= max_categories and 2 * len(distinct) <= len(values):
            found["categories"] = tuple(distinct)
        notes += _text_notes(distinct)
    elif kind in ("integer", "number"):
        found |= _range(values, kind, slack, notes)
    found["description"] = "; ".join(notes)
    return found


def _text_notes(distinct: Sequence[str]) -> list[str]:
    notes = []
    folded = {text.strip().casefold() for text in distinct}
    if len(folded) == 2 and folded <= {"true", "false", "yes", "no", "y", "n", "t", "f", "0", "1"}:
        notes.append("booleans as text")
    elif all(_is_number(text) for text in distinct):
        notes.append("numbers as text")
    if len(folded) < len(distinct):
        notes.append("values that differ in case or white space only")
    if "" in folded:
        notes.append("empty text, perhaps meant as missing")
    return notes


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _range(values: pa.ChunkedArray, kind: str, slack: float, notes: list[str]) -> dict[str, Any]:
    finite = values if kind == "integer" else values.filter(pc.is_finite(values))
    distinct = pc.unique(finite).sort()
    if not len(distinct):
        notes.append("no finite value was seen")
        return {}
    if kind == "integer" and len(distinct) <= _FEW_CODES and len(finite) >= _OFTEN * len(distinct):
        low, high = distinct[0].as_py(), distinct[-1].as_py()
        if high - low + 1 == len(distinct):
            return {"minimum": float(low), "maximum": float(high)}
        notes.append("whole numbers read as codes")
        return {"categories": tuple(str(code) for code in distinct.to_pylist())}
    ends = [float(distinct[i].as_py()) for i in (0, min(1, len(distinct) - 1), -min(2, len(distinct)), -1)]
    low, second, last_but_one, high = ends
    if len(distinct) > 3 and high - last_but_one > _ALONE * (last_but_one - low):
        notes.append(f"the lone value {high:g} was left out, the next is {last_but_one:g}")
        high = last_but_one
    elif len(distinct) > 3 and second - low > _ALONE * (high - second):
        notes.append(f"the lone value {low:g} was left out, the next is {second:g}")
        low = second
    reach = slack * ((high - low) or abs(high))
    wide_low, wide_high = low - reach, high + reach
    wide_low = 0.0 if low >= 0 > wide_low else wide_low
    wide_high = 0.0 if high <= 0 < wide_high else wide_high
    if kind == "integer":
        wide_low, wide_high = float(math.floor(wide_low)), float(math.ceil(wide_high))
    if not (math.isfinite(wide_low) and math.isfinite(wide_high)):
        return {"minimum": low, "maximum": high}  # the widened range is larger than numbers are
    return {"minimum": wide_low, "maximum": wide_high}


def check(table: Any, contract: Contract, *, also: Iterable[str] = ()) -> Inspection:
    """Check every row of a table by every rule of a contract.

    A NaN counts as missing; a number that is not finite, a fraction in an integer column and text that is no time are
    of the wrong type. Times without a zone are read as UTC, whole numbers in a timestamp column as microseconds.

    Parameters
    ----------
    table : anything with the Arrow PyCapsule interface, or a mapping of columns.
    also : columns that may stand beside the contract's (label, key); accepted rows keep them as they came. So do
        unknown columns where the contract ignores them; where it rejects them they are a finding, and left out.

    Returns
    -------
    Inspection
        A finding's measurement is the share of rows that break the rule; ``detail`` has the column, the rule, the count
        of rows, what happened to them (``flag`` or ``reject``) and examples.
    """
    rows = _table(table)
    n, names = rows.num_rows, set(rows.column_names)
    findings: list[Finding] = []
    reasons = pa.array([""] * n, pa.string())
    accepted: dict[str, Any] = {}
    for field in contract.fields:
        present = field.name in names
        column = _plain(rows[field.name]) if present else pa.chunked_array([pa.nulls(n)])
        converted = _converted(column, field.type)
        accepted[field.name] = converted.values
        for rule, broken, rejects in _rules(field, converted):
            text = field.rules.get(rule, f"{field.name} is {'missing' if rule == 'missing' else f'no {field.type}'}")
            findings.append(_judged(field.name, rule, text, broken, rejects, column))
            if rejects and findings[-1].measurement.detail["count"]:
                reasons = _noted(reasons, broken, text)
    strangers = [name for name in rows.column_names if name not in accepted]
    kept = set(also)
    for name in strangers:
        if contract.unknown == "reject" and name not in kept:
            findings.append(_unknown(name, n))
        else:
            accepted[name] = rows[name]
    clean = pc.equal(reasons, "")
    good = pa.table(accepted).filter(clean) if accepted else rows.slice(0, 0)
    bad = rows.append_column("reason", reasons) if "reason" not in names else rows.set_column(
        rows.column_names.index("reason"), "reason", reasons
    )  # fmt: skip
    bad = bad.filter(pc.invert(clean))
    facts = {"rows": n, "accepted": good.num_rows, "quarantined": bad.num_rows, "contract": contract.hash}
    report = Report(title="contract", subject=contract.name, findings=tuple(findings), facts=facts)
    return Inspection(good, bad, report)


def _rules(field: Field, converted: _Converted) -> list[tuple[str, Any, bool]]:
    """Each rule of a field with the rows that break it, and whether it rejects them."""
    values = converted.values
    rejects = field.on_violation == "reject"
    found: list[tuple[str, Any, bool]] = [("type", converted.wrong, True)]
    if not field.nullable:
        found.append(("missing", converted.missing, True))
    ordered = values.cast(pa.int64()) if field.type == "timestamp" else values
    if field.minimum is not None:
        found.append(("minimum", pc.fill_null(pc.less(ordered, _same(field.minimum, field.type)), False), rejects))
    if field.maximum is not None:
        found.append(("maximum", pc.fill_null(pc.greater(ordered, _same(field.maximum, field.type)), False), rejects))
    if field.categories is not None:
        coded = [int(c) for c in field.categories] if field.type == "integer" else list(field.categories)
        strange = pc.invert(pc.is_in(values, value_set=pa.array(coded, values.type)))
        found.append(("categories", pc.and_(strange, pc.is_valid(values)), rejects))
    return found


def _same(bound: float, kind: str) -> pa.Scalar:
    """A bound in a type that compares exactly: integers beyond 2**53 must not become floats."""
    whole = kind != "number" and float(bound).is_integer() and abs(bound) < 2**63
    return pa.scalar(int(bound), pa.int64()) if whole else pa.scalar(float(bound), pa.float64())


def _judged(column: str, rule: str, text: str, broken: Any, rejects: bool, values: Any) -> Finding:
    n = len(broken)
    count = pc.sum(broken, min_count=0).as_py() or 0
    examples = [str(e) for e in pc.unique(values.filter(broken))[:_EXAMPLES].to_pylist()] if count else []
    action = "reject" if rejects else "flag"
    detail = {"column": column, "rule": rule, "count": count, "action": action, "examples": examples}
    seen = Measurement(name=text, value=count / n if n else 0.0, n=n, unit="share of rows", detail=detail)
    found = judge(Rule(measure=text, op="<=", bound=0.0), seen)
    if not n:
        return found
    done = "quarantined" if rejects else "flagged"
    shown = f", as {', '.join(examples)}" if examples and rule != "missing" else ""
    why = f"{text}: {count} of {n} rows ({count / n:.2%}) {done}{shown}" if count else f"{text}: none of {n} rows"
    return Finding(verdict=found.verdict, why=why, measurement=seen, rule=found.rule)


def _unknown(name: str, n: int) -> Finding:
    text = f"{name} is not in the contract"
    detail = {"column": name, "rule": "unknown", "count": n, "action": "left out", "examples": []}
    seen = Measurement(name=text, value=1.0, n=max(n, 1), unit="share of rows", detail=detail)
    found = judge(Rule(measure=text, op="<=", bound=0.0), seen)
    return Finding(verdict=found.verdict, why=f"{text}: the column was left out", measurement=seen, rule=found.rule)


def _noted(reasons: Any, broken: Any, text: str) -> Any:
    first = pc.if_else(pc.equal(reasons, ""), text, pc.binary_join_element_wise(reasons, text, "; "))
    return pc.if_else(broken, first, reasons)


class _Converted(NamedTuple):
    """A column in the type of its field; ``wrong`` rows became null, ``missing`` ones were null."""

    values: pa.ChunkedArray
    wrong: Any
    missing: Any


def _converted(column: pa.ChunkedArray, kind: FieldType) -> _Converted:
    target, source = ARROW[kind], column.type
    missing = pc.is_null(column, nan_is_null=pa.types.is_floating(source))
    values: Any = None
    number = pa.types.is_integer(source) or pa.types.is_floating(source) or pa.types.is_decimal(source)
    if pa.types.is_null(source) or source == target:
        values = column.cast(target)
    elif kind == "number" and number:
        values = column.cast(target, safe=False)
    elif kind == "integer" and number:
        values = _whole(column)
    elif kind == "timestamp":
        values = _times(column)
    if kind == "number" and values is not None:
        values = pc.if_else(pc.is_finite(values), values, None)
    if values is None:
        values = pa.chunked_array([pa.nulls(len(column), target)])
    wrong = pc.and_(pc.is_null(values), pc.invert(missing))
    return _Converted(values, wrong, missing)


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers within 64 bits, null where a value is none."""
    if pa.types.is_integer(column.type):
        if pa.types.is_uint64(column.type):
            column = pc.if_else(pc.less_equal(column, pa.scalar(2**63 - 1, pa.uint64())), column, None)
        return column.cast(pa.int64())
    floats = column.cast(pa.float64(), safe=False)
    fits = pc.and_(pc.equal(floats, pc.floor(floats)), pc.less(pc.abs(floats), 2.0**63))
    return pc.if_else(fits, floats, None).cast(pa.int64())


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    kind = column.type
    if pa.types.is_timestamp(kind):
        # casting a time without zone to one in UTC reads it as UTC
        return column.cast(UTC_MICROS, safe=False)
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("us")).cast(UTC_MICROS)
    if pa.types.is_integer(kind):
        return column.cast(pa.int64()).cast(UTC_MICROS)
    if pa.types.is_string(kind):
        encoded = column.combine_chunks().dictionary_encode()
        parsed = pa.array([_parsed(text) for text in encoded.dictionary.to_pylist()], UTC_MICROS)
        return pa.chunked_array([parsed.take(encoded.indices)])
    return None


def _parsed(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _table(table: Any) -> pa.Table:
    try:
        found = table if isinstance(table, pa.Table) else pa.table(table)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"a {type(table).__name__} is no table: {error}.",
            hint="Give an Arrow table, or a frame with the Arrow PyCapsule interface (pandas, Polars, DuckDB).",
        ) from error
    twice = sorted({name for name in found.column_names if found.column_names.count(name) > 1})
    if twice:
        raise DataError(f"the table has more than one column {twice[0]!r}.")
    return found


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries decoded, and text in its plain form."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    wide = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    return column.cast(pa.string()) if wide else column


def _type_of(name: str, kind: pa.DataType) -> tuple[FieldType, list[str]]:
    if pa.types.is_string(kind) or pa.types.is_null(kind):
        return "string", []
    if pa.types.is_boolean(kind):
        return "boolean", []
    if pa.types.is_integer(kind):
        return "integer", []
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number", []
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp", []
    raise DataError(
        f"the column {name!r} holds {kind}, which no row of a contract can hold.",
        hint="Leave the column out, or turn it into columns of numbers, text, booleans or times.",
    )
