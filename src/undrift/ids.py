"""Identity and time: content hashes, sortable ids and the clock.

What was made by running is named by the hash of its content; what happened is named by a ULID, which sorts by time.
The clock is an argument everywhere, so nothing below the edge reads the time of day by itself.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

__all__ = [
    "Clock",
    "FixedClock",
    "SystemClock",
    "canonical_json",
    "content_hash",
    "duration",
    "from_micros",
    "hash_file",
    "hash_tree",
    "new_id",
    "to_micros",
]

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(first + second for first in _CROCKFORD for second in _CROCKFORD)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*$")
_encoder: Final = msgspec.json.Encoder(order="deterministic")


class Clock(Protocol):
    """What tells the time: an aware UTC datetime."""

    def now(self) -> datetime:
        """What time it is."""
        ...


class SystemClock:
    """The machine's clock, in UTC."""

    def now(self) -> datetime:
        """What time it is."""
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands until it is moved: for tests, replays and event time.

    Examples
    --------
    >>> clock = FixedClock(datetime(2013, 4, 1, tzinfo=UTC))
    >>> clock.move(timedelta(hours=2)).now().isoformat()
    '2013-04-01T02:00:00+00:00'
    """

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        """The time it was last set to."""
        return self._at

    def set(self, at: datetime) -> FixedClock:
        """Stand at another time, earlier or later; returns itself."""
        self._at = at
        return self

    def move(self, by: timedelta) -> FixedClock:
        """Stand so much later; returns itself."""
        self._at += by
        return self


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no white space: equal values have equal bytes."""
    return _encoder.encode(value)


def content_hash(value: Any) -> str:
    """SHA-256 of bytes as they are, or of anything else as canonical JSON; 64 hex digits."""
    data = value if isinstance(value, bytes) else canonical_json(value)
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks; 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(root: Path) -> str:
    """SHA-256 over the relative names and contents of all files below a directory."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return content_hash({p.relative_to(root).as_posix(): hash_file(p) for p in files})


def new_id(at: datetime | None = None, entropy: bytes | None = None) -> str:
    """A ULID: 48 bits of milliseconds and 80 random bits in 26 letters that sort by time.

    Parameters
    ----------
    at : the time to encode; the machine's clock if left out.
    entropy : ten bytes; ``os.urandom(10)`` if left out.

    Examples
    --------
    >>> new_id(datetime(2013, 4, 1, tzinfo=UTC), bytes(10))
    '017Q1E9C000000000000000000'
    """
    millis = time.time_ns() // 1_000_000 if at is None else int((at - _EPOCH) / timedelta(milliseconds=1))
    chance = int.from_bytes(entropy if entropy is not None else os.urandom(10), "big")
    pairs = _PAIRS  # ten bits at a time: this is called for every request
    return (
        f"{pairs[millis >> 40 & 1023]}{pairs[millis >> 30 & 1023]}{pairs[millis >> 20 & 1023]}"
        f"{pairs[millis >> 10 & 1023]}{pairs[millis & 1023]}"
        f"{pairs[chance >> 70]}{pairs[chance >> 60 & 1023]}{pairs[chance >> 50 & 1023]}{pairs[chance >> 40 & 1023]}"
        f"{pairs[chance >> 30 & 1023]}{pairs[chance >> 20 & 1023]}{pairs[chance >> 10 & 1023]}{pairs[chance & 1023]}"
    )


def to_micros(at: datetime) -> int:
    """Microseconds since 1970-01-01 UTC; the form time has on the wire and in the spool."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970-01-01 UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def duration(text: str | float | timedelta) -> timedelta:
    """A span of time from ``"90s"``, ``"15m"``, ``"2h"``, ``"7d"``, ``"250ms"``, seconds, or itself.

    Raises
    ------
    ValueError : for anything else, a negative span among it.

    Examples
    --------
    >>> duration("1.5h").total_seconds()
    5400.0
    """
    if isinstance(text, timedelta):
        return text
    if isinstance(text, int | float) and 0 <= text < math.inf:
        return timedelta(seconds=text)
    found = _DURATION.match(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no duration; write a number and one of ms, s, m, h, d, w, as in '15m' or '7d'")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
