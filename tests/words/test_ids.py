"""Names and times: the same content has the same name, later has the greater one, and spans say what they mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.ids import (
    FixedClock,
    SystemClock,
    canonical_json,
    content_hash,
    duration,
    from_micros,
    hash_file,
    hash_tree,
    new_id,
    to_micros,
)

TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def test_equal_values_have_equal_names_whatever_the_order_of_their_keys() -> None:
    assert (
        canonical_json({"b": [1, 2.5], "a": {"d": None, "c": "é"}}) == '{"a":{"c":"é","d":null},"b":[1,2.5]}'.encode()
    )
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})


def test_the_hash_is_sha_256() -> None:
    # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash(b"abc") == known


def test_files_and_folders_are_named_by_content_and_by_relative_name(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "one" / "sub" / "a") == content_hash(b"abc")
    assert hash_tree(tmp_path / "one") == hash_tree(tmp_path / "two")
    (tmp_path / "two" / "sub" / "a").rename(tmp_path / "two" / "sub" / "b")
    assert hash_tree(tmp_path / "one") != hash_tree(tmp_path / "two")


@given(TIMES, TIMES)
def test_identifiers_sort_by_time_to_the_millisecond(one: datetime, two: datetime) -> None:
    first, second = sorted([one, two])
    low, high = new_id(first, b"\xff" * 10), new_id(second, bytes(10))
    assert len(low) == 26
    if second - first >= timedelta(milliseconds=1):
        assert low < high


def test_the_time_in_an_identifier_reads_back_as_a_ulid() -> None:
    # the ten letters of the ULID specification's example stand for 1469922850259 ms
    letters = new_id(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=1469922850259), bytes(10))
    assert letters == "01ARZ3NDEK" + "0" * 16


def test_two_identifiers_of_one_moment_differ() -> None:
    now = SystemClock().now()
    assert len({new_id(now) for _ in range(1000)}) == 1000


@given(TIMES)
def test_microseconds_are_exact_there_and_back(at: datetime) -> None:
    assert from_micros(to_micros(at)) == at
    assert to_micros(at.astimezone(timezone(timedelta(hours=9)))) == to_micros(at)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        to_micros(datetime(2013, 4, 1))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("90s", 90),
        ("15m", 900),
        ("1.5h", 5400),
        ("7d", 604800),
        (" 2 w ", 1209600),
        (3, 3),
        (0.5, 0.5),
    ],
)
def test_spans_say_what_they_mean(text: str | float, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)
    assert duration(duration(text)) == duration(text)


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1 month", "1h30m", "1e3s", float("nan"), -1, None])
def test_what_is_no_span_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="as in '15m' or '7d'"):
        duration(text)  # type: ignore[arg-type]


def test_a_fixed_clock_stands_until_it_is_moved() -> None:
    clock = FixedClock(datetime(2013, 4, 1, tzinfo=UTC))
    assert clock.now() == clock.now()
    assert clock.move(timedelta(days=1)).now() == datetime(2013, 4, 2, tzinfo=UTC)
    assert clock.set(datetime(2013, 1, 1, tzinfo=UTC)).now() == datetime(2013, 1, 1, tzinfo=UTC)
    assert SystemClock().now().tzinfo is UTC
