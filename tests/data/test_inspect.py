from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.data.contract import Contract, Field
from undrift.data.decoder import Decoder
from undrift.data.inspect import UTC_MICROS, arrow_schema, check, infer
from undrift.errors import DataError, RequestError
from undrift.finding import Verdict


def one(values: Any, **more: Any) -> Field:
    (field,) = infer({"x": values}, "t", **more).fields
    return field


def test_a_range_is_widened_by_the_stated_slack_but_not_across_zero() -> None:
    assert (one([10.0, 20.0]).minimum, one([10.0, 20.0]).maximum) == (9.0, 21.0)
    assert one([0.5, 20.0], slack=0.5).minimum == 0.0
    assert one([-5.0, -0.1]).maximum == 0.0
    assert (one([-5.0, 5.0], slack=0).minimum, one([-5.0, 5.0], slack=0).maximum) == (-5.0, 5.0)
    assert (one([15, 100]).minimum, one([15, 100]).maximum) == (6.0, 109.0)  # whole numbers, outwards


def test_a_lone_value_far_from_all_others_stays_outside_and_is_named() -> None:
    wind = [*np.linspace(0, 42, 200), 1048.36]
    field = one(wind)
    assert field.maximum == pytest.approx(46.2)
    assert "the lone value 1048.36 was left out" in field.description
    assert one([*np.linspace(0, 42, 200), 60.0]).maximum == pytest.approx(66.0)  # far, but not that far


def test_codes_are_told_from_counts() -> None:
    gaps = one([1, 2, 9] * 20)
    assert (gaps.categories, gaps.minimum) == (("1", "2", "9"), None)
    exact = one([1, 2, 3] * 20)
    assert (exact.categories, exact.minimum, exact.maximum) == (None, 1.0, 3.0)
    assert one([1, 2, 9]).categories is None  # too few to say


def test_text_is_a_closed_set_only_where_values_come_again() -> None:
    assert one(["b", "a", "a", "b"]).categories == ("a", "b")
    assert one([f"N{i}" for i in range(40)]).categories is None
    assert one([f"N{i % 60}" for i in range(600)]).categories is None
    assert one([f"N{i % 60}" for i in range(600)], max_categories=60).categories is not None
    assert one(pa.array(["b", "a", "a", "b"]).dictionary_encode()).categories == ("a", "b")


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (["yes", "no", "no"] * 9, "booleans as text"),
        (["True", "False"] * 9, "booleans as text"),
        (["1.5", "2", "1.5", "2"], "numbers as text"),
        (["UA", "ua ", "AA"] * 9, "differ in case or white space"),
        (["", "a", "", "a"], "empty text"),
        (pa.nulls(3), "no value was seen"),
        (pa.array([None, None], pa.float64()), "no value was seen"),
    ],
)
def test_what_is_odd_is_said_in_the_description(values: Any, note: str) -> None:
    assert note in one(values).description


def test_types_of_arrow_become_types_of_a_contract() -> None:
    table = pa.table(
        {
            "decimal": pa.array([Decimal("1.50")]),
            "half": pa.array([np.float16(1)], pa.float16()),
            "byte": pa.array([1], pa.uint8()),
            "flag": [True],
            "day": [date(2013, 1, 1)],
            "naive": pa.array([datetime(2013, 1, 1)], pa.timestamp("s")),
            "wide": pa.array(["a"], pa.large_string()),
        }
    )
    contract = infer(table, "t")
    assert [f.type for f in contract.fields] == [
        "number",
        "number",
        "integer",
        "boolean",
        "timestamp",
        "timestamp",
        "string",
    ]
    assert "read as UTC" in contract.field("naive").description
    accepted = check(table, contract).accepted
    assert accepted.schema.types == arrow_schema(contract).types
    assert accepted.to_pylist()[0]["naive"] == datetime(2013, 1, 1, tzinfo=UTC)


