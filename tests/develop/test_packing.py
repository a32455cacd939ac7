"""Golden requests: asked and answered as serving will, and without any person's value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.profile import Profile
from undrift.data.text import MEASURED, measured
from undrift.develop.bundle import Interface, read_golden
from undrift.develop.folds import TrainingData
from undrift.develop.packing import Reference, pack
from undrift.develop.trust import PythonModel
from undrift.inference.predictor import load
from undrift.settings import TrustSettings

SUM = b"""
class Model:
    def predict(self, rows):  # refuses a number that is absent, as most models do
        found = [len(mail) + born / 1e4 + age + float(vip) + x for mail, born, age, vip, x in rows]
        if any(value != value for value in found):
            raise ValueError("a number is absent")
        return found
"""


def people(n: int) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "mail": [f"person{i}@example.org" for i in range(n)],
            "born": pa.array(rng.integers(0, 10**15, n), pa.timestamp("us", "UTC")),
            "age": rng.integers(18, 90, n),
            "vip": rng.random(n) < 0.7,
            "x": rng.normal(size=n),
            "y": rng.normal(size=n),
        }
    )


def packed(n: int, artifacts: Any, personal: bool) -> Any:
    kinds: dict[str, Any] = {"mail": "string", "born": "timestamp", "age": "integer", "vip": "boolean", "x": "number"}
    fields = tuple(Field(name=f, type=kind, personal=personal and f != "x") for f, kind in kinds.items())
    interface = Interface(model="sum", task="regression", contract=Contract(name="sum", fields=fields), label="y")
    data = TrainingData.of(interface, people(n))
    trust = TrustSettings(formats=("python",))
    found = pack(
        PythonModel(SUM, "sum.py"), interface, inputs_of=data.table, rows=data.table, label=data.y, time=None,
        trust=trust, artifacts=artifacts,
    )  # fmt: skip
    return artifacts.get(found.bundle), trust


def test_golden_requests_hold_typical_values_where_fields_are_personal_and_are_still_answered(artifacts: Any) -> None:
    folder, trust = packed(200, artifacts, personal=True)
    golden = read_golden(folder)
    assert len(golden) == 24
    assert len({row.inputs["x"] for row in golden}) == 24  # what is nobody's stays as it was
    table = people(200)
    (age,) = {row.inputs["age"] for row in golden}
    assert age == round(float(np.median(table["age"].to_numpy())))
    assert {row.inputs["vip"] for row in golden} == {True}
    (born,) = {row.inputs["born"] for row in golden}
    assert isinstance(born, int)
    assert born not in table["born"].cast(pa.int64()).to_pylist()  # between two people of an even number
    assert {row.inputs["mail"] for row in golden} == {""}  # each address is one person's: none is kept
    text = (folder / "golden.json").read_text()
    assert "person" not in text
    load(folder, trust)  # asks them, and compares


def test_a_field_that_must_be_there_is_neutral_where_no_value_is_of_five_people(artifacts: Any) -> None:
    folder, trust = packed(30, artifacts, personal=True)
    assert {row.inputs["mail"] for row in read_golden(folder)} == {""}
    load(folder, trust)


def test_the_reference_profile_keeps_no_value_of_a_personal_field(artifacts: Any) -> None:
    folder, _ = packed(200, artifacts, personal=True)
    text = (folder / "profile.json").read_text()
    assert "person1@" not in text
    found = Reference.read(folder).inputs
    for name in ("mail", "born", "age", "vip"):
        column = found.columns[name]
        assert (column.n, column.nulls, column.top, column.minimum, column.sketch.n) == (200, 0, (), None, 0)
        assert not column.shapes.counts
    assert found.columns["x"].sketch.n == 200, "what is nobody's is profiled as before"
    assert (found + found).columns["mail"].n == 400
    open_text = (packed(200, artifacts, personal=False)[0] / "profile.json").read_text()
    assert "person1@" in open_text, "or this test could not fail"


def test_of_free_text_the_reference_keeps_what_is_measured_and_no_word(tmp_path: Path) -> None:
    fields = (Field(name="note", type="string", text=True), Field(name="x", type="number"))
    interface = Interface(model="m", task="regression", contract=Contract(name="m", fields=fields), label="y")
    table = pa.table({"note": [f"Ann wrote red green {i // 2 % 7}" for i in range(200)], "x": np.arange(200.0)})
    reference = Reference.of_inputs(interface, table, Profile())
    text = reference.to_json()
    assert "Ann" not in text
    assert "wrote" not in text
    assert set(reference.inputs.columns) == {"note", "x", *(f"note.{each}" for each in MEASURED)}
    assert reference.inputs.columns["note.unknown"].n == 100, "measured on the rows the words were not learnt on"
    (tmp_path / "profile.json").write_text(text)
    assert Reference.read(tmp_path) == reference
    (found,) = measured({"note": pa.chunked_array([["Ann wrote blue"]])}, reference.vocabularies)["note.unknown"]
    assert found.as_py() == pytest.approx(1 / 3)


def test_without_personal_fields_golden_requests_are_rows_as_they_came(artifacts: Any) -> None:
    folder, _ = packed(200, artifacts, personal=False)
    kept = msgspec.json.decode((folder / "golden.json").read_bytes())
    mails = set(people(200)["mail"].to_pylist())
    assert len({row["inputs"]["mail"] for row in kept}) == 24
    assert {row["inputs"]["mail"] for row in kept} <= mails
