"""The contract as a compiled decoder of requests: bytes in, checked rows out, with the exact path of what is wrong.

It is built once per contract and stands on the hot path, so neither NumPy nor Arrow is loaded here. Tables are checked
in inspect.py, by the same rules under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import GenericAlias
from typing import Annotated, Any, Final, Literal

import msgspec

from undrift.data.contract import Contract, Field
from undrift.errors import RequestError
from undrift.ids import from_micros, to_micros

__all__ = ["Decoder", "Row"]

Row = dict[str, Any]

_LAST_MICRO: Final = 253_402_300_799_999_999  # the end of the year 9999, the last a datetime can say
_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Timestamp = (
    Annotated[datetime, msgspec.Meta(tz=True)]
    | Annotated[int, msgspec.Meta(ge=-_LAST_MICRO // 4, le=_LAST_MICRO)]  # 4: back to before the year 1
)
_WIRE: Final[dict[str, Any]] = {
    "string": str,
    "integer": _Integer,
    "number": float,
    "boolean": bool,
    "timestamp": _Timestamp,
}

_Check = Callable[[Row], str | None]


class Decoder:
    """Decodes and checks the rows of requests against one contract.

    A timestamp is an ISO 8601 string with a time zone, or an integer of microseconds since 1970 UTC; rows hold it as an
    aware UTC datetime. A number must be finite. An absent nullable field is None in the row. Fields that the contract
    does not name are refused or dropped, as its ``unknown`` says.

    Parameters
    ----------
    contract : what each row must look like.

    Examples
    --------
    >>> from undrift.data.contract import Contract, Field
    >>> decoder = Decoder(Contract(name="t", fields=(Field(name="distance", type="number", maximum=4983),)))
    >>> (row,) = decoder.instances(b'{"instances": [{"distance": 5000}]}')
    >>> row, decoder.violations(row)
    ({'distance': 5000.0}, ('distance>4983',))
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._names = contract.names
        self._times = tuple(field.name for field in contract.fields if field.type == "timestamp")
        self._numbers = tuple(field.name for field in contract.fields if field.type == "number")
        # struct fields are numbered, since a column may have any name; errors show the name in the body
        spelled = {f"f{i}": name for i, name in enumerate(self._names)}
        strict = contract.unknown == "reject"
        self._row_type = msgspec.defstruct(
            "Row",
            [_member(i, field) for i, field in enumerate(contract.fields)],
            rename=spelled,
            forbid_unknown_fields=strict,
            kw_only=True,
            gc=False,
        )
        body = [
            ("instances", list[self._row_type] | msgspec.UnsetType, msgspec.UNSET),  # type: ignore[name-defined]
            ("inputs", msgspec.Raw, msgspec.Raw(b"")),
        ]
        self._body = msgspec.json.Decoder(msgspec.defstruct("Body", body, kw_only=True, gc=False))
        columns = [(f"f{i}", _column(field), *_absent(field, None)) for i, field in enumerate(contract.fields)]
        self._columns_type = msgspec.defstruct(
            "Columns", columns, rename=spelled, forbid_unknown_fields=strict, kw_only=True
        )
        self._flags = tuple(check for _, check in _checks(contract, "flag"))
        self._rejects = _checks(contract, "reject")
        self._kept = self._compile_kept(spelled, strict)

    def _compile_kept(self, spelled: dict[str, str], strict: bool) -> msgspec.json.Decoder[Any] | None:
        """A decoder that takes only bodies whose rows keep every rule, checked while they are decoded.

        Nearly all rows do, and then no rule is looked at in Python. None where a rule cannot be said to the library.
        """
        members = [_kept_member(i, field) for i, field in enumerate(self.contract.fields)]
        if None in members:
            return None
        row = msgspec.defstruct("Kept", members, rename=spelled, forbid_unknown_fields=strict, kw_only=True, gc=False)
        body: list[Any] = [
            ("instances", Annotated[GenericAlias(list, (row,)), msgspec.Meta(min_length=1)]),
            ("inputs", msgspec.UnsetType, msgspec.UNSET),
        ]
        return msgspec.json.Decoder(msgspec.defstruct("KeptBody", body, kw_only=True, gc=False))

    def kept(self, body: bytes) -> list[Row] | None:
        """The rows of ``{"instances": [{...}, ...]}`` if all keep every rule of the contract, else None.

        None says nothing of what is wrong, nor whether that only flags: `instances` and `violations` do.
        """
        if self._kept is None:
            return None
        try:
            found = self._kept.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        names, astuple = self._names, msgspec.structs.astuple
        rows = [dict(zip(names, astuple(struct), strict=True)) for struct in found.instances]
        self._in_utc(rows)
        return rows

    def instances(self, body: bytes) -> list[Row]:
        """The rows of a request body, ``{"instances": [{...}, ...]}`` or ``{"inputs": {column: [...], ...}}``.

        Other keys of the body are left alone.

        Raises
        ------
        RequestError : malformed JSON, no rows, or a row that breaks the contract; says where.
        """
        try:
            decoded: Any = self._body.decode(body)
            if decoded.instances is not msgspec.UNSET:
                if bytes(decoded.inputs):
                    raise RequestError("expected either `instances` or `inputs`, got both", path="$")
                return self._rows(decoded.instances, "$.instances[{i}].{name}", finite=True)
            if not bytes(decoded.inputs):
                raise RequestError("expected `instances`, a list of rows, or `inputs`, lists by column", path="$")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _request_error(error, "$") from error
        try:
            return self._transposed(msgspec.json.decode(decoded.inputs, type=self._columns_type), "$.inputs")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _request_error(error, "$.inputs") from error

    def row(self, values: Mapping[str, Any]) -> Row:
        """One row from Python values.

        Raises
        ------
        RequestError : the row breaks the contract; the path starts at the row, as ``$.distance``.
        """
        try:
            (found,) = self._rows([msgspec.convert(dict(values), self._row_type)], "$.{name}")
        except msgspec.ValidationError as error:
            raise _request_error(error, "$") from error
        return found

    def columns(self, columns: Mapping[str, Sequence[Any]], *, path: str = "$") -> list[Row]:
        """The rows of values given by column, all of one length.

        Parameters
        ----------
        path : where the columns stand in the body, for errors.

        Raises
        ------
        RequestError : a column is missing, too short or holds a value that breaks the contract.
        """
        try:
            return self._transposed(msgspec.convert(dict(columns), self._columns_type), path)
        except msgspec.ValidationError as error:
            raise _request_error(error, path) from error

    def violations(self, row: Row) -> tuple[str, ...]:
        """The rules that a row breaks and that only flag: ``distance>4983``, ``carrier not in categories``."""
        if not self._flags:
            return ()
        return tuple([broken for check in self._flags if (broken := check(row)) is not None])

    def _rows(self, structs: Sequence[Any], place: str, *, finite: bool = False) -> list[Row]:
        """Rows as dicts; ``place`` says where a value stands, ``{i}`` being the row and ``{name}`` the column."""
        if not structs:
            raise RequestError("expected at least one row, got none", path=place.partition("[")[0].partition(".{")[0])
        names, astuple = self._names, msgspec.structs.astuple
        rows = [dict(zip(names, astuple(struct), strict=True)) for struct in structs]
        self._in_utc(rows, place)
        for name in () if finite else self._numbers:  # JSON has no NaN, but Python values may
            for i, row in enumerate(rows):
                if row[name] is not None and not math.isfinite(row[name]):
                    where = place.format(i=i, name=name)
                    raise RequestError(f"expected a finite number, got {row[name]}", path=where)
        for name, check in self._rejects:
            for i, row in enumerate(rows):
                broken = check(row)
                if broken is not None:
                    where = place.format(i=i, name=name)
                    raise RequestError(f"{broken}, which the contract rejects; got {row[name]!r}", path=where)
        return rows

    def _in_utc(self, rows: list[Row], place: str = "$.instances[{i}].{name}") -> None:
        for name in self._times:
            for i, row in enumerate(rows):
                value = row[name]
                if value is not None and (isinstance(value, int) or value.tzinfo is not UTC):
                    try:
                        row[name] = from_micros(value) if isinstance(value, int) else value.astimezone(UTC)
                    except OverflowError as error:
                        where = place.format(i=i, name=name)
                        raise RequestError(f"{value} lies outside the years 1 to 9999 of UTC", path=where) from error

    def _transposed(self, struct: Any, path: str) -> list[Row]:
        columns = msgspec.structs.astuple(struct)
        given = {name: len(values) for name, values in zip(self._names, columns, strict=True) if values is not None}
        length = max(given.values(), default=0)
        for name, n in given.items():
            if n != length:
                raise RequestError(f"expected {length} values as in the longest column, got {n}", path=f"{path}.{name}")
        full = [values if values is not None else [None] * length for values in columns]
        rows = [self._row_type(**{f"f{i}": value for i, value in enumerate(row)}) for row in zip(*full, strict=True)]
        return self._rows(rows, path + ".{name}[{i}]")


