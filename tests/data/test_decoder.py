from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.data.contract import Contract, Field
from undrift.data.decoder import Decoder
from undrift.errors import RequestError

FLIGHTS = Contract(
    name="flights",
    fields=(
        Field(name="carrier", type="string", categories=("AA", "UA")),
        Field(name="distance", type="number", minimum=0, maximum=4983),
        Field(name="dep delay", type="number", nullable=True),
        Field(name="seats", type="integer", minimum=1, on_violation="reject"),
        Field(name="cargo", type="boolean", nullable=True),
        Field(name="at", type="timestamp"),
    ),
)
ROW = {"carrier": "UA", "distance": 1400, "seats": 180, "at": "2013-01-01T05:15:00-05:00"}
DECODED = {
    "carrier": "UA", "distance": 1400.0, "dep delay": None, "seats": 180, "cargo": None,
    "at": datetime(2013, 1, 1, 10, 15, tzinfo=UTC),
}  # fmt: skip


def body(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"instances": rows}).encode()


def by_column(rows: int, **more: Any) -> bytes:
    return json.dumps({"inputs": {**{name: [value] * rows for name, value in ROW.items()}, **more}}).encode()


def test_a_row_has_every_field_in_order_and_times_in_utc() -> None:
    (row,) = Decoder(FLIGHTS).instances(body(ROW))
    assert row == DECODED
    assert list(row) == list(FLIGHTS.names)
    assert row["at"].tzinfo is UTC
    assert isinstance(row["distance"], float)


def test_rows_columns_and_python_values_say_the_same() -> None:
    decoder = Decoder(FLIGHTS)
    micros = int(DECODED["at"].timestamp() * 1_000_000)
    assert decoder.instances(by_column(2)) == [DECODED, DECODED]
    assert decoder.columns({name: [value] for name, value in {**ROW, "at": micros}.items()}) == [DECODED]
    assert decoder.row({**ROW, "at": DECODED["at"]}) == DECODED


