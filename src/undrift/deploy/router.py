"""The routing table: which revision answers which unit, written by a worker, read by every server process.

It is one JSON file replaced atomically, so servers need no database to start, switch or go on. Assignment is a keyed
hash of the unit, so a unit that saw the candidate stays with it while the weight grows.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from undrift.data.features import FeatureView, Source

__all__ = ["Placed", "Route", "RoutingTable", "bucket"]

FORMAT: Final = 1


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A revision that servers must have loaded: its model version and where its bundle is."""

    revision: str
    version: int
    bundle: str
    path: str


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The variants of one model. ``weight`` is the percentage of units on the candidate, [0, 100]."""

    model: str
    champion: str
    revisions: tuple[Placed, ...]
    candidate: str = ""
    weight: float = 0.0
    salt: str = ""
    rollout: str = ""


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
    digest = hashlib.blake2b(unit.encode(), key=salt.encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100.0
