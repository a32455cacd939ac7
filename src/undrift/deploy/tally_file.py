"""Where a tally is kept between ticks: one file a rollout, written whole, checked when it is read.

It is a cache of what the lake says. Lost, torn, of another declaration or too new for the moment asked about, it is
left aside and counted again from the lake.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from undrift.deploy.plan import Plan
from undrift.deploy.tally import Tally

__all__ = ["reached", "read", "write"]

FORM: Final = "tally-2"
_ARRAYS: Final = ("centers", "sums", "wealth", "key", "unit", "group", "arm", "stratum", "first", "labelled",
                  "exposed", "mixed", "values", "bins")  # fmt: skip
_CHECK: Final = 16
_TIME: Final = 8


def write(path: Path, tally: Tally, pending: bytes, asked: str) -> None:
    """Write a tally and the rows that wait for labels; `asked` names the rollout and its declaration."""
    arrays = {name: _packed(getattr(tally, name)) for name in _ARRAYS}
    content = {
        "form": FORM,
        "asked": asked,
        "through": tally.through,
        "groups": tally.groups,
        "known": tally.known,
        "strata": tally.strata,
        "arrays": arrays,
        "counts": {str(i): _packed(table) for i, table in tally.counts.items()},
        "scored": {str(i): _packed(table) for i, table in tally.scored.items()},
        "pending": pending,
    }
    body = msgspec.msgpack.encode(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.write_bytes(blake2b(body, digest_size=_CHECK).digest() + tally.through.to_bytes(_TIME, "big") + body)
    beside.replace(path)


def reached(path: Path) -> int:
    """Until when the kept tally has counted, in microseconds; -1 where there is none."""
    try:
        with path.open("rb") as file:
            head = file.read(_CHECK + _TIME)
    except OSError:
        return -1
    return int.from_bytes(head[_CHECK:], "big") if len(head) == _CHECK + _TIME else -1


def read(path: Path, plan: Plan, asked: str, now: int) -> tuple[Tally, bytes] | None:
    """The tally as of `now` (microseconds) or earlier and its waiting rows; None where all has to be counted anew."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    body = raw[_CHECK + _TIME :]
    if blake2b(body, digest_size=_CHECK).digest() != raw[:_CHECK]:
        return None
    content: dict[str, Any] = msgspec.msgpack.decode(body)
    if content["form"] != FORM or content["asked"] != asked or content["through"] > now:
        return None
    arrays = {name: _unpacked(packed) for name, packed in content["arrays"].items()}
    tally = Tally(plan, [], arrays["centers"])
    for name, array in arrays.items():
        setattr(tally, name, array)
    tally.groups = [(column, value) for column, value in content["groups"]]
    tally.strata = [(share, day) for share, day in content["strata"]]
    tally.known, tally.through = content["known"], content["through"]
    tally.counts = {int(i): _unpacked(packed) for i, packed in content["counts"].items()}
    tally.scored = {int(i): _unpacked(packed) for i, packed in content["scored"].items()}
    return tally, content["pending"]


def _packed(array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes()


def _unpacked(packed: Any) -> np.ndarray[Any, Any]:
    kind, shape, raw = packed
    return np.frombuffer(raw, dtype=kind).reshape(shape).copy()