def _member(place: int, field: Field) -> Any:
    wire = _WIRE[field.type]
    return (f"f{place}", wire | None if field.nullable else wire, *_absent(field, None))


def _kept_member(place: int, field: Field) -> Any:
    """A member whose type holds the field's rules; None where it cannot."""
    bounds: dict[str, Any] = {}
    wire: Any = _WIRE[field.type]
    ranged = field.minimum is not None or field.maximum is not None
    if field.categories is not None:
        if ranged:
            return None
        codes = [int(code) if field.type == "integer" else code for code in field.categories]
        wire = Literal[tuple(codes)]
    elif ranged:
        if field.type == "timestamp":
            return None
        low, high = field.minimum, field.maximum
        if field.type == "integer":
            low = -(2**63) if low is None else math.ceil(low)
            high = 2**63 - 1 if high is None else math.floor(high)
            if low < -(2**63) or high > 2**63 - 1:
                return None
        bounds = {key: bound for key, bound in (("ge", low), ("le", high)) if bound is not None}
        plain: Any = int if field.type == "integer" else float
        wire = Annotated[plain, msgspec.Meta(**bounds)]
    return (f"f{place}", wire | None if field.nullable else wire, *_absent(field, None))


def _column(field: Field) -> Any:
    wire = _WIRE[field.type]
    each = list[wire | None] if field.nullable else list[wire]  # type: ignore[valid-type]
    return each | None if field.nullable else each


