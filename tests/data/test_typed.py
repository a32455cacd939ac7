from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from undrift.data.contract import Contract, Field
from undrift.data.inspect import check
from undrift.data.typed import typed

CONTRACT = Contract(
    name="t",
    fields=(
        Field(name="text", type="string", nullable=True),
        Field(name="whole", type="integer", nullable=True),
        Field(name="number", type="number", nullable=True),
        Field(name="yes", type="boolean", nullable=True),
        Field(name="at", type="timestamp", nullable=True),
    ),
)


def texts(**columns: list[str]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def test_text_is_read_as_the_type_of_its_field() -> None:
    found = typed(
        texts(
            text=["UA", "", "NA"], whole=["1", " 2 ", "NA"], number=["1.5e3", "-.5", ""], yes=["true", "0", "null"],
            at=["2013-04-01T12:00:00Z", "2013-04-01T14:00:00+02:00", ""], other=["x", "y", "z"],
        ),
        CONTRACT,
    )  # fmt: skip
    noon = datetime(2013, 4, 1, 12, tzinfo=UTC)
    assert found.table.to_pydict() == {
        "text": ["UA", "", "NA"], "whole": [1, 2, None], "number": [1500.0, -0.5, None], "yes": [True, False, None],
        "at": [noon, noon, None], "other": ["x", "y", "z"],
    }  # fmt: skip
    assert found.wrong.to_pylist() == ["", "", ""]


def test_what_is_no_value_of_its_type_is_named_row_by_row() -> None:
    found = typed(texts(whole=["1", "one", "3"], number=["1", "1,5", "1.5.2"], yes=["perhaps", "1", "1"]), CONTRACT)
    assert found.wrong.to_pylist() == [
        "yes is no boolean",
        "whole is no integer; number is no number",
        "number is no number",
    ]
    assert found.table["number"].to_pylist() == [1.0, None, None]


def test_times_are_read_in_any_one_form_and_judged_one_by_one_where_they_are_mixed() -> None:
    noon = datetime(2013, 4, 1, 12, tzinfo=UTC)
    micros = str(int(noon.timestamp() * 1e6))
    for text in ("2013-04-01T12:00:00Z", "2013-04-01 12:00:00", "2013-04-01T14:00+02:00", micros):
        found = check(typed(texts(at=[text, ""]), CONTRACT).table, CONTRACT)
        assert found.accepted["at"].to_pylist() == [noon, None], text
    mixed = check(typed(texts(at=["2013-04-01T12:00:00Z", "2013-04-01", "soon"]), CONTRACT).table, CONTRACT)
    assert mixed.accepted.num_rows == 2
    assert mixed.quarantined["reason"].to_pylist() == ["at is no timestamp"]


def test_fractions_are_no_whole_numbers_and_large_ones_stay_exact() -> None:
    found = typed(texts(whole=["9007199254740993"]), CONTRACT)
    assert found.table["whole"].to_pylist() == [9007199254740993]
    found = typed(texts(whole=["3.0", "3.5"]), CONTRACT)
    checked = check(found.table, CONTRACT)
    assert checked.accepted["whole"].to_pylist() == [3]
    assert checked.quarantined["reason"].to_pylist() == ["whole is no integer"]
