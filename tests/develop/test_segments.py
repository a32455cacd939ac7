"""One answer to which segment a row is in, for a gate and for a rollout, whatever the type of the field."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from undrift.data.contract import Contract, Field
from undrift.deploy.traffic import segment_columns
from undrift.develop.bundle import Interface
from undrift.develop.performance import Scored
from undrift.develop.segments import fields_of, segment_texts

FIELDS = (
    Field(name="km", type="number"), Field(name="town", type="string"), Field(name="late", type="boolean"),
    Field(name="doors", type="integer"),
)  # fmt: skip
INTERFACE = Interface(
    model="m",
    task="binary",
    contract=Contract(name="m", fields=FIELDS),
    label="y",
    classes=("0", "1"),
    segments=("km", "town", "late", "doors", "km & town", "town & late"),
    bands={"km": (10.0, 20.0)},
    rare={"town": ("Uig", "Rum"), "town & late": ("Uig & false",)},
)
ROWS = {
    "km": [5.0, 10.0, 19.9, None, 400.0],
    "town": ["York", "Uig", "Rum", None, "York"],
    "late": [True, False, None, True, True],
    "doors": [2, 2, 4, 4, None],
}


def test_a_gate_and_a_rollout_see_the_same_rows_in_the_same_segments() -> None:
    table = pa.table(ROWS)
    scored = Scored(INTERFACE, table, np.zeros(5, np.int64), np.full((5, 2), 0.5), None)
    offline = {name: sorted(rows.tolist()) for name, rows in scored.segments().items()}
    captured = pa.table({"inputs": table.to_struct_array()})
    online = {
        f"{name}={value}": np.flatnonzero(codes == code).tolist()
        for name, (codes, values) in segment_columns(captured, INTERFACE).items()
        for code, value in enumerate(values)
        if (codes == code).any()
    }
    assert offline == online
    assert offline["km=10..20"] == [1, 2], "a cut belongs to the band above it"
    assert offline["rare town=together"] == [1, 2]
    assert offline["town=Uig"] == [1], "and each rare value is looked at alone, too"
    assert offline["late=true"] == [0, 3, 4]
    assert [offline[f"km & town={pair}"] for pair in ("..10 & York", "10..20 & Uig", "20.. & York")] == [[0], [1], [4]]
    assert sum(name.startswith("km & town=") for name in offline) == 4, "a row without one of the two is in no pair"
    assert offline["rare town & late=together"] == [1]
    assert 3 not in offline["km=..10"], "an absent number is in no band"


def test_columns_that_are_not_there_are_left_out() -> None:
    assert [name for name, _ in segment_texts(INTERFACE, {"town": pa.array(["Uig"])})] == ["town", "rare town"]
    assert [name for name, _ in segment_texts(INTERFACE, {"km": pa.array([1])}, ["km"])] == ["km"]


def test_a_field_whose_name_looks_like_a_pair_is_a_field() -> None:
    assert fields_of(["bed & breakfast", "bed & town"], {"bed & breakfast"}) == ("bed & breakfast", "bed", "town")
    texts = dict(segment_texts(INTERFACE, {"bed & breakfast": pa.array(["yes"])}, ["bed & breakfast"]))
    assert texts["bed & breakfast"].to_pylist() == ["yes"]
