from __future__ import annotations

import math

import pytest

from undrift.data import odcs
from undrift.data.contract import Contract
from undrift.errors import ContractError

HEAD = "kind: DataContract\napiVersion: v3.0.2\nversion: 2.0.0\nschema:\n- name: t\n  properties:\n"


def one(body: str) -> Contract:
    return Contract.from_odcs(HEAD + body)


X = HEAD + "  - name: x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"no valid YAML: while parsing"),
        ("", r"expected keys and values, got NoneType - at `\$`, line 1"),
        ("kind: DataContract\napiVersion: v2.2.2", r"'DataContract', apiVersion 'v2.2.2' - at `\$.apiVersion`, line 2"),
        (HEAD.replace("  properties:\n", ""), r"a list, got NoneType - at `\$.schema\[0\].properties`, line 5"),
        (HEAD + "  - logicalType: string", r"no name - at `\$.schema\[0\].properties\[0\].name`, line 7"),
        (X + "    physicalType: geometry", r"known physicalType \(geometry\) - at .*line 7"),
        (X + "    logicalType: number\n    logicalTypeOptions: {minimum: low}", r"got 'low' - at .*minimum`, line 9"),
        (X + "    logicalType: string\n    enum:\n    - value: no", r"the value False is no text"),
        (X + "    logicalType: string\n    customProperties: [{property: role, value: spy}]", r"value 'spy'.*line 7"),
    ],
)
def test_what_cannot_be_read_is_refused_with_line_and_path(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Contract.from_odcs(text)


def test_exclusive_bounds_become_the_next_inclusive_ones() -> None:
    whole = "  - {name: n, logicalType: integer, logicalTypeOptions: {exclusiveMinimum: 0, exclusiveMaximum: 10}}\n"
    real = "  - {name: x, logicalType: number, logicalTypeOptions: {exclusiveMinimum: 0}}\n"
    n, x = one(whole + real).fields
    assert (n.minimum, n.maximum) == (1, 9)
    assert x.minimum == math.ulp(0.0)


def test_dates_bound_timestamps_in_microseconds() -> None:
    (day,) = one(
        "  - {name: d, logicalType: date, logicalTypeOptions: {minimum: 1970-01-02, format: yyyy-MM-dd}}\n"
    ).fields
    assert (day.type, day.minimum) == ("timestamp", 86_400e6)
    assert odcs.read(HEAD + "  - {name: d, logicalType: date, logicalTypeOptions: {format: y}}\n").left == ()


def test_a_physical_type_decides_where_no_logical_one_is_given() -> None:
    kinds = {
        "VARCHAR(18)": "string",
        "bigint": "integer",
        "DECIMAL(9,2)": "number",
        "timestamptz": "timestamp",
        "bool": "boolean",
    }
    body = "".join(f"  - {{name: c{i}, physicalType: '{kind}'}}\n" for i, kind in enumerate(kinds))
    assert [field.type for field in one(body).fields] == list(kinds.values())


def test_the_enumeration_of_newer_documents_is_a_closed_set() -> None:
    (field,) = one("  - {name: p, logicalType: integer, enum: [{value: 1}, {value: 3}]}\n").fields
    assert field.categories == ("1", "3")
    assert field.nullable


def test_rules_on_the_form_of_text_are_named_as_left_aside() -> None:
    body = "  - {name: a, logicalType: string, unique: true, logicalTypeOptions: {pattern: A+, minLength: 2}}\n"
    at = "$.schema[0].properties[0]"
    assert odcs.read(HEAD + body).left == (
        f"{at}.logicalTypeOptions.pattern",
        f"{at}.logicalTypeOptions.minLength",
        f"{at}.unique",
    )


def test_a_share_of_invalid_values_is_no_rule_on_a_row() -> None:
    rule = "{metric: invalidValues, arguments: {validValues: [a]}, mustBeLessThan: 5, unit: percent}"
    found = odcs.read(HEAD + f"  - {{name: a, logicalType: string, quality: [{rule}]}}\n")
    assert found.fields[0][0]["categories"] is None
    assert found.left == ("$.schema[0].properties[0].quality[0]",)
