"""An ODCS document written by others, as data: every part of it that has a meaning here is read, the rest is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from undrift.data import odcs
from undrift.data.contract import Contract, Field
from undrift.errors import ContractError

TEXT = (Path(__file__).parent / "odcs" / "full-example-v3.2.0.odcs.yaml").read_text(encoding="utf-8")


def test_a_table_of_the_full_example_is_read() -> None:
    contract = Contract.from_odcs(TEXT, table="tbl")
    assert contract.version == "1.1.0"
    assert contract.description == "Views built on top of the seller tables."
    assert contract.fields == (
        Field(
            name="transaction_reference_date", type="timestamp", nullable=True,
            description="Reference date for transaction",
        ),
        # a primary key is never null, whatever `required` says
        Field(name="rcvr_id", type="string", description="A description for column rcvr_id."),
        # nullValues mustBe 0, and a closed set
        Field(name="rcvr_cntry_code", type="string", categories=("US", "CA", "MX"), description="Country code"),
    )  # fmt: skip


def test_rules_on_rows_that_a_contract_has_no_word_for_are_named() -> None:
    assert odcs.read(TEXT, "tbl").left == ("$.schema[0].quality[0]",)  # rowCount mustBeGreaterThan 1000000


def test_two_tables_and_none_named_is_refused() -> None:
    with pytest.raises(ContractError, match=r"expected one table, got 2 \(tbl, receivers\).*\$\.schema"):
        Contract.from_odcs(TEXT)


def test_a_type_no_column_has_is_refused_with_line_and_path() -> None:
    lines = TEXT.splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "logicalType: map" in text)
    with pytest.raises(ContractError, match=rf"'map'.*\$\.schema\[1\]\.properties\[4\]\.logicalType`, line {line}\."):
        Contract.from_odcs(TEXT, table="receivers")
