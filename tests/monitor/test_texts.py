"""Free text is watched by what is measured of it; another language is seen by name, and an absent library is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.profile import Profile
from undrift.data.text import MEASURED
from undrift.develop.bundle import Interface
from undrift.develop.packing import Reference as Packed
from undrift.finding import Finding, Verdict
from undrift.monitor import texts
from undrift.monitor.cells import Reference, reference_from
from undrift.monitor.drift import judge_drift
from undrift.monitor.frames import columns_of
from undrift.monitor.monitors import Monitor
from undrift.monitor.seasonal import judge_seasonal
from undrift.monitor.texts import judge_untold, untold, with_texts
from undrift.monitor.watch import Scene, watch
from undrift.monitor.windows import history_of, keep_profiles, kept_profiles
from undrift.state.lake import DeltaLake

START = datetime(2013, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FIELDS = (Field(name="note", type="string", text=True), Field(name="x", type="number"))
INTERFACE = Interface(model="m", task="regression", contract=Contract(name="m", fields=FIELDS), label="y")
WORDS = {
    "en": "the driver was late again and the package is broken i want my money back please call me today",
    "de": "der fahrer kam wieder zu spät und das paket ist kaputt ich möchte mein geld zurück bitte anrufen",
}


def note(rng: np.random.Generator, german: bool) -> str:
    return " ".join(rng.choice(WORDS["de" if german else "en"].split(), 12))


def captured(days: int, *, first: int = 0, n: int = 200, german: float = 0.02, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng([seed, first + 1000])
    rows = days * n
    seconds = np.repeat(np.arange(days), n) * 86_400 + np.sort(rng.integers(0, 86_400, (days, n))).ravel()
    at = (int(START.timestamp()) + first * 86_400 + seconds) * 1_000_000
    said = [note(rng, rng.random() < german) for _ in range(rows)]
    return pa.table(
        {
            "prediction_id": [f"p{first}-{i}" for i in range(rows)],
            "event_time": pa.array(at, pa.timestamp("us", "UTC")),
            "version": pa.array(np.ones(rows), pa.int32()),
            "variant": ["champion"] * rows,
            "score": rng.random(rows),
            "error": pa.nulls(rows, pa.string()),
            "inputs": pa.StructArray.from_arrays([pa.array(said), pa.array(rng.random(rows))], ["note", "x"]),
        }
    )


@pytest.fixture(scope="module")
def packed() -> Packed:
    inputs = captured(20, first=-20)["inputs"]
    plain = pa.table({name: pc.struct_field(inputs, name) for name in ("note", "x")})
    return Packed.of_inputs(INTERFACE, plain, Profile())


@pytest.fixture(scope="module")
def reference(packed: Packed) -> dict[str, Reference]:
    return {name: reference_from(column) for name, column in packed.inputs.columns.items() if name != "note"}


def judged(monitor: Monitor, packed: Packed, reference: dict[str, Reference], rows: pa.Table) -> dict[str, Finding]:
    findings = judge_drift(monitor, with_texts(rows, packed.vocabularies), reference, START + 8 * DAY)
    return {str(f.measurement.detail["column"]): f for f in findings}


def test_of_each_day_so_many_languages_are_told_and_the_same_ones_whoever_asks(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MOST_OF_A_DAY", 50)
    rows = captured(4).take(pa.array(np.random.default_rng(3).permutation(800)))

    def told(part: pa.Table) -> dict[str, str]:
        found = columns_of(with_texts(part, packed.vocabularies))["note.language"]
        named = zip(part["prediction_id"].to_pylist(), found.to_pylist(), strict=True)
        return {name: each for name, each in named if each is not None}

    whole = told(rows)
    days = rows["event_time"].cast("date32")
    assert len(whole) == 200
    parts: dict[str, str] = {}
    for day in days.unique().to_pylist():
        part = told(rows.filter(pc.equal(days, day)))
        assert len(part) == 50
        parts |= part
    assert parts == whole


def test_a_share_of_another_language_is_named_and_the_same_mixture_is_not(
    packed: Packed, reference: dict[str, Reference]
) -> None:
    monitor = Monitor(name="notes", kind="drift", columns=("note.language",), practical=0.05, persistence=(1, 1))
    usual = judged(monitor, packed, reference, captured(8))
    assert usual["note.language"].verdict is Verdict.PASS
    found = judged(monitor, packed, reference, captured(8, german=0.25, seed=1))["note.language"]
    assert found.verdict is Verdict.FAIL
    assert found.measurement.value == pytest.approx(0.23, abs=0.03)
    assert "de: 1.9% before, 25.8% now" in found.why, found.why


def test_a_text_stands_for_all_that_is_measured_of_it(packed: Packed, reference: dict[str, Reference]) -> None:
    rows = captured(8)
    whole = {f"note.{each}" for each in MEASURED}
    for columns, wanted in (
        (("note",), whole),
        (("note", "x"), whole | {"x"}),
        (("note.words",), {"note.words"}),
        ((), whole | {"x"}),
        (("no",), set()),
    ):
        monitor = Monitor(name="notes", kind="drift", columns=columns)
        assert set(judged(monitor, packed, reference, rows)) == wanted


def test_kept_profiles_hold_the_languages_of_the_sample_alone(
    packed: Packed, reference: dict[str, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MOST_OF_A_DAY", 120)
    lake, rows = DeltaLake(str(tmp_path / "lake")), captured(8)
    for day in range(8):
        at = START + day * DAY
        keep_profiles(lake, INTERFACE, rows, packed.inputs, at, at + DAY, texts=packed.vocabularies)
    kept = kept_profiles(lake, "m", START, START + 8 * DAY)
    for each in kept:
        found = each.profile.columns["note.language"]
        assert (found.n, found.nulls, each.profile.n) == (120, 0, 200)
    history = history_of(kept, reference, 1)
    assert set(history) == set(reference) | ({"score"} & set(reference))
    assert history["note.language"].cells.sum() == 8 * 120
    season = Monitor(name="notes", kind="drift", season="day", window="1d", columns=("note",))
    findings = judge_seasonal(season, history, reference, START + 8 * DAY, tick=DAY)
    assert {f.measurement.detail["column"] for f in findings} == {f"note.{each}" for each in MEASURED}


@pytest.mark.usefixtures("without_languages")
def test_a_reference_with_languages_is_not_passed_over_where_they_cannot_be_told(
    packed: Packed, reference: dict[str, Reference]
) -> None:
    assert "note.language" in reference
    monitors = (
        Monitor(name="all", kind="drift"),
        Monitor(name="notes", kind="drift", columns=("note",), history="60d"),
        Monitor(name="hours", kind="drift", season="day", columns=("note.language",)),
        Monitor(name="other", kind="drift", columns=("x",)),
    )
    scene = Scene(
        interface=INTERFACE,
        rows=captured(8),
        version=1,
        reference=reference,
        vocabularies=packed.vocabularies,
        untold=untold(packed.vocabularies, reference),
    )
    report = watch(monitors, scene, {}, START + 8 * DAY)
    about = [f for f in report.findings if f.measurement.detail.get("column") == "note.language"]
    assert [f.measurement.detail["monitor"] for f in about] == ["all", "notes", "hours"]
    for finding in about:
        assert finding.verdict is Verdict.INCONCLUSIVE
        assert "pip install 'undrift[text]'" in finding.why
    others = [f for f in report.findings if str(f.measurement.detail.get("column")).startswith("note.w")]
    assert [f.verdict for f in others] == [Verdict.PASS, Verdict.PASS], "the words are judged as ever"


def test_languages_that_are_asked_for_by_name_need_a_reference(reference: dict[str, Reference]) -> None:
    old = {name: known for name, known in reference.items() if name != "note.language"}
    problems = untold(["note"], old)
    assert untold(["note"], reference) == {}

    def told(**asked: Any) -> list[str]:
        found = judge_untold(Monitor(name="m", kind="drift", **asked), problems, old, START)
        return [f.why for f in found]

    assert told() == []
    assert told(columns=("note",)) == []
    assert told(columns=("note.language",)) == [
        "note.language: not judged, the version has no reference of it: train it where undrift[text] is installed"
    ]


def test_other_monitors_see_no_languages_so_none_can_go_missing(
    packed: Packed, reference: dict[str, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MOST_OF_A_DAY", 10)
    rows = captured(20, first=-12)
    scene = Scene(interface=INTERFACE, rows=rows, version=1, reference=reference, vocabularies=packed.vocabularies)
    monitors = (Monitor(name="rows", kind="integrity"), Monitor(name="answers", kind="silent"))
    report = watch(monitors, scene, {}, START + 8 * DAY)
    assert report.verdict is Verdict.PASS, report.to_text()
