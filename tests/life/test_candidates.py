"""A candidate on its way in: rows checked and kept, classes in order, a rival asked the same, versions numbered."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from undrift.assembly import read_table
from undrift.candidates import classes_of, draft_of_version, judge_by_gate, mirror_version, prepare, score_with
from undrift.data import dataset
from undrift.develop.performance import Scored
from undrift.errors import ContractError, DataError
from undrift.finding import Report
from undrift.inference.predictor import load
from undrift.project import Project, open_project

from living import ME, train_as  # isort: skip
from town import PER_DAY, TRAINED_DAYS  # isort: skip


def rides(project: Project) -> pa.Table:
    return read_table(project.root, "rides.parquet")


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_rows_that_break_the_contract_are_kept_apart_and_counted(project: Project) -> None:
    table = rides(project)
    distances = [50.0, -1.0, *table["distance"].to_pylist()[2:]]
    prepared = prepare(project, project.model(), with_column(table, "distance", distances), actor=ME, name="odd")
    assert (prepared.rows, prepared.quarantined) == (table.num_rows - 2, 2)
    assert prepared.table.column_names[-3:] == ["rain", "late_3d", "weekend"]
    assert prepared.base == ("ride", "at", "zone", "distance", "quote", "late")
    name, _, version = prepared.dataset.partition("@")
    assert dataset.load(project.lake, name, int(version)).num_rows == prepared.rows
    payload = prepared.draft.payload
    assert (payload["rows"], payload["quarantined"], payload["hash"]) == (prepared.rows, 2, prepared.dataset_hash)
    assert prepared.draft.why == f"{prepared.rows} rows kept the contract, 2 are in quarantine"
    assert project.journal.get("dataset", prepared.dataset) is None, "the caller records it with what came of it"


def test_rows_of_which_none_keeps_the_contract_are_refused_with_the_reason(project: Project) -> None:
    table = rides(project).slice(0, 50)
    with pytest.raises(ContractError, match="none of 50 rows keeps the contract 'rides'") as caught:
        prepare(project, project.model(), with_column(table, "distance", [99.0] * 50), actor=ME)
    assert any("distance" in finding for finding in caught.value.findings)
    assert caught.value.hint


def test_rows_without_the_label_are_refused(project: Project) -> None:
    with pytest.raises(DataError, match="the data has no column 'late' to learn; it has ride, at, zone"):
        prepare(project, project.model(), rides(project).drop_columns(["late"]), actor=ME)


def test_classes_are_those_declared_or_those_seen_in_order(project: Project) -> None:
    declared = project.model()
    seen = msgspec.structs.replace(declared, classes=())
    table = pa.table({"late": [10, 2, None, 1, 2]})
    assert classes_of(declared, table) == ("0", "1")
    assert classes_of(seen, table) == ("1", "2", "10"), "numbers as numbers, nulls left out"
    assert classes_of(seen, pa.table({"late": ["no", "yes", "no"]})) == ("no", "yes")
    assert classes_of(seen, pa.table({"late": [True, False]})) == classes_of(seen, pa.table({"late": [False, True]}))
    assert classes_of(msgspec.structs.replace(seen, task="regression"), table) == ()


def scored(project: Project, version: int, table: pa.Table) -> tuple[Scored, Any]:
    folder = project.bundle_path(project.version("rides", version)["revision"])
    predictor = load(folder, project.settings.trust)
    interface = predictor.manifest.interface
    like = Scored(
        interface=interface, table=table, label=table["late"].to_numpy(), raw=None, time=table["at"].to_numpy()
    )  # type: ignore[arg-type]
    return score_with(predictor, interface, table, like), predictor.manifest


def test_another_model_is_asked_on_the_same_rows(project: Project) -> None:
    table = prepare(project, project.model(), rides(project), actor=ME).table.slice(0, 300)
    found, _ = scored(project, 1, table)
    assert found.raw.shape == (300, 2)
    assert found.raw.sum(axis=1) == pytest.approx(1.0)
    assert found.table is table
    far, near = (found.raw[[d > 9 for d in table["distance"].to_pylist()], 1].mean(), found.raw[:, 1].mean())
    assert far > near, "long rides are late more often, and the second column is the second class"


def test_the_champion_is_the_rival_once_there_is_one(project: Project) -> None:
    report = train_as(project, "wide").report
    assert report.facts["rival"] == "champion, version 1"
    first = msgspec.convert(project.version("rides", 1)["gate"], Report)
    assert first.facts["rival"] == "the baseline"


def test_a_champion_with_other_features_is_asked_with_its_own(project: Project) -> None:
    """The candidate has no views any more; the champion still gets the ones it was trained with."""
    text = (project.root / "declarations.py").read_text()
    (project.root / "declarations.py").write_text(text.replace("views=(rain, record)", "views=()"))
    with open_project(project.root) as changed:
        from living import train  # isort: skip

        done = train(changed)
        assert done.report.facts["rival"] == "champion, version 1"
        assert done.version is None or done.version == 2
        assert [given.name for given in changed.manifest(changed.version("rides")["revision"]).interface.inputs]


def test_a_gate_measures_what_it_was_asked_to(project: Project) -> None:
    strict = "segment_minimum=100, segment_margin=0.1, latency_ms=1000, absent='answer', compiled='required'"
    report = train_as(project, "wide", gate=strict).report
    names = {finding.measurement.name for finding in report.findings}
    assert {"latency_p99_ms", "unanswered_when_absent"} <= names
    assert all(finding.measurement.problem == "" for finding in report.findings)
    prepared = prepare(project, project.model(), rides(project), actor=ME)
    candidate, manifest = scored(project, 2, prepared.table.slice(0, 500))
    bundle = project.version("rides", 2)["bundle"]
    again = judge_by_gate(project, project.model(), candidate, manifest, bundle, prepared.base, None, subject="again")
    assert again.facts["rival"] == "champion, version 1"


def draft(project: Project, revision: str) -> Any:
    report = Report(title="gate", subject="rides")
    return draft_of_version(
        project, "rides", revision=revision, bundle="b" * 64, run_id="", dataset_label="", metrics={}, report=report,
        actor=ME, source="train",
    )  # fmt: skip


def test_versions_count_up_and_a_revision_becomes_one_once(project: Project) -> None:
    second = draft(project, "r-two")
    assert second.payload["version"] == 2
    assert draft(project, "r-two").key == second.key
    (stored,) = project.journal.record([second])
    assert draft(project, "r-three").payload["version"] == 3
    assert project.journal.record([draft(project, "r-two")]) == [stored]


def test_a_registry_that_is_away_loses_no_version(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    (project.root / ".undrift" / "mlflow.db").write_bytes(b"no database")
    with caplog.at_level(logging.WARNING, "undrift"):
        mirror_version(project, draft(project, "r-two"))
    assert "MLflow could not" in caplog.text


def test_all_days_are_there(project: Project) -> None:
    assert rides(project).num_rows == TRAINED_DAYS * PER_DAY
