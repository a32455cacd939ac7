"""Events are sealed into a chain that shows every later change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.errors import BrokenChainError
from undrift.event import GENESIS, KINDS, Draft, Event, seal, verify_chain

NOW = datetime(2013, 4, 1, tzinfo=UTC)
PAYLOADS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def _draft(**more: Any) -> Draft:
    given = {"kind": "gate.judged", "subject": "model:flights", "at": NOW, "actor": "work", "why": "it is time", **more}
    return Draft(**given)


def _chain(length: int) -> list[Event]:
    events: list[Event] = []
    for i in range(length):
        draft = _draft(payload={"i": i, "share": i / 7})
        events.append(seal(draft, i + 1, events[-1].hash if events else GENESIS, NOW))
    return events


def test_a_chain_holds_and_can_be_checked_in_parts() -> None:
    events = _chain(5)
    whole = verify_chain(events)
    assert whole == (events[-1].hash, 5)
    assert verify_chain(events[3:], *verify_chain(events[:3])) == whole
    assert verify_chain([]) == (GENESIS, 0)


@given(st.dictionaries(st.text(max_size=3), PAYLOADS, max_size=3))
def test_an_event_read_back_from_json_has_the_hash_it_was_sealed_with(payload: dict[str, Any]) -> None:
    event = seal(_draft(payload=payload, key="k"), 1, GENESIS, NOW)
    again = msgspec.json.decode(msgspec.json.encode(event), type=Event)
    assert again == event
    assert verify_chain([again]) == (event.hash, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "rollout.aborted"},
        {"subject": "model:other"},
        {"at": NOW + timedelta(microseconds=1)},
        {"actor": "person:mallory"},
        {"why": "because"},
        {"payload": {"i": 1, "share": 0.2}},
        {"key": "k"},
        {"recorded_at": NOW + timedelta(seconds=1)},
        {"prev": GENESIS},
        {"seq": 4},
        {"hash": "f" * 64},
    ],
)
def test_every_changed_field_is_noticed(change: dict[str, Any]) -> None:
    events = _chain(3)
    events[1] = msgspec.structs.replace(events[1], **change)
    with pytest.raises(BrokenChainError, match="was changed after it was written"):
        verify_chain(events)


def test_events_left_out_or_swapped_are_noticed() -> None:
    one, two, three = _chain(3)
    for altered in ([one, three], [two, three], [one, three, two], [one, one, two]):
        with pytest.raises(BrokenChainError):
            verify_chain(altered)


def test_times_are_kept_in_utc() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=-4)))
    event = seal(_draft(at=there), 1, GENESIS, there)
    assert (event.at, event.at.tzinfo, event.recorded_at.tzinfo) == (NOW, UTC, UTC)
    assert event == seal(_draft(), 1, GENESIS, NOW)


def test_unknown_kinds_and_times_without_a_zone_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'gate\.juged' is not one of"):
        seal(_draft(kind="gate.juged"), 1, GENESIS, NOW)
    with pytest.raises(ValueError, match="has no zone"):
        seal(_draft(at=datetime(2013, 4, 1)), 1, GENESIS, NOW)


def test_every_kind_says_what_it_means() -> None:
    assert all(name.count(".") == 1 and text.endswith(".") for name, text in KINDS.items())
