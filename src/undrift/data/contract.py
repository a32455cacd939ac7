"""The data contract: what a row must look like, as a value that people review and machines enforce everywhere.

The same contract checks training tables, batches and single requests. It reads and writes the Open Data Contract
Standard (ODCS; odcs.py translates). How data is checked stands in inspect.py, how a request is decoded in decoder.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from undrift.data import odcs
from undrift.errors import ContractError, DeclarationError, NotFoundError
from undrift.ids import content_hash, from_micros

__all__ = ["Contract", "Field", "FieldType"]

FieldType = Literal["string", "integer", "number", "boolean", "timestamp"]

_ORDERED: Final = ("integer", "number", "timestamp")
_CODED: Final = ("string", "integer")


class Field(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One column of a contract.

    ``role``: a ``feature`` is an input of the model; ``context`` is sent along (entity keys, raw material of
    transforms) and never reaches the model. ``nullable`` allows null or absence. ``minimum``/``maximum`` are inclusive;
    those of a timestamp are microseconds since 1970 UTC. ``categories`` of an integer are its codes as text.
    ``on_violation`` says what a broken range or category rule does to the row: ``flag`` accepts and counts it,
    ``reject`` refuses a request and quarantines a batch row. A wrong type or a missing value that is not nullable
    always rejects. ``personal`` fields are redacted from capture. ``text`` says that a string is free text: it is
    watched by its length, script and words instead of by its values.

    Raises
    ------
    DeclarationError : rules that cannot hold: an empty range or set, a range of text, a set of numbers.
    """

    name: str
    type: FieldType
    role: Literal["feature", "context"] = "feature"
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = None
    unit: str = ""
    personal: bool = False
    text: bool = False
    on_violation: Literal["flag", "reject"] = "flag"
    description: str = ""

    def __post_init__(self) -> None:
        where = f"field {self.name!r}"
        if not self.name:
            raise DeclarationError("a field of a contract has no name.")
        for bound in (self.minimum, self.maximum):
            if bound is not None and self.type not in _ORDERED:
                raise DeclarationError(f"{where}: a {self.type} has no minimum or maximum.")
            if bound is not None and not math.isfinite(bound):
                raise DeclarationError(f"{where}: the bound {bound} is no number; leave it out for no bound.")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise DeclarationError(f"{where}: the minimum {self.minimum:g} is above the maximum {self.maximum:g}.")
        if self.categories is not None and self.type not in _CODED:
            raise DeclarationError(f"{where}: categories are for strings and integers, not for a {self.type}.")
        if self.categories is not None and not self.categories:
            raise DeclarationError(f"{where}: no category is allowed, so no row could ever pass.")
        if self.text and (self.type != "string" or self.categories is not None):
            raise DeclarationError(f"{where}: free text is a string without categories.")
        for code in (self.categories or ()) if self.type == "integer" else ():
            if not code.removeprefix("-").isdecimal() or str(int(code)) != code:
                raise DeclarationError(f"{where}: the category {code!r} is no integer.")

    @property
    def rules(self) -> dict[str, str]:
        """The rules on values, ``minimum``, ``maximum``, ``categories``, each with the name of its violation.

        Requests and tables report violations under the same names.

        >>> Field(name="distance", type="number", minimum=0, maximum=4983).rules
        {'minimum': 'distance<0', 'maximum': 'distance>4983'}
        """
        found = {}
        if self.minimum is not None:
            found["minimum"] = f"{self.name}<{self.show(self.minimum)}"
        if self.maximum is not None:
            found["maximum"] = f"{self.name}>{self.show(self.maximum)}"
        if self.categories is not None:
            found["categories"] = f"{self.name} not in categories"
        return found

    def show(self, bound: float) -> str:
        """A bound as people write it: whole numbers without a point, timestamps in ISO 8601."""
        if self.type == "timestamp":
            return from_micros(int(bound)).isoformat()
        return str(int(bound)) if float(bound).is_integer() and abs(bound) < 1e15 else repr(float(bound))


