from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.data.contract import Contract, Field
from undrift.errors import ContractError, DeclarationError, NotFoundError


def contract(*fields: Field, **more: Any) -> Contract:
    return Contract(name="c", fields=fields, **more)


finite = st.floats(-1e12, 1e12)
bounds = st.tuples(st.none() | finite, st.none() | finite).map(
    lambda pair: pair if None in pair else (min(pair), max(pair))
)
text = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
shared = {
    "nullable": st.booleans(),
    "role": st.sampled_from(["feature", "context"]),
    "personal": st.booleans(),
    "unit": text,
    "on_violation": st.sampled_from(["flag", "reject"]),
    "description": text,
}


@st.composite
def fields(draw: Any) -> Field:
    kind = draw(st.sampled_from(["string", "integer", "number", "boolean", "timestamp"]))
    rules: dict[str, Any] = {}
    if kind in ("integer", "number"):
        rules["minimum"], rules["maximum"] = draw(bounds)
    if kind == "timestamp":
        rules["minimum"] = draw(st.none() | st.integers(0, 4 * 10**15).map(float))
    if kind == "string":
        rules["categories"] = draw(st.none() | st.lists(text, min_size=1, unique=True).map(tuple))
    if kind == "integer" and rules["minimum"] is None:
        rules["categories"] = draw(st.none() | st.lists(st.integers().map(str), min_size=1, unique=True).map(tuple))
    return Field(name=draw(text), type=kind, **rules, **{name: draw(of) for name, of in shared.items()})


@given(
    st.builds(
        Contract,
        name=text,
        fields=st.lists(fields(), min_size=1, max_size=6, unique_by=lambda f: f.name).map(tuple),
        unknown=st.sampled_from(["reject", "ignore"]),
        description=text,
    )
)
def test_a_contract_comes_back_from_its_document_as_it_was(given_contract: Contract) -> None:
    back = Contract.from_odcs(given_contract.to_odcs())
    assert back == given_contract
    assert back.hash == given_contract.hash
    assert given_contract.diff(back) == ()


def test_equal_contracts_have_equal_hashes_and_others_have_not() -> None:
    whole, broken = Field(name="x", type="number", minimum=0), Field(name="x", type="number", minimum=0.0)
    assert contract(whole).hash == contract(broken).hash
    assert contract(whole).hash == contract(whole, version="".join(["1.", "0.0"])).hash  # a default, written out
    assert contract(whole).hash != contract(Field(name="x", type="number", minimum=1)).hash
    assert len(contract(whole).hash) == 64


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"type": "number", "minimum": 2, "maximum": 1}, "the minimum 2 is above the maximum 1"),
        ({"type": "string", "minimum": 1}, "a string has no minimum"),
        ({"type": "number", "categories": ("1",)}, "categories are for strings and integers"),
        ({"type": "string", "categories": ()}, "no row could ever pass"),
        ({"type": "integer", "categories": ("01",)}, "'01' is no integer"),
        ({"type": "number", "maximum": float("inf")}, "leave it out"),
    ],
)
def test_rules_that_cannot_hold_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Field(name="x", **rules)


def test_a_contract_needs_fields_of_different_names() -> None:
    with pytest.raises(DeclarationError, match="no field"):
        contract()
    with pytest.raises(DeclarationError, match="'x' more than once"):
        contract(Field(name="x", type="number"), Field(name="x", type="string"))


def test_a_field_is_found_by_name() -> None:
    field = Field(name="x", type="number")
    assert contract(field).field("x") is field
    with pytest.raises(NotFoundError, match="no field 'y'; it has x"):
        contract(field).field("y")


def test_violations_are_named_as_people_write_them() -> None:
    assert Field(name="d", type="number", minimum=-0.5, maximum=1e6).rules == {
        "minimum": "d<-0.5",
        "maximum": "d>1000000",
    }
    assert Field(name="t", type="timestamp", minimum=0).rules == {"minimum": "t<1970-01-01T00:00:00+00:00"}


def test_the_diff_says_what_breaks_first() -> None:
    old = contract(
        Field(name="gone", type="string", role="context"),
        Field(name="n", type="integer"),
        Field(name="opened", type="number"),
        Field(name="shut", type="number", nullable=True),
        Field(name="speed", type="number", unit="mph"),
        Field(name="wide", type="number", maximum=5, on_violation="reject"),
    )
    new = contract(
        Field(name="n", type="number"),
        Field(name="opened", type="number", nullable=True),
        Field(name="shut", type="number"),
        Field(name="speed", type="number", unit="km/h"),
        Field(name="wide", type="number", maximum=4, on_violation="reject"),
        unknown="ignore",
    )
    assert old.diff(new) == (
        "breaking: 'shut' may no longer be null",
        "breaking: 'speed' unit was mph, is km/h",
        "breaking: 'wide' maximum was 5, is 4",
        "compatible: 'gone' is gone",
        "compatible: 'n' was integer, is number",
        "compatible: 'opened' may now be null",
        "compatible: unknown columns: was reject, is ignore",
    )


def test_a_narrower_set_breaks_only_where_it_rejects() -> None:
    def carriers(*names: str, on_violation: str = "flag") -> Contract:
        return contract(Field(name="c", type="string", categories=names, on_violation=on_violation))  # type: ignore[arg-type]

    assert carriers("AA", "UA").diff(carriers("AA", "DL")) == (
        "compatible: 'c' categories: now without UA and with DL",
    )
    strict = carriers("AA", "UA", on_violation="reject")
    assert strict.diff(carriers("AA", on_violation="reject")) == ("breaking: 'c' categories: now without UA",)
    assert strict.diff(carriers("AA", "UA", "DL", on_violation="reject")) == (
        "compatible: 'c' categories: now with DL",
    )


def test_errors_of_declarations_keep_their_place_in_the_document() -> None:
    document = contract(Field(name="x", type="number", minimum=0, maximum=9)).to_odcs()
    line = document.splitlines().index("  - name: x") + 1
    where = rf"the minimum 0 is above the maximum -1 - at `\$\.schema\[0\]\.properties\[0\]`, line {line}\."
    with pytest.raises(ContractError, match=where):
        Contract.from_odcs(document.replace("maximum: 9", "maximum: -1"))
