"""Features, defined once: where they come from, how they are computed, how long they stay true.

A FeatureView takes values from a source of rows, as they are or aggregated over a window; a Transform computes values
from the request itself with one Python function used in training and serving. Offline computation stands in
offline.py, the store of latest values in online.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from undrift.data.contract import Contract, FieldType
from undrift.errors import DeclarationError, NotFoundError, PredictionError
from undrift.ids import content_hash, duration, to_micros

__all__ = [
    "Aggregate",
    "Feature",
    "FeatureView",
    "Function",
    "Source",
    "Transform",
    "check",
    "compute",
    "entity_key",
    "latest",
]

Function = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""The Python function of a Transform."""

_PYTHON: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (float, int),
    "boolean": (bool,),
    "timestamp": (datetime,),
}


@lru_cache(maxsize=256)
def _micros(span: str) -> int:
    return round(duration(span).total_seconds() * 1_000_000)


def _span(what: str, span: str) -> int:
    """A span in microseconds, above zero."""
    try:
        micros = _micros(span)
    except ValueError as error:
        raise DeclarationError(f"{what}: {error}.") from error
    if micros <= 0:
        raise DeclarationError(f"{what} = {span!r} must be longer than nothing.")
    return micros


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feed of rows that arrive as time goes: weather reports, arrivals, clicks.

    ``time`` is the column saying when it happened; ``known`` the column saying when it could be known (the same as
    ``time`` if empty). Point-in-time joins use ``known``: nothing is used before it was known.
    """

    name: str
    contract: Contract
    time: str
    known: str = ""

    def __post_init__(self) -> None:
        for column in {self.time, self.known_at}:
            field = next((f for f in self.contract.fields if f.name == column), None)
            if field is None or field.type != "timestamp":
                found = "not in its contract" if field is None else f"a {field.type}"
                raise DeclarationError(
                    f"source {self.name!r}: the column {column!r} must be a timestamp, it is {found}."
                )

    @property
    def known_at(self) -> str:
        """The column saying when a row could be known."""
        return self.known or self.time


class Feature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One value of a view or transform, as the model sees it."""

    name: str
    type: FieldType = "number"