def test_what_no_row_can_hold_is_refused() -> None:
    with pytest.raises(DataError, match="'x' holds list"):
        infer({"x": [[1]]}, "t")
    with pytest.raises(DataError, match="no rows"):
        infer({"x": pa.array([], pa.int64())}, "t")
    with pytest.raises(DataError, match="context column 'y'"):
        infer({"x": [1]}, "t", context=["y"])
    with pytest.raises(DataError, match="int is no table"):
        infer(7, "t")


def test_a_key_takes_the_values_that_are_still_to_come() -> None:
    rows = {"number": list(range(2200)), "name": ["a", "b"] * 1100, "x": [1.0, 2.0] * 1100}
    contract = infer(rows, "t", context=["number"], keys=["number", "name"])
    number, name, x = contract.fields
    assert (number.minimum, number.maximum, number.categories) == (None, None, None)
    assert (name.minimum, name.maximum, name.categories) == (None, None, None)
    assert (number.type, name.type, number.nullable) == ("integer", "string", False)
    assert (x.minimum, x.maximum) == (0.9, 2.1)
    decoder = Decoder(contract)
    assert decoder.violations(decoder.row({"number": 10**9, "name": "never seen", "x": 1.5})) == ()
    with pytest.raises(DataError, match="key column 'y' is not in the table"):
        infer({"x": [1]}, "t", keys=["y"])


def test_context_columns_are_no_inputs() -> None:
    contract = infer({"key": ["a", "b"], "x": [1, 2]}, "t", context=["key"])
    assert [f.role for f in contract.fields] == ["context", "feature"]


values = st.one_of(
    st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=False), min_size=1),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.none() | st.text(max_size=3), min_size=1),
    st.lists(st.none() | st.booleans(), min_size=1),
    st.lists(st.none() | st.datetimes(timezones=st.just(UTC)), min_size=1),
)


@given(values)
def test_a_table_keeps_the_contract_inferred_from_it(column: list[Any]) -> None:
    seen = check({"x": column}, infer({"x": column}, "t"))
    assert seen.accepted.num_rows == len(column)
    broken = [found for found in seen.report if found.measurement.value]
    assert {found.measurement.detail["rule"] for found in broken} <= {"minimum", "maximum"}
    assert len(broken) <= 1  # a lone value that was left outside, on one side


FLIGHTS = Contract(
    name="flights",
    fields=(
        Field(name="carrier", type="string", categories=("AA", "UA")),
        Field(name="distance", type="number", minimum=0, maximum=4983),
        Field(name="seats", type="integer", minimum=1, on_violation="reject", nullable=True),
        Field(name="at", type="timestamp", nullable=True),
    ),
)


def test_every_broken_rule_is_a_finding_and_rejected_rows_are_put_aside_with_the_reason() -> None:
    table = pa.table(
        {
            "carrier": ["UA", "XX", None, "AA", "UA"],
            "distance": [1400.0, -1.0, 5000.0, float("inf"), float("nan")],
            "seats": [180.0, 0.0, None, 1.5, 20.0],
            "at": ["2013-01-01T05:00:00-05:00", None, "soon", "2013-01-01", "2013-01-01 10:00"],
        }
    )
    seen = check(table, FLIGHTS)
    assert seen.accepted.to_pylist() == [
        {"carrier": "UA", "distance": 1400.0, "seats": 180, "at": datetime(2013, 1, 1, 10, tzinfo=UTC)}
    ]
    as_they_came = ["carrier", "seats", "at"]  # a NaN equals nothing, not even itself
    assert seen.quarantined.select(as_they_came).equals(table.select(as_they_came).slice(1))
    assert seen.quarantined["reason"].to_pylist() == [
        "seats<1",
        "carrier is missing; at is no timestamp",
        "distance is no number; seats is no integer",
        "distance is missing",
    ]
    counts = {f.measurement.name: f.measurement.detail["count"] for f in seen.report}
    assert counts == {
        "carrier is no string": 0, "carrier is missing": 1, "carrier not in categories": 1,
        "distance is no number": 1, "distance is missing": 1, "distance<0": 1, "distance>4983": 1,
        "seats is no integer": 1, "seats<1": 1, "at is no timestamp": 1,
    }  # fmt: skip
    (strange,) = [f for f in seen.report if f.measurement.name == "carrier not in categories"]
    assert strange.verdict is Verdict.FAIL
    assert strange.measurement.value == 0.2
    assert strange.measurement.detail["examples"] == ["XX"]
    assert strange.why == "carrier not in categories: 1 of 5 rows (20.00%) flagged, as XX"
    assert seen.report.facts["quarantined"] == 4