def _absent(field: Field, default: Any) -> tuple[Any, ...]:
    return (default,) if field.nullable else ()


def _request_error(error: Exception, root: str) -> RequestError:
    """The library says ``what - at `$.path```; the path gets the root it was decoded from."""
    reason, _, rest = str(error).partition(" - at `")
    return RequestError(reason, path=root + rest.removesuffix("`").removeprefix("$"))


def _checks(contract: Contract, on_violation: str) -> tuple[tuple[str, _Check], ...]:
    found: list[tuple[str, _Check]] = []
    for field in contract.fields:
        if field.on_violation != on_violation:
            continue
        if field.minimum is not None or field.maximum is not None:
            found.append((field.name, _range_check(field)))
        if field.categories is not None:
            found.append((field.name, _category_check(field)))
    return tuple(found)


def _range_check(field: Field) -> _Check:
    name, rules = field.name, field.rules
    low = -math.inf if field.minimum is None else field.minimum
    high = math.inf if field.maximum is None else field.maximum
    below, above = rules.get("minimum"), rules.get("maximum")
    if field.type == "timestamp":

        def check_time(row: Row) -> str | None:
            value = row[name]
            if value is None:
                return None
            micros = to_micros(value)
            return below if micros < low else above if micros > high else None

        return check_time

    def check(row: Row) -> str | None:
        value = row[name]
        if value is None or low <= value <= high:
            return None
        return below if value < low else above

    return check


def _category_check(field: Field) -> _Check:
    name, broken = field.name, field.rules["categories"]
    allowed: frozenset[Any] = frozenset(field.categories or ())
    if field.type == "integer":
        allowed = frozenset(int(code) for code in allowed)

    def check(row: Row) -> str | None:
        value = row[name]
        return None if value is None or value in allowed else broken

    return check
