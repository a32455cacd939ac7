from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.features import (
    Aggregate,
    Feature,
    FeatureView,
    Source,
    Transform,
    check,
    compute,
    entity_key,
    latest,
)
from undrift.errors import DeclarationError, PredictionError

WEATHER = Source(
    name="weather",
    contract=Contract(
        name="weather",
        fields=(
            Field(name="origin", type="string", nullable=True),
            Field(name="observed", type="timestamp", nullable=True),
            Field(name="published", type="timestamp", nullable=True),
            Field(name="temp", type="integer", nullable=True),
            Field(name="sky", type="string", nullable=True),
        ),
    ),
    time="observed",
    known="published",
)


def view(**change: Any) -> FeatureView:
    return FeatureView(
        **{"name": "v", "source": "weather", "entity": "origin", "features": (Feature(name="temp"),), **change}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ()}, "either features"),
        ({"aggregates": (Aggregate(name="n", function="count"),)}, "not both"),
        ({"features": (Feature(name="x"), Feature(name="x"))}, "'x' more than once"),
        ({"ttl": "soon"}, "ttl: 'soon' is no duration"),
        ({"hop": "0s"}, "hop = '0s' must be longer"),
        ({"features": (), "aggregates": (Aggregate(name="m", function="mean"),)}, "the mean 'm' needs a column"),
        ({"features": (), "aggregates": (Aggregate(name="n", function="count", window="1y"),)}, "window of 'n'"),
    ],
)
def test_a_view_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        view(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "other"}, "takes from the source 'other'"),
        ({"entity": "city"}, "no field 'city'"),
        ({"entity": "observed"}, "keys are text or integers"),
        ({"features": (Feature(name="sky"),)}, "declared number, the source has string"),
        ({"features": (), "aggregates": (Aggregate(name="m", function="max", column="sky"),)}, "no max of 'sky'"),
    ],
)
def test_a_view_is_checked_against_its_source(change: dict[str, Any], message: str) -> None:
    check(view(), WEATHER)
    check(view(features=(), aggregates=(Aggregate(name="n", function="count", column="sky"),)), WEATHER)
    with pytest.raises(DeclarationError, match=message):
        check(view(**change), WEATHER)


def test_the_times_of_a_source_must_be_timestamps_of_its_contract() -> None:
    assert WEATHER.known_at == "published"
    assert msgspec.structs.replace(WEATHER, known="").known_at == "observed"
    with pytest.raises(DeclarationError, match="'sky' must be a timestamp, it is a string"):
        msgspec.structs.replace(WEATHER, known="sky")
    with pytest.raises(DeclarationError, match="'when' must be a timestamp, it is not in its contract"):
        msgspec.structs.replace(WEATHER, time="when")


def test_the_hash_of_a_view_follows_what_decides_its_values() -> None:
    assert view().hash == view(hop="".join(["1", "d"])).hash
    assert view().hash != view(ttl="8d").hash
    assert view().hash == msgspec.json.decode(msgspec.json.encode(view()), type=FeatureView).hash


def test_hops_are_multiples_of_the_step_after_the_start_and_up_to_the_end() -> None:
    hourly = view(hop="1h")
    hour = 3_600_000_000
    start = datetime(1970, 1, 1, 2, tzinfo=UTC)
    assert list(hourly.hops(start, start + timedelta(hours=2))) == [3 * hour, 4 * hour]
    assert list(hourly.hops(start - timedelta(minutes=1), start + timedelta(minutes=59))) == [2 * hour]
    assert list(hourly.hops(start, start)) == []


def test_keys_are_the_same_text_whatever_they_are_made_of() -> None:
    assert [entity_key(value) for value in ("7", 7, None)] == ["7", "7", None]
    for value in (True, 7.0, datetime.now(UTC)):
        with pytest.raises(TypeError, match="text or an integer"):
            entity_key(value)


def test_rows_for_the_online_store_come_in_the_order_in_which_they_count() -> None:
    def at(hour: int) -> datetime:
        return datetime(1970, 1, 1, hour, tzinfo=UTC)

    rows = [
        {"origin": "JFK", "observed": at(3), "published": at(5), "temp": 33},
        {"origin": "JFK", "observed": at(4), "published": at(5), "temp": 34},
        {"origin": "JFK", "observed": at(2), "published": at(5), "temp": None},
        {"origin": None, "observed": at(2), "published": at(5), "temp": 1},
        {"origin": "JFK", "observed": at(9), "published": None, "temp": 2},
        {"origin": "EWR", "observed": at(9), "published": at(1), "temp": 3},
    ]
    hour = 3_600_000_000
    assert latest(view(), WEATHER, rows) == [
        ("EWR", hour, {"temp": 3.0}),
        ("JFK", 5 * hour, {"temp": None}),
        ("JFK", 5 * hour, {"temp": 33.0}),
        ("JFK", 5 * hour, {"temp": 34.0}),
    ]


DOUBLE = Transform(name="double", function="project:double", inputs=("x",), outputs=(Feature(name="y"),))


def outputs(*features: Feature) -> Transform:
    return msgspec.structs.replace(DOUBLE, outputs=features)


def test_a_transform_sees_its_inputs_alone() -> None:
    seen = []
    compute(DOUBLE, lambda row: seen.append(dict(row)) or {"y": 1}, {"x": 1, "secret": 2})
    compute(DOUBLE, lambda row: seen.append(dict(row)) or {"y": 1}, {})
    assert seen == [{"x": 1}, {"x": None}]


def test_what_a_transform_returns_is_typed() -> None:
    found = compute(outputs(Feature(name="y"), Feature(name="z")), lambda row: {"y": 2, "z": float("nan"), "w": 1}, {})
    assert found == {"y": 2.0, "z": None}
    assert isinstance(found["y"], float)
    zone = timezone(timedelta(hours=-5))
    time = compute(
        outputs(Feature(name="t", type="timestamp")), lambda row: {"t": datetime(2013, 1, 1, tzinfo=zone)}, {}
    )
    assert time == {"t": datetime(2013, 1, 1, 5, tzinfo=UTC)}
    assert time["t"].tzinfo is UTC


@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        ({}, "number", "left out its output 'y'"),
        (7, "number", "must return a mapping"),
        ({"y": "1"}, "number", "must be a number, got str '1'"),
        ({"y": True}, "number", "must be a number, got bool True"),
        ({"y": 1.5}, "integer", "must be a integer, got float 1.5"),
        ({"y": 1}, "boolean", "must be a boolean"),
        ({"y": datetime(2013, 1, 1)}, "timestamp", "a time without zone"),
    ],
)
def test_what_a_transform_may_not_return_is_an_error_of_the_model(returned: Any, kind: Any, message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        compute(outputs(Feature(name="y", type=kind)), lambda row: returned, {"x": 1})


def test_a_transform_that_raises_is_named() -> None:
    with pytest.raises(PredictionError, match=r"'double' \(project:double\) raised ZeroDivisionError"):
        compute(DOUBLE, lambda row: {"y": 1 / row["x"]}, {"x": 0})