class Contract(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The columns a table or request must have. ``unknown``: what columns not named here do.

    Raises
    ------
    DeclarationError : no field, or two of one name.
    """

    name: str
    fields: tuple[Field, ...]
    version: str = "1.0.0"
    unknown: Literal["reject", "ignore"] = "reject"
    description: str = ""

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not names:
            raise DeclarationError(f"contract {self.name!r} has no field.")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DeclarationError(f"contract {self.name!r} names {', '.join(map(repr, twice))} more than once.")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return tuple(field.name for field in self.fields)

    @property
    def hash(self) -> str:
        """SHA-256 of everything the contract says; 64 hex digits. Equal contracts have equal hashes."""
        # the round trip makes 1 and 1.0 the same number; asdict, since omit_defaults goes by identity, not equality
        same = msgspec.convert(msgspec.to_builtins(self), Contract)
        fields = [msgspec.structs.asdict(field) for field in same.fields]
        return content_hash({**msgspec.structs.asdict(same), "fields": fields})

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises
        ------
        NotFoundError : there is none; lists those there are.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise NotFoundError(f"contract {self.name!r} has no field {name!r}; it has {', '.join(self.names)}.")

    def to_odcs(self) -> str:
        """The contract as an ODCS document (YAML, API version 3.1.0); ``from_odcs`` gives back an equal contract.

        What the standard has no word for (role, unit, what a violation does) stands in custom properties.
        """
        return odcs.write(msgspec.to_builtins(self))

    @classmethod
    def from_odcs(cls, text: str, *, table: str = "") -> Contract:
        """Read one table of an ODCS document.

        Servers, team, prices and the like are left aside; rules on rows that cannot be enforced here are named by
        ``odcs.read(text).left``.

        Parameters
        ----------
        text : YAML or JSON.
        table : name of the schema object; may be left out where there is one only.

        Raises
        ------
        ContractError : no ODCS v3, several tables and none named, a type that no column can have. Says line and path.
        """
        found = odcs.read(text, table)
        fields = []
        for values, where in found.fields:
            try:
                fields.append(msgspec.convert(values, Field))
            except (DeclarationError, msgspec.ValidationError) as error:
                raise ContractError(f"{str(error).rstrip('.')} - {where}.") from error
        try:
            return msgspec.convert({**found.values, "fields": fields}, cls)
        except DeclarationError as error:
            raise ContractError(error.message) from error

    def diff(self, other: Contract) -> tuple[str, ...]:
        """What changes from this contract to another one, the breaking changes first.

        A change is breaking when a row that this contract accepts could be refused by the other, or when the model
        would be fed other columns.

        >>> old = Contract(name="t", fields=(Field(name="x", type="integer"),))
        >>> old.diff(Contract(name="t", fields=(Field(name="x", type="string"), Field(name="y", type="number"))))
        ("breaking: 'x' was integer, is string", "breaking: 'y' is new and required")
        """
        lines: list[tuple[bool, str]] = []
        mine, theirs = {f.name: f for f in self.fields}, {f.name: f for f in other.fields}
        for name in mine.keys() - theirs.keys():
            lines.append((other.unknown == "reject" or mine[name].role == "feature", f"{name!r} is gone"))
        for name in theirs.keys() - mine.keys():
            new = theirs[name]
            what = "new" if new.nullable else "new and required"
            lines.append((not new.nullable or new.role == "feature", f"{name!r} is {what}"))
        for name in mine.keys() & theirs.keys():
            lines += _changes(mine[name], theirs[name])
        if self.unknown != other.unknown:
            lines.append((other.unknown == "reject", f"unknown columns: was {self.unknown}, is {other.unknown}"))
        ordered = sorted(set(lines), key=lambda line: (not line[0], line[1]))
        return tuple(f"{'breaking' if breaking else 'compatible'}: {text}" for breaking, text in ordered)


def _changes(old: Field, new: Field) -> Iterator[tuple[bool, str]]:
    """Changes of one field as (breaking, words)."""
    name = repr(new.name)
    rejects = new.on_violation == "reject"
    if old.type != new.type:
        yield (old.type, new.type) != ("integer", "number"), f"{name} was {old.type}, is {new.type}"
    if old.role != new.role:
        yield True, f"{name} was a {old.role} column, is a {new.role} column"
    if old.nullable != new.nullable:
        yield not new.nullable, f"{name} may {'now' if new.nullable else 'no longer'} be null"
    if old.minimum != new.minimum:
        narrower = new.minimum is not None and (old.minimum is None or new.minimum > old.minimum)
        yield narrower and rejects, f"{name} minimum was {_bound(old, old.minimum)}, is {_bound(new, new.minimum)}"
    if old.maximum != new.maximum:
        narrower = new.maximum is not None and (old.maximum is None or new.maximum < old.maximum)
        yield narrower and rejects, f"{name} maximum was {_bound(old, old.maximum)}, is {_bound(new, new.maximum)}"
    if set(old.categories or ()) != set(new.categories or ()) or (old.categories is None) != (new.categories is None):
        gone = None if new.categories is None else sorted(set(old.categories or ()) - set(new.categories))
        more = None if old.categories is None else sorted(set(new.categories or ()) - set(old.categories))
        narrower = new.categories is not None and (old.categories is None or bool(gone))
        words = [f"without {', '.join(gone)}"] if gone and old.categories is not None else []
        words += [f"with {', '.join(more)}"] if more and new.categories is not None else []
        text = " and ".join(words) or ("any value" if new.categories is None else "a closed set")
        yield narrower and rejects, f"{name} categories: now {text}"
    if old.on_violation != new.on_violation:
        yield rejects and bool(new.rules), f"{name} on violation: was {old.on_violation}, is {new.on_violation}"
    if old.unit != new.unit:
        # the same numbers mean something else: no check of a row can see it
        yield bool(old.unit), f"{name} unit was {old.unit or 'not stated'}, is {new.unit or 'not stated'}"
    if old.text != new.text:
        yield False, f"{name} is {'now' if new.text else 'no longer'} free text"
    if old.personal != new.personal:
        yield False, f"{name} is {'now' if new.personal else 'no longer'} personal"


def _bound(field: Field, bound: float | None) -> str:
    return "open" if bound is None else field.show(bound)