def test_other_keys_of_the_body_are_left_alone() -> None:
    assert Decoder(FLIGHTS).instances(json.dumps({"signature_name": "x", "instances": [ROW]}).encode()) == [DECODED]


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"distance": "far"}, "$.instances[1].distance", "Expected `float`, got `str`"),
        ({"distance": None}, "$.instances[1].distance", "Expected `float`, got `null`"),
        ({"distance": 10**400}, "$.instances[1].distance", "out of range"),
        ({"seats": 1.5}, "$.instances[1].seats", "Expected `int`, got `float`"),
        ({"seats": True}, "$.instances[1].seats", "Expected `int`, got `bool`"),
        ({"seats": 2**63}, "$.instances[1].seats", "Expected `int` <="),
        ({"seats": 0}, "$.instances[1].seats", "seats<1, which the contract rejects; got 0"),
        ({"at": "2013-01-01T05:15:00"}, "$.instances[1].at", "timezone"),
        ({"at": 10**20}, "$.instances[1].at", "Expected `int` <="),
        ({"tail": "N1"}, "$.instances[1]", "unknown field `tail`"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(change: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        Decoder(FLIGHTS).instances(body(ROW, {**ROW, **change}))
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("given", "path", "reason"),
    [
        (b"[1", "$", "Expected `object`, got `array`"),
        (b'{"instances": [', "$", "truncated"),
        (b"{}", "$", "expected `instances`"),
        (b'{"instances": []}', "$.instances", "at least one row"),
        (b'{"instances": [], "inputs": {}}', "$", "got both"),
        (b'{"instances": [{"distance": NaN}]}', "$", "malformed"),
        (b'{"instances": [{"carrier": "\xff"}]}', "$", "utf-8"),
        (body({}), "$.instances[0]", "missing required field `carrier`"),
        (by_column(0), "$.inputs", "at least one row"),
        (by_column(2, seats=[1]), "$.inputs.seats", "expected 2 values as in the longest column, got 1"),
        (by_column(2, seats=[1, 0]), "$.inputs.seats[1]", "seats<1"),
        (by_column(2, seats=[1, "2"]), "$.inputs.seats[1]", "Expected `int`, got `str`"),
    ],
)  # fmt: skip
def test_a_body_of_another_form_is_refused(given: bytes, path: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        Decoder(FLIGHTS).instances(given)
    assert caught.value.path == path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_python_values_must_be_finite(value: float) -> None:
    with pytest.raises(RequestError, match="finite number") as caught:
        Decoder(FLIGHTS).row({**ROW, "distance": value})
    assert caught.value.path == "$.distance"
    with pytest.raises(RequestError) as caught:
        Decoder(FLIGHTS).columns({name: [v] for name, v in {**ROW, "distance": value}.items()}, path="$.in")
    assert caught.value.path == "$.in.distance[0]"


def test_unknown_fields_are_dropped_where_the_contract_ignores_them() -> None:
    relaxed = Contract(name="f", fields=FLIGHTS.fields, unknown="ignore")
    assert Decoder(relaxed).instances(body({**ROW, "tail": "N1"})) == [DECODED]
    assert Decoder(relaxed).instances(by_column(1, tail=["N1"])) == [DECODED]


def test_flagged_rules_are_told_and_not_refused() -> None:
    decoder = Decoder(FLIGHTS)
    (row,) = decoder.instances(body({**ROW, "carrier": "XX", "distance": -1}))
    assert decoder.violations(row) == ("carrier not in categories", "distance<0")
    assert decoder.violations(DECODED) == ()


def test_bounds_are_inclusive_and_nulls_break_no_rule() -> None:
    contract = Contract(
        name="c",
        fields=(
            Field(name="x", type="number", minimum=0, maximum=1, nullable=True),
            Field(name="code", type="integer", categories=("1", "4"), nullable=True),
            Field(name="t", type="timestamp", minimum=0, maximum=1_000_000, nullable=True),
        ),
    )
    decoder = Decoder(contract)
    late_row, odd_row = {"t": "1970-01-01T00:00:01.000001Z"}, {"x": 1.01, "code": 2, "t": -1}
    rows = [{}, {"x": 0, "code": 4, "t": 0}, {"x": 1.0}, odd_row, late_row]
    broken = [decoder.violations(decoder.row(row)) for row in rows]
    late = "1970-01-01T00:00:01+00:00"
    early = "1970-01-01T00:00:00+00:00"
    assert broken == [(), (), (), ("x>1", "code not in categories", f"t<{early}"), (f"t>{late}",)]


def test_the_serving_path_of_this_room_loads_neither_arrow_nor_numpy() -> None:
    program = (
        "import sys; import undrift.data.decoder, undrift.data.online, undrift.data.features;"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'numpy', 'pyarrow', 'duckdb', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(
    st.lists(
        st.fixed_dictionaries(
            {"a": st.floats(-2, 8) | st.integers(-2, 8), "c": st.integers(-5, 9)},
            optional={"b": st.none() | st.sampled_from(["x", "y", "z"]), "t": st.none() | st.integers(0, 10**9)},
        ),
        max_size=4,
    )
)
def test_rows_are_kept_exactly_where_they_break_no_rule_and_are_the_same_rows(rows: list[dict[str, Any]]) -> None:
    contract = Contract(
        name="t",
        fields=(
            Field(name="a", type="number", minimum=0.5, maximum=6),
            Field(name="b", type="string", nullable=True, categories=("x", "y")),
            Field(name="c", type="integer", minimum=-2.5, maximum=6.5, on_violation="reject"),
            Field(name="t", type="timestamp", nullable=True),
        ),
    )
    decoder, body = Decoder(contract), json.dumps({"instances": rows}).encode()
    try:
        slow = decoder.instances(body)
        fine = not any(decoder.violations(row) for row in slow)
    except RequestError:
        slow, fine = [], False
    assert decoder.kept(body) == (slow if fine else None)


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", -62_135_596_800_000_001, -63_000_000_000_000_000]
)
def test_a_time_outside_the_years_of_utc_is_told_at_its_place(at: str | int) -> None:
    decoder = Decoder(Contract(name="t", fields=(Field(name="at", type="timestamp"),)))
    with pytest.raises(RequestError, match="years 1 to 9999") as told:
        decoder.instances(json.dumps({"instances": [{"at": 0}, {"at": at}]}).encode())
    assert told.value.path == "$.instances[1].at"
    with pytest.raises(RequestError, match="years 1 to 9999") as told:
        decoder.columns({"at": [0, at]})
    assert told.value.path == "$.at[1]"
