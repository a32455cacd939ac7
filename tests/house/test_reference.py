"""The reference pages say what the code says: events, settings, paths, statuses, metrics, records, columns."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from undrift.event import KINDS, Event
from undrift.settings import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def rows(text: str) -> Iterator[list[str]]:
    """The cells of all table rows, the first without its backticks."""
    for line in text.splitlines():
        if line.startswith("| "):
            first, *others = [cell.strip() for cell in line.strip("|").split(" | ")]
            yield [first.strip("` "), *others]


# -- events ------------------------------------------------------------------------------------------------------------


def test_every_kind_of_event_is_documented_in_its_own_words() -> None:
    told = {cells[0]: cells[1].rstrip(" |") for cells in rows(page("events.md")) if "." in cells[0]}
    assert told == KINDS


def test_every_field_of_an_event_is_documented() -> None:
    named = set(re.findall(r"`(\w+)`", page("events.md")))
    assert set(Event.__struct_fields__) <= named


# -- settings ----------------------------------------------------------------------------------------------------------


def test_every_setting_is_documented_with_its_default() -> None:
    told = {cells[0]: json.loads(cells[1].strip("`")) for cells in rows(page("settings.md")) if "." in cells[0]}
    real = {name: json.loads(msgspec.json.encode(value)) for name, value, _ in Settings().values()}
    assert told == real


def test_no_setting_is_documented_without_a_word_on_what_it_does() -> None:
    silent = [cells[0] for cells in rows(page("settings.md")) if "." in cells[0] and len(cells[2].strip(" |")) < 8]
    assert not silent


# -- http --------------------------------------------------------------------------------------------------------------


def served_paths() -> set[str]:
    """The patterns of all lines of the table of paths, a variable part written as ``*``."""
    found = set()
    for file in (ROOT / "src/undrift/serving").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) >= 4):
                continue  # pathlib's
            at = {"Path": 1, "_asks": 0}.get(node.func.id)
            if at is not None and isinstance(node.args[at], ast.Constant):  # else a path of the settings
                found.add(re.sub(r"\{\w+\}", "*", str(ast.literal_eval(node.args[at]))).rstrip("/"))
    return found


def test_every_path_that_is_served_is_documented_and_no_other() -> None:
    told = set(re.findall(r"`(?:GET|POST) (/[^`]+)`", page("http.md")))
    served = served_paths()
    assert served
    assert {re.sub(r"\{\w+\}", "*", path) for path in told} == served


def test_every_error_that_is_a_status_is_documented_with_it() -> None:
    from undrift.protocols.wire import _STATUS

    told = {cells[0]: " ".join(cells[1:]) for cells in rows(page("http.md")) if cells[0].isdigit()}
    wrong = [
        f"{status} {kind.__name__}" for kind, status, _ in _STATUS if f"`{kind.__name__}`" not in told[str(status)]
    ]
    assert not wrong


def test_every_metric_is_documented_with_its_labels() -> None:
    pytest.importorskip("prometheus_client")
    from undrift.serving.telemetry import COUNTED, Meters

    told = {
        cells[0]: set(re.findall(r"`(\w+)`", cells[1])) for cells in rows(page("http.md")) if "undrift_" in cells[0]
    }
    real = {name: set(labels) for name, (_, labels) in COUNTED.items()}
    for metric in vars(Meters()).values():
        if hasattr(metric, "_labelnames"):
            name = metric._name + ("_total" if type(metric).__name__ == "Counter" else "")
            real[name] = set(metric._labelnames)
    assert real
    assert told == real


# -- Python ------------------------------------------------------------------------------------------------------------


def test_every_public_name_has_its_place_on_the_page() -> None:
    import undrift

    told = re.findall(r"^\.\. (?:auto\w+|py:function):: undrift\.(\w+)", page("python.md"), re.MULTILINE)
    assert sorted(told) == sorted(name for name in undrift.__all__ if not name.startswith("__"))


# -- spool and lake ----------------------------------------------------------------------------------------------------


def test_every_record_of_the_spool_is_documented_field_by_field() -> None:
    from undrift.capture import capture

    kinds: list[Any] = [
        capture.PredictionRecord,
        capture.LabelRecord,
        capture.EventRecord,
        capture.SourceRecord,
        capture.WatermarkRecord,
    ]
    told = {
        cells[0]: (cells[1].strip("`"), tuple(re.findall(r"`(\w+)`", cells[2])))
        for cells in rows(page("spool-format.md"))
        if cells[0].endswith("Record")
    }
    assert told == {kind.__name__: (kind.__struct_config__.tag, kind.__struct_fields__) for kind in kinds}
    assert f"`0x{capture.MAGIC[-1]:02x}`" in page("spool-format.md")
    assert f"2**{capture.OFFSET_BITS}" in page("spool-format.md")


def columns(heading: str) -> dict[str, str]:
    section = page("lake.md").partition(f"## `{heading}`")[2].partition("\n## ")[0]
    assert section, f"no section {heading} in lake.md"
    return {
        cells[0]: cells[1].strip("`") for cells in rows(section) if cells[0] not in ("column", "---", "and", "---|---")
    }


def test_every_column_of_the_lake_is_documented_with_its_type() -> None:
    from undrift.capture.records import events_table, labels_table, predictions_table, source_table
    from undrift.data.contract import Contract, Field
    from undrift.data.features import Feature, FeatureView, Source, Transform
    from undrift.develop.bundle import Interface

    contract = Contract(name="c", fields=(Field(name="k", type="string"), Field(name="t", type="timestamp")))
    interface = Interface(
        model="m",
        task="binary",
        contract=contract,
        label="y",
        views=(FeatureView(name="v", source="s", entity="k", features=(Feature(name="x"),)),),
        transforms=(Transform(name="f", function="m:f", inputs=("k",), outputs=(Feature(name="z"),)),),
    )

    def types(table: Any) -> dict[str, str]:
        return {
            field.name: "struct" if str(field.type).startswith("struct") else str(field.type) for field in table.schema
        }

    assert columns("predictions_<model>") == types(predictions_table(interface, []))
    assert columns("labels_<model>") == types(labels_table([]))
    assert columns("events_<model>") == types(events_table([]))
    own = {field.name for field in contract.fields}
    source = types(source_table(Source(name="s", contract=contract, time="t"), []))
    assert columns("source_<name>") == {name: kind for name, kind in source.items() if name not in own}


# -- the house ---------------------------------------------------------------------------------------------------------


def test_how_it_works_names_every_floor_of_the_house() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    section = text.partition("## The house")[2].partition("\n## ")[0]
    floors = {path.stem for path in (ROOT / "src/undrift").glob("[a-z]*") if path.suffix == ".py" or path.is_dir()}
    missing = sorted(name for name in floors if f"`{name}`" not in section)
    assert not missing, f"floors that docs/how-it-works.md does not name: {missing}"