class Aggregate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feature aggregated over the rows of one entity known within ``window`` before the hop."""

    name: str
    function: Literal["mean", "sum", "count", "min", "max"]
    column: str = ""
    window: str = "7d"

    @property
    def window_micros(self) -> int:
        """The length of the window, in microseconds."""
        return _micros(self.window)


class FeatureView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Values looked up by an entity key.

    ``entity`` is the column holding the key, in the source and in the request. Without ``aggregates`` the latest
    source row known at prediction time counts, and is pushed online as it arrives. With them, the value at time t is
    computed over the rows known in ``(h - window, h]`` where h is the last multiple of ``hop`` (UTC) at or before t;
    the worker materialises it at every hop. Older than ``ttl``, a value is absent (null), offline and online alike.
    """

    name: str
    source: str
    entity: str
    features: tuple[Feature, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    hop: str = "1d"
    ttl: str = "7d"

    def __post_init__(self) -> None:
        where = f"view {self.name!r}"
        if bool(self.features) == bool(self.aggregates):
            raise DeclarationError(f"{where} must have either features (values as they are) or aggregates, not both.")
        names = [output.name for output in self.outputs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DeclarationError(f"{where} gives {', '.join(map(repr, twice))} more than once.")
        _span(f"{where}: ttl", self.ttl)
        _span(f"{where}: hop", self.hop)
        for aggregate in self.aggregates:
            _span(f"{where}: window of {aggregate.name!r}", aggregate.window)
            if not aggregate.column and aggregate.function != "count":
                raise DeclarationError(f"{where}: the {aggregate.function} {aggregate.name!r} needs a column.")

    @property
    def ttl_micros(self) -> int:
        """How long a value stays true, in microseconds."""
        return _micros(self.ttl)

    @property
    def hop_micros(self) -> int:
        """The step at which aggregates are computed, in microseconds."""
        return _micros(self.hop)

    @property
    def hash(self) -> str:
        """The version of the view: SHA-256 of everything that decides its values; 64 hex digits."""
        return content_hash(_plain(self))

    @property
    def key(self) -> str:
        """Name of the view's values in the stores: another definition is another key, so old revisions keep theirs."""
        return f"{self.name}_{self.hash[:8]}"

    def fresh(self, event_time: int, at: int) -> bool:
        """Whether a value of ``event_time`` counts at the time ``at`` (microseconds): known by then, not past its TTL.

        A value known exactly at ``at`` counts, and so does one exactly as old as the TTL.

        >>> view = FeatureView(name="w", source="s", entity="e", features=(Feature(name="x"),), ttl="1s")
        >>> [view.fresh(0, at) for at in (-1, 0, 1_000_000, 1_000_001)]
        [False, True, True, False]
        """
        return 0 <= at - event_time <= _micros(self.ttl)

    def hops(self, start: datetime, end: datetime) -> range:
        """The hops in ``(start, end]``, in microseconds since 1970 UTC."""
        step = self.hop_micros
        return range((to_micros(start) // step + 1) * step, to_micros(end) + 1, step)

    @property
    def outputs(self) -> tuple[Feature, ...]:
        """What the view gives, in order: the features, or one number per aggregate."""
        return self.features or tuple(Feature(name=a.name) for a in self.aggregates)


class Transform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Values computed from the request row by one Python function, the same in training and serving.

    ``function`` is ``module:name``, the module being one file of the project that imports only the standard library;
    it travels with the bundle. It takes a mapping of the ``inputs`` and returns a mapping with the ``outputs``.
    """

    name: str
    function: str
    inputs: tuple[str, ...]
    outputs: tuple[Feature, ...]


def _plain(value: Any) -> Any:
    """Structs as dicts with every field, so that a hash does not depend on which defaults were written out."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def check(view: FeatureView, source: Source) -> None:
    """Check that a source has what a view takes from it, in the right type.

    Raises
    ------
    DeclarationError : another source, a column that is not there, a type that does not fit.
    """
    where = f"view {view.name!r}"
    if view.source != source.name:
        raise DeclarationError(f"{where} takes from the source {view.source!r}, not from {source.name!r}.")

    def type_of(column: str) -> FieldType:
        try:
            return source.contract.field(column).type
        except NotFoundError as error:
            raise DeclarationError(f"{where}: {error.message}") from error

    if type_of(view.entity) not in ("string", "integer"):
        raise DeclarationError(
            f"{where}: the entity {view.entity!r} is a {type_of(view.entity)}; keys are text or integers."
        )
    for feature in view.features:
        found = type_of(feature.name)
        if found != feature.type and (found, feature.type) != ("integer", "number"):
            raise DeclarationError(f"{where}: {feature.name!r} is declared {feature.type}, the source has {found}.")
    for aggregate in view.aggregates:
        numeric = aggregate.function == "count" or type_of(aggregate.column) in ("number", "integer", "boolean")
        if aggregate.column and not numeric:
            kind = type_of(aggregate.column)
            raise DeclarationError(f"{where}: no {aggregate.function} of {aggregate.column!r}, which is a {kind}.")


def entity_key(value: Any) -> str | None:
    """The key under which an entity is stored, the same offline and online; None for no entity.

    Raises
    ------
    TypeError : the value is neither text nor an integer.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"an entity key must be text or an integer, got {type(value).__name__}")


def latest(
    view: FeatureView, source: Source, rows: Iterable[Mapping[str, Any]]
) -> list[tuple[str, int, dict[str, Any]]]:
    """Decoded source rows of a direct view as the online store takes them: ``(entity, known, values)``.

    Rows without an entity or without the time they became known are left out. Of rows known at the same time, the one
    that happened last comes last, so that the store ends with the value that a point-in-time join finds.

    Parameters
    ----------
    rows : aware UTC datetimes for timestamps.
    """
    found = []
    for row in rows:
        key, known, happened = entity_key(row.get(view.entity)), row.get(source.known_at), row.get(source.time)
        if key is not None and known is not None:
            happened_at = to_micros(happened) if happened is not None else -(2**63)  # as SQL sorts null: first
            values = {feature.name: _coerced(row.get(feature.name), feature.type) for feature in view.features}
            found.append((to_micros(known), happened_at, key, values))
    found.sort(key=lambda each: each[:2])
    return [(key, known, values) for known, _, key, values in found]


def _coerced(value: Any, kind: str) -> Any:
    return float(value) if kind == "number" and isinstance(value, int) else value


def compute(transform: Transform, function: Function, row: Mapping[str, Any]) -> dict[str, Any]:
    """Run a transform on one row; the only way it is run, offline and online.

    The function sees its inputs alone, absent ones as None. A NaN it returns is None; an integer where a number is
    declared becomes a float; a time must be aware and becomes UTC.

    Raises
    ------
    PredictionError : the function raised, left an output out, or returned one of another type.
    """
    where = f"transform {transform.name!r} ({transform.function})"
    try:
        given = function({name: row.get(name) for name in transform.inputs})
    except Exception as error:  # foreign code: whatever it raises is its answer to this row
        raise PredictionError(f"{where} raised {type(error).__name__}: {error}") from error
    if not isinstance(given, Mapping):
        raise PredictionError(f"{where} must return a mapping of its outputs, got {type(given).__name__}")
    found: dict[str, Any] = {}
    for output in transform.outputs:
        if output.name not in given:
            raise PredictionError(f"{where} left out its output {output.name!r}")
        value = given[output.name]
        if isinstance(value, float) and math.isnan(value):
            value = None
        fits = value is None or (
            isinstance(value, _PYTHON[output.type]) and isinstance(value, bool) == (output.type == "boolean")
        )
        if not fits or (isinstance(value, datetime) and value.tzinfo is None):
            got = "a time without zone" if isinstance(value, datetime) else f"{type(value).__name__} {value!r}"
            raise PredictionError(f"{where}: the output {output.name!r} must be a {output.type}, got {got}")
        found[output.name] = value.astimezone(UTC) if isinstance(value, datetime) else _coerced(value, output.type)
    return found