def test_a_clean_table_passes_and_an_empty_one_proves_nothing() -> None:
    table = pa.table({"carrier": ["UA"], "distance": [1], "seats": [None], "at": pa.array([None], UTC_MICROS)})
    assert check(table, FLIGHTS).report.verdict is Verdict.PASS
    empty = check(table.slice(0, 0), FLIGHTS)
    assert empty.report.verdict is Verdict.INCONCLUSIVE
    assert (empty.accepted.num_rows, empty.quarantined.num_rows) == (0, 0)


def test_a_missing_column_is_missing_in_every_row() -> None:
    seen = check(pa.table({"distance": [1.0, 2.0]}), FLIGHTS)
    assert seen.quarantined["reason"].to_pylist() == ["carrier is missing"] * 2
    assert seen.accepted.schema.names == ["carrier", "distance", "seats", "at"]


def test_unknown_columns_are_left_out_kept_or_expected() -> None:
    table = pa.table({"carrier": ["UA"], "distance": [1.0], "late": [True], "tail": ["N1"]})
    strict = check(table, FLIGHTS, also=["late"])
    assert strict.accepted.column_names == ["carrier", "distance", "seats", "at", "late"]
    assert [f.why for f in strict.report.worse_than(Verdict.PASS)] == [
        "tail is not in the contract: the column was left out"
    ]
    relaxed = check(table, Contract(name="f", fields=FLIGHTS.fields, unknown="ignore"))
    assert relaxed.accepted.column_names == ["carrier", "distance", "seats", "at", "late", "tail"]
    assert relaxed.report.verdict is Verdict.PASS


def test_a_wrong_type_of_column_puts_every_value_aside() -> None:
    contract = Contract(
        name="c", fields=(Field(name="n", type="integer", nullable=True), Field(name="b", type="boolean"))
    )
    seen = check(pa.table({"n": ["1", None], "b": [0, 1]}), contract)
    assert seen.quarantined["reason"].to_pylist() == ["n is no integer; b is no boolean", "b is no boolean"]


rows = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from(["AA", "UA", "XX", None]),
        "distance": st.none() | st.sampled_from([-1.0, 0.0, 4983.0, 4983.5]),
        "seats": st.none() | st.integers(-1, 3),
        "at": st.none() | st.just("2013-01-01T00:00:00Z"),
    }
)


@given(st.lists(rows, min_size=1, max_size=8))
def test_tables_and_requests_are_judged_alike(batch: list[dict[str, Any]]) -> None:
    decoder = Decoder(FLIGHTS)
    accepted, flagged = [], {}
    for row in batch:
        try:
            decoded = decoder.row(row)
        except RequestError:
            continue
        accepted.append(decoded)
        for broken in decoder.violations(decoded):
            flagged[broken] = flagged.get(broken, 0) + 1
    types = {"carrier": pa.string(), "distance": pa.float64(), "seats": pa.int64(), "at": pa.string()}
    table = pa.Table.from_pylist(batch, pa.schema(list(types.items())))
    assert check(table, FLIGHTS).accepted.to_pylist() == accepted
    again = check(check(table, FLIGHTS).accepted, FLIGHTS).report
    counts = {f.measurement.name: f.measurement.detail["count"] for f in again if f.measurement.detail["count"]}
    assert counts == flagged
