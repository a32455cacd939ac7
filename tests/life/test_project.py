"""A project: what was applied is followed, time is that of the events, and what servers see follows from the log."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from undrift import lifecycle, releases
from undrift.errors import CorruptModelError, NotFoundError, SettingsError
from undrift.ids import FixedClock, to_micros
from undrift.project import Project, open_project
from undrift.settings import load

from living import ME, redeclared, train, train_as  # isort: skip
from town import LIVE  # isort: skip


def test_a_project_is_found_from_any_folder_below_it(untrained: Path, tmp_path: Path) -> None:
    with open_project(untrained / "undrift.toml") as project:
        assert project.settings.project.name == "town"
    (tmp_path / "below").mkdir()
    (tmp_path / "undrift.toml").write_text("")
    with open_project(tmp_path / "below") as project:
        assert project.root == tmp_path
    (tmp_path / "undrift.toml").unlink()
    with pytest.raises(SettingsError, match=r"no undrift\.toml in"):
        open_project(tmp_path / "below")


def test_opening_a_project_makes_nothing_and_reads_no_declarations(tmp_path: Path) -> None:
    (tmp_path / "undrift.toml").write_text("")
    with open_project(tmp_path):
        assert [file.name for file in tmp_path.iterdir()] == ["undrift.toml"]


def test_what_was_applied_is_followed_and_not_the_module(project: Project) -> None:
    applied = project.model()
    assert project.follow()
    assert project.model().hash == applied.hash
    assert not project.follow(), "nothing was applied since"
    with redeclared(project, train="wide") as changed:
        assert changed.model().train == "train:wide"
        assert not project.follow()
        assert project.model().train == "train:narrow"
        lifecycle.apply(changed, actor=ME)
    assert project.follow()
    assert project.model().train == "train:wide"
    assert set(project.declarations.sources) == {"weather", "arrivals"}
    assert project.declarations.histories == {"weather": "weather.parquet", "arrivals": "arrivals.parquet"}


def test_a_module_that_broke_since_does_not_stop_those_who_follow(project: Project) -> None:
    (project.root / "declarations.py").write_text("1 / 0")
    with open_project(project.root) as working:
        assert working.follow()
        assert working.model().name == "rides"


def test_time_is_the_watermark_of_the_events_or_else_the_clock(fresh: Project) -> None:
    wall = FixedClock(datetime(2031, 1, 1, tzinfo=UTC))
    with open_project(fresh.root, clock=wall) as project:
        assert project.now().now() == wall.now()
        project.journal.put_setting("watermark", to_micros(LIVE))
        assert project.now().now() == LIVE
    with Project(load(fresh.root / "undrift.toml", {"UNDRIFT_TIME__MODE": "wall"}), clock=wall) as project:
        assert project.now().now() == wall.now()


def test_a_version_is_found_by_number_by_revision_or_as_the_newest(project: Project) -> None:
    train_as(project, "wide")
    first, second = project.versions("rides")
    assert (first["version"], second["version"]) == (1, 2)
    assert project.version("rides") == second
    assert project.version("rides", 1) == project.version("rides", revision=first["revision"]) == first
    with pytest.raises(NotFoundError, match="model 'rides' has no version 7; registered: 1, 2"):
        project.version("rides", 7)
    with pytest.raises(NotFoundError, match="has no revision r-none"):
        project.version("rides", revision="r-none")
    with pytest.raises(NotFoundError, match="none yet"):
        project.version("trips")
    for look_up in (project.manifest, project.bundle_path):
        with pytest.raises(NotFoundError, match="no version is registered for revision 'r-none'"):
            look_up("r-none")


def test_the_routing_table_is_written_only_when_it_changed(project: Project) -> None:
    path = project.routing_path
    table = project.publish_routes()
    assert [(r.model, r.champion, r.candidate) for r in table.routes] == [
        ("rides", project.version("rides")["revision"], "")
    ]
    assert {view.name for view in table.views} == {"rain", "record"}
    long_ago = to_micros(LIVE) // 1_000_000
    os.utime(path, (long_ago, long_ago))
    project.publish_routes()
    assert path.stat().st_mtime == long_ago
    with redeclared(project, train="wide") as changed:
        lifecycle.apply(changed, actor=ME)
        os.utime(path, (long_ago, long_ago))
        train(changed)
        changed.publish_routes()
        assert path.stat().st_mtime == long_ago, "a version without traffic changes nothing for servers"
    releases.promote(project, actor=ME)
    assert path.stat().st_mtime > long_ago
    assert len(project.publish_routes().routes[0].revisions) == 2, "the former champion stays loaded"


def test_a_table_that_was_lost_is_written_again(project: Project) -> None:
    before = project.routing_path.read_bytes()
    project.routing_path.unlink()
    project.publish_routes()
    assert project.routing_path.read_bytes() == before


def test_a_bundle_that_is_not_what_was_registered_is_never_published(project: Project) -> None:
    before = project.routing_path.read_bytes()
    file = project.bundle_path(project.version("rides")["revision"]) / "model.onnx"
    file.parent.chmod(0o700)
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with (
        open_project(project.root) as again,
        pytest.raises(CorruptModelError, match="are not the ones that were stored"),
    ):
        again.publish_routes()
    assert project.routing_path.read_bytes() == before


def test_mlflow_mirrors_the_champion_and_its_absence_is_a_note(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    assert project.registry.alias("rides", "champion") == 1
    (project.root / ".undrift" / "mlflow.db").write_bytes(b"no database")
    train = train_as(project, "wide")
    assert train.version == 2
    assert "MLflow could not" in train.problem
    with open_project(project.root) as again, caplog.at_level(logging.WARNING, "undrift"):
        releases.promote(again, actor=ME)
        assert again.route("rides")["champion_version"] == 2  # type: ignore[index]
    assert "MLflow could not" in caplog.text


def test_the_projections_follow_from_the_log(project: Project) -> None:
    train_as(project, "wide")
    releases.roll_out(project, actor=ME)
    names = ("model", "sources", "version", "dataset", "route", "rollout", "incident", "retrain")
    before = {name: project.journal.items(name) for name in names}
    assert project.journal.verify() == len(project.journal.events())
    project.journal.rebuild()
    assert {name: project.journal.items(name) for name in names} == before


def test_describe_is_plain_values(project: Project) -> None:
    described = project.describe()
    assert described["models"]["rides"]["rollout"]["steps"] == [40, 70, 100]
    assert set(described["sources"]) == {"weather", "arrivals"}


def test_closing_twice_is_fine(project: Project) -> None:
    assert project.journal.events()
    project.close()
    project.close()


def test_a_clock_given_is_that_of_the_journal(fresh: Project) -> None:
    clock = FixedClock(datetime(2030, 1, 1, tzinfo=UTC))
    with open_project(fresh.root, clock=clock) as project:
        (event, *_) = lifecycle.apply(project, actor=ME)
        assert event.recorded_at == clock.now()
        assert event.at - clock.now() == timedelta()
