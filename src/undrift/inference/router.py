"""The routing table: which revision answers which unit, written by a worker, read by every server process.

It is one JSON file replaced atomically, so servers need no database to start, switch or go on. Assignment is a keyed
hash of the unit, so a unit that saw the candidate stays with it while the weight grows. The table is built and written
in routes.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from undrift.data.features import FeatureView, Source
from undrift.errors import StateError

__all__ = [
    "Choice",
    "Placed",
    "Route",
    "RoutingTable",
    "TableFile",
    "Variant",
    "assign",
    "bucket",
    "pick",
    "read_table",
]

FORMAT: Final = 1

Variant = Literal["champion", "candidate"]


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A revision that servers must have loaded: its model version and where its bundle is."""

    revision: str
    version: int
    bundle: str
    path: str


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The variants of one model. ``weight`` is the percentage of units on the candidate, [0, 100].

    ``unit``: the request field that is assigned, the champion's own if empty. ``without_unit``: what a row without it
    is: its own unit (``prediction``), or always the champion's and part of no comparison (``champion``).
    """

    model: str
    champion: str
    revisions: tuple[Placed, ...]
    candidate: str = ""
    weight: float = 0.0
    salt: str = ""
    rollout: str = ""
    unit: str = ""
    without_unit: Literal["prediction", "champion"] = "prediction"


class RoutingTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All routes, sources and views. ``epoch`` is the sequence number of the event it follows from."""

    epoch: int
    routes: tuple[Route, ...] = ()
    sources: tuple[Source, ...] = ()
    views: tuple[FeatureView, ...] = ()
    format: int = FORMAT


def bucket(salt: str, unit: str) -> float:
    """Where a unit falls, in [0, 100): uniform, the same for ever, independent between salts.

    A unit goes to the candidate when its bucket is below the weight.
    """
    hashed = _keyed(salt).copy()
    hashed.update(unit.encode())
    return int.from_bytes(hashed.digest(), "big") / 2**64 * 100.0


@lru_cache(maxsize=256)
def _keyed(salt: str) -> hashlib.blake2b:
    """The hash under a key, before anything is hashed: to make it anew costs more than the hashing of a unit."""
    return hashlib.blake2b(key=salt.encode()[:64], digest_size=8)


class Choice(msgspec.Struct, frozen=True):
    """The variant a unit gets, and the probability with which units get it, in (0, 1]."""

    variant: Variant
    revision: str
    propensity: float


def pick(route: Route, unit: str) -> Choice:
    """The variant of a unit: the candidate if its bucket is below the weight, else the champion."""
    if not route.candidate or route.weight <= 0:
        return Choice("champion", route.champion, 1.0)
    share = route.weight / 100.0
    if bucket(route.salt, unit) < route.weight:
        return Choice("candidate", route.candidate, share)
    return Choice("champion", route.champion, 1.0 - share)


def assign(route: Route, field: str, values: Sequence[Any], ids: Sequence[str]) -> tuple[list[str], list[Choice]]:
    """The unit and the variant of each row.

    Parameters
    ----------
    field : the request field that holds the unit; empty if every prediction is its own unit.
    values : what the rows have in it; None and empty text are no unit.
    ids : of the predictions: the unit of rows without one.
    """
    units, choices = [], []
    for value, known in zip(values, ids, strict=True):
        missing = value is None or value == ""
        unit = known if missing else str(value)
        units.append(unit)
        if missing and field and route.without_unit == "champion":
            choices.append(Choice("champion", route.champion, 1.0))
        else:
            choices.append(pick(route, unit))
    return units, choices


def read_table(path: Path) -> RoutingTable:
    """The routing table of a file, checked.

    Raises
    ------
    StateError : the file cannot be read, is not a table of a format known here, or contradicts itself.
    """
    try:
        table = msgspec.json.decode(path.read_bytes(), type=RoutingTable)
    except OSError as error:
        raise StateError(f"the routing table {path} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise StateError(f"{path} is no routing table: {error}.") from error
    if table.format != FORMAT:
        raise StateError(
            f"{path} is a routing table of format {table.format}; this undrift reads {FORMAT}.",
            hint="Run the same version of undrift for `serve` and `work`.",
        )
    for route in table.routes:
        _check(route, path)
    return table


def _check(route: Route, path: Path) -> None:
    placed = {each.revision for each in route.revisions}
    for role, name in (("champion", route.champion), ("candidate", route.candidate)):
        if name not in placed and (name or role == "champion"):
            raise StateError(f"{path}: the {role} {name!r} of model {route.model!r} is none of its revisions.")
    if not 0.0 <= route.weight <= 100.0:
        raise StateError(f"{path}: the weight of model {route.model!r} is {route.weight}; it must be in [0, 100].")


class TableFile:
    """Tells when the routing table's file was replaced, by its identity, size and time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def poll(self) -> RoutingTable | None:
        """The table if it changed since the last call, or None; also None while there is no file.

        Raises
        ------
        StateError : it changed to something that is no table; said once per change.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"the routing table {self.path} cannot be read: {error.strerror}.") from error
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if seen == self._seen:
            return None
        self._seen = seen
        return read_table(self.path)
