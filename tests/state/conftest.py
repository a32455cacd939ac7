"""A store, a clock and a journal with one counting projection, on real files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from undrift.event import Draft, Event
from undrift.ids import FixedClock
from undrift.state.journal import Journal, Reducer
from undrift.state.sql import SqliteStore

START = datetime(2013, 4, 1, tzinfo=UTC)


def counted(value: dict[str, Any] | None, event: Event, key: str) -> dict[str, Any] | None:
    """How often a model was promoted since it was last aborted."""
    if event.kind == "rollout.aborted":
        return None
    return {"n": (value or {}).get("n", 0) + 1, "last": event.payload.get("revision")}


COUNTS = Reducer("count", frozenset({"revision.promoted", "rollout.aborted"}), lambda event: [event.subject], counted)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "undrift.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


@pytest.fixture
def journal(store: SqliteStore, clock: FixedClock) -> Journal:
    return Journal(store, clock, [COUNTS])


@pytest.fixture
def draft() -> Callable[..., Draft]:
    def make(kind: str = "revision.promoted", subject: str = "model:flights", **more: Any) -> Draft:
        return Draft(**{"kind": kind, "subject": subject, "at": START, "actor": "work", "why": "it is better", **more})

    return make
