"""What `undrift init` writes can be loaded as it is, and what it refuses leaves nothing behind."""

from __future__ import annotations

import json
import os
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from undrift.app import init as scaffold
from undrift.data.contract import Contract
from undrift.data.decoder import Decoder
from undrift.declarations import load_declarations
from undrift.errors import DataError, SettingsError, StateError
from undrift.settings import load

ROWS = 200


def orders(seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    amount = rng.gamma(2.0, 30.0, ROWS).round(2)
    shop = rng.choice(["Köln", 'O"Hare', "it's"], ROWS)
    return pa.table(
        {
            "order id": [f"o-{n:04d}" for n in range(ROWS)],
            "ordered_at": pa.array(
                [datetime(2024, 1, 1) + timedelta(hours=n) for n in range(ROWS)], pa.timestamp("us")
            ),
            "amount": amount,
            "shop": shop,
            "items": rng.integers(1, 9, ROWS),
            "comment": [f"text {n}" for n in range(ROWS)],
            "refund": amount * 0.5,
            "returned": rng.choice(["no", "yes"], ROWS, p=[0.7, 0.3]),
        }
    )


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    file = tmp_path / "orders.csv"
    pyarrow.csv.write_csv(orders(), file)
    return file


def test_what_is_written_loads_as_a_project(csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "My shop"
    made = scaffold.init(folder, csv, "returned", time="ordered_at", key="order id", leave_out=("refund",))
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == sorted(made.files)
    settings = load(folder / "undrift.toml", {})
    assert settings.project.name == "my_shop" == made.name
    model = load_declarations(folder, settings.project.declarations).model()
    assert (model.name, model.task, model.label) == ("my_shop", "binary", "returned")
    assert (model.key, model.time, model.classes) == ("order id", "ordered_at", ("no", "yes"))
    assert [i.name for i in model.interface().inputs] == ["amount", "shop", "items"]
    assert any("comment" in note for note in made.notes)


def test_the_example_request_keeps_the_contract(csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    scaffold.init(folder, csv, "returned", time="ordered_at", key="order id")
    contract = Contract.from_odcs((folder / "contract.yaml").read_text())
    (instance,) = json.loads((folder / "example.json").read_text())["instances"]
    assert "returned" not in instance
    decoder = Decoder(contract)
    assert decoder.violations(decoder.row(instance)) == ()


def test_a_request_with_the_next_key_keeps_the_contract(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    table = orders()
    pyarrow.csv.write_csv(table.set_column(0, "order id", [list(range(ROWS))]), file)
    scaffold.init(tmp_path / "shop", file, "returned", time="ordered_at", key="order id")
    decoder = Decoder(Contract.from_odcs((tmp_path / "shop" / "contract.yaml").read_text()))
    (instance,) = json.loads((tmp_path / "shop" / "example.json").read_text())["instances"]
    assert decoder.violations(decoder.row({**instance, "order id": 1_700_000_000_000_000})) == ()


def test_the_readme_names_the_model_and_its_own_label(csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    scaffold.init(folder, csv, "returned")
    readme = (folder / "README.md").read_text()
    assert "/v1/models/shop:predict" in readme
    assert '"label": "yes"' in readme
    assert "{{" not in readme


def test_a_data_file_in_the_folder_is_used_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "raw").mkdir(parents=True)
    (folder / ".git").mkdir()
    pyarrow.parquet.write_table(orders(), folder / "raw" / "orders.parquet")
    made = scaffold.init(folder, folder / "raw" / "orders.parquet", "returned")
    assert made.data == "raw/orders.parquet"
    assert "where it is" in made.data_note
    assert not (folder / "data").exists()


def test_a_data_file_elsewhere_is_copied(csv: Path, tmp_path: Path) -> None:
    made = scaffold.init(tmp_path / "shop", csv, "returned")
    assert made.data == "data/orders.csv"
    assert (tmp_path / "shop/data/orders.csv").read_bytes() == csv.read_bytes()


@pytest.mark.parametrize(("label", "task"), [("shop", "multiclass"), ("amount", "regression")])
def test_every_task_has_a_train_function_that_fits_and_a_baseline(
    csv: Path, tmp_path: Path, label: str, task: str
) -> None:
    folder = tmp_path / "shop"
    made = scaffold.init(folder, csv, label)
    assert made.task == task
    text = (folder / "train.py").read_text()
    compile(text, "train.py", "exec")
    assert ("Regressor" in text) == (task == "regression")


def test_a_folder_in_use_is_refused(csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match=r"is not empty: it holds notes\.txt"):
        scaffold.init(folder, csv, "returned")
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    with pytest.raises(SettingsError, match="is a file"):
        scaffold.init(csv, csv, "returned")


def test_what_cannot_be_learnt_from_leaves_nothing_behind(csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    with pytest.raises(SettingsError, match="names 'retrned'"):
        scaffold.init(folder, csv, "retrned")
    with pytest.raises(DataError, match="no column is left"):
        scaffold.init(
            folder, csv, "returned", leave_out=("amount", "shop", "items", "refund", "ordered_at"), key="order id"
        )
    with pytest.raises(DataError, match="does not exist"):
        scaffold.init(folder, tmp_path / "nothing.csv", "returned")
    empty = tmp_path / "empty.csv"
    empty.write_text("a,b\n")
    with pytest.raises(DataError, match="no rows"):
        scaffold.init(folder, empty, "a")
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_error(csv: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(StateError, match="cannot be written"):
        scaffold.init(locked / "shop", csv, "returned")


@pytest.mark.parametrize(
    ("text", "name"), [("Shop 24", "shop_24"), ("2024-orders", "model_2024_orders"), ("日本", "model"), ("a__b", "a_b")]
)
def test_a_folder_name_becomes_a_name_that_urls_and_tables_can_bear(text: str, name: str) -> None:
    assert scaffold.model_name(text, given=False) == name
    assert name.isidentifier()


def test_a_name_that_was_given_is_not_changed_in_silence() -> None:
    with pytest.raises(SettingsError, match="lower-case") as caught:
        scaffold.model_name("My Shop", given=True)
    assert "'my_shop'" in caught.value.hint


@pytest.mark.parametrize("value", ["plain", 'quo"te', "back\\slash", "Köln", "new\nline", ("one",), ("a", "b"), ()])
def test_a_literal_reads_back_as_the_value(value: object) -> None:
    assert eval(scaffold.literal(value)) == value
    if isinstance(value, str):
        assert tomllib.loads(f"x = {scaffold.literal(value)}")["x"] == value


def test_the_time_of_an_example_has_its_zone(csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    scaffold.init(folder, csv, "returned", time="ordered_at")
    (instance,) = json.loads((folder / "example.json").read_text())["instances"]
    last = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=ROWS - 1)
    assert datetime.fromisoformat(instance["ordered_at"]) == last
