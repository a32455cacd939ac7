"""The same on a running system: the copy is served and judged by real processes, which end with the command."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from sklearn.datasets import load_breast_cancer

from undrift import lifecycle, releases
from undrift.app.init import init
from undrift.errors import SettingsError
from undrift.finding import Window
from undrift.ids import to_micros
from undrift.project import Project, open_project
from undrift.rehearse.drill import rehearse
from undrift.rehearse.live import LiveStage, live_settings
from undrift.rehearse.material import _newest, gather, gather_days
from undrift.rehearse.scenario import Row, Scenario
from undrift.rehearse.scratch import DAY, START, copy_project
from undrift.rehearse.silent_garbage import SilentGarbage
from undrift.rehearse.upstream_corrupts import UpstreamCorrupts

UNDRIFT = (sys.executable, "-m", "undrift.app.cli")


@pytest.fixture(name="tumours", scope="session")
def _tumours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that init makes of a table without keys or times, with its champion; not to be changed."""
    folder = tmp_path_factory.mktemp("live")
    found: Any = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in found.feature_names[:8]]
    table = pa.table({**{n: found.data[:, i] for i, n in enumerate(names)}, "benign": found.target})
    pyarrow.csv.write_csv(table, folder / "tumours.csv")
    init(folder / "tumours", folder / "tumours.csv", "benign")
    with open_project(folder / "tumours") as project:
        assert lifecycle.train(project, actor="person:ann").version == 1
        releases.promote(project, actor="person:ann", why="the first", force=True)
    return folder / "tumours"


def ran(folder: Path, scratch: Path, *words: str) -> tuple[int, dict[str, Any]]:
    command = [*UNDRIFT, "rehearse", *words, "--json"]
    # settings of the one who calls are no settings of the copy
    environ = {**os.environ, "TMPDIR": str(scratch), "UNDRIFT_SERVE__WORKERS": "3"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=500)
    assert done.stdout, done.stderr
    assert list(scratch.glob("undrift-rehearse-*")) == [], "the scratch folder is gone"
    return done.returncode, json.loads(done.stdout)


def two_stories(folder: Path, scratch: Path, rows: int) -> dict[str, Any]:
    """A silent failure and a business that suffers, live and beside their controls."""
    code, played = ran(
        folder, scratch, "silent_garbage", "hurts_business", "--live",
        "--quiet-days", "2", "--days", "9", "--rows", str(rows),
    )  # fmt: skip
    silent, business = played["outcomes"]
    assert (silent["detected"], silent["days"], silent["by"]) == (True, 1, "monitor answers")
    assert 0.75 * rows <= silent["exposed"] <= silent["predictions"] == rows
    assert (business["detected"], business["by"]) == (True, "the rollout")
    assert "rehearsed_worth" in business["what"], "business events came in by POST, and name the units that were served"
    assert [(c["name"], c["false_alarms"]) for c in played["controls"]] == [
        ("the quiet days", []), ("nothing wrong", []), ("a sound candidate", []),
    ]  # fmt: skip
    assert code == 0
    return played


@pytest.mark.timeout(600)
def test_two_stories_are_played_live_beside_their_controls(tumours: Path, tmp_path: Path) -> None:
    business = two_stories(tumours, tmp_path, 60)["outcomes"][1]
    assert 0 < business["exposed"] < business["predictions"] / 4, "a tenth of the units, as the rollout declares"


@pytest.mark.timeout(600)
def test_a_table_with_keys_times_and_categories_is_played_live(tmp_path: Path) -> None:
    """Whole-numbered keys: a label has to find its own prediction among those of all days."""
    rng = np.random.default_rng(1)
    place, size = rng.choice(["north", "south", "east"], 900), rng.normal(10, 2, 900)
    table = pa.table(
        {
            "order": np.arange(900),
            "at": pa.array(np.datetime64("2025-01-01", "us") + np.arange(900) * np.timedelta64(3600 * 10**6, "us")),
            "place": place,
            "size": size,
            "late": (size + 3 * (place == "north") + rng.normal(0, 1, 900) > 11).astype(int),
        }
    )
    pyarrow.csv.write_csv(table, tmp_path / "orders.csv")
    init(tmp_path / "orders", tmp_path / "orders.csv", "late", key="order", time="at")
    with open_project(tmp_path / "orders") as project:
        assert lifecycle.train(project, actor="person:ann").version == 1
        releases.promote(project, actor="person:ann", why="the first", force=True)
        declared = project.applied().model()
        material = gather(project, declared, 1)
        copy_project(project, declared, tmp_path / "copy", live_settings())
    stage = LiveStage(tmp_path / "copy", declared.name, material, per_day=120, seed=1)
    try:
        for _ in range(2):
            stage.play()
        stage.day = 12  # of its rows one is the twelfth of the first day, if days and places run into each other
        stage.begin(SilentGarbage(), 1.0)
        stage.play()
        rows = stage.project.lake.scan("predictions_orders").to_pylist()
        told = {row["prediction_id"] for row in stage.project.lake.scan("labels_orders").to_pylist()}
        known = [float(row["score"]) for row in rows if row["event_time"] >= START + 12 * DAY]
    finally:
        stage.close()
    assert len({row["prediction_id"] for row in rows}) == len(rows) == 3 * 120, "no two rows have one key"
    assert told
    assert told <= {row["prediction_id"] for row in rows}
    assert max(known.count(score) for score in set(known)) > 100, "the scenario's answers were planted"


@pytest.mark.timeout(600)
def test_what_is_not_seen_live_ends_with_1_and_the_contract_speaks_by_http(tumours: Path, tmp_path: Path) -> None:
    code, played = ran(
        tumours, tmp_path, "world_changes", "corner_case", "--live", "--quiet-days", "1", "--days", "1", "--rows", "150"
    )
    seen = {each["scenario"]: each for each in played["outcomes"]}
    assert not seen["world_changes"]["detected"], "one day shows no drift"
    assert seen["corner_case"]["by"] == "the contract"
    assert seen["corner_case"]["exposed"] > 0
    assert code == 1


def children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry))
    return found


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def waited(what: Any, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def begun(folder: Path, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [*UNDRIFT, "rehearse", "silent_garbage", "--live", "--rows", "60"]
    child = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "TMPDIR": str(scratch)}, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_command_ends_what_it_started(tumours: Path, tmp_path: Path, number: signal.Signals) -> None:
    with begun(tumours, tmp_path) as child:
        groups = waited(
            lambda: pids if len(pids := children(child.pid)) == 2 else None
        )  # each leads a group of its own
        waited(lambda: list(tmp_path.glob("*/base/.undrift/spool/*")))  # the server has begun to answer
        child.send_signal(number)
        _, said = child.communicate(timeout=120)
        assert child.returncode == 130
        assert b"Traceback" not in said
    assert [group for group in groups if alive(group)] == []
    assert list(tmp_path.glob("undrift-rehearse-*")) == []


def test_features_are_looked_up_on_days_as_they_were_and_a_feed_that_breaks_reaches_them(
    project: Project, tmp_path: Path
) -> None:
    declared = project.applied().model()
    material = gather_days(project, declared, 4, 1)
    assert material.as_was
    assert [row.at for row in material.rows] == sorted(row.at for row in material.rows if row.at)
    copy_project(project, declared, tmp_path / "copy", live_settings(), as_was=material.start)
    stage = LiveStage(tmp_path / "copy", declared.name, material, per_day=60, seed=1)
    corrupts = UpstreamCorrupts()
    try:
        for _ in range(2):
            stage.play()
        stage.begin(corrupts, 1.0)
        stage.play()
        assert stage.off == ""
        rows = stage.project.lake.scan("predictions_rides").to_pylist()
    finally:
        stage.close()
    onset = material.start + 2 * DAY
    mine = {(row.at, row.inputs["zone"], row.inputs["distance"]): row for row in material.rows}
    assert len(mine) == len(material.rows), "rows can be told apart"
    assert len(rows) == 3 * 60
    for served in rows:
        own = mine[served["event_time"], served["inputs"]["zone"], served["inputs"]["distance"]]
        assert served["inputs"]["at"] == served["event_time"] == own.at
        assert served["features"]["late_3d"] == pytest.approx(own.features["late_3d"], abs=1e-12)
        assert served["features"]["weekend"] == own.features["weekend"]
        rain, sound = served["features"]["rain"], own.features["rain"]
        if served["event_time"] < onset:
            assert rain == sound
        elif served["event_time"] >= onset + timedelta(hours=12):  # what was told before the onset is true until then
            assert rain == (None if sound is None else pytest.approx((sound - 32) * 5 / 9))


@pytest.mark.parametrize(
    ("days", "told", "fault", "begins"),
    [
        (3, (-2.0, 20.0), None, 7),
        (4, (-2.0, 20.0), None, 2),  # the seventh day has no rows
        (3, (-2.0, 9.5), None, 3),  # the sources end in the tenth
        (4, (2.0, 20.0), None, None),  # they begin too late for the day before
        (7, (-2.0, 20.0), None, None),
        (3, (-2.0, 20.0), (8.2, 8.4), 3),  # an hour of a day is enough
        (3, (-2.0, 20.0), (6.9, 7.0), 3),  # so it is on the day before, whose features are looked up
        (3, (-2.0, 20.0), (5.0, 6.0), 7),
        (3, (-2.0, 20.0), (1.5, 12.0), None),
    ],
)
def test_the_newest_days_in_a_row_with_rows_and_sources_and_without_a_fault_are_played(
    days: int, told: tuple[float, float], fault: tuple[float, float] | None, begins: int | None
) -> None:
    rows = [
        Row(inputs={}, features={}, label="1", at=START + day * DAY + DAY / 8) for day in (0, 1, 2, 3, 4, 5, 7, 8, 9)
    ]
    first, last = (START + at * DAY for at in told)
    faults = [] if fault is None else [Window(START + fault[0] * DAY, START + fault[1] * DAY)]
    found = _newest(rows, days, (first, last), DAY, faults)
    assert found == (None if begins is None else START + begins * DAY)


def test_too_few_days_to_be_played_as_they_were_are_told(project: Project) -> None:
    with pytest.raises(SettingsError, match="it needs 37 days in a row") as refused:
        rehearse(project, ("silent_garbage",), live=True)
    assert "--quiet-days" in refused.value.hint


@pytest.mark.timeout(600)
def test_a_project_with_views_is_rehearsed_live(trained: Path, tmp_path: Path) -> None:
    assert "days from 2024-01-" in two_stories(trained, tmp_path, 100)["origin"]


class Hours(Scenario):
    """A computed feature is another when serving."""

    name = "hours"

    def change(self, rows: list[Row], stage: Any, strength: float) -> list[Row]:
        for row in rows:
            row.features["half"] = 1.0
            row.put("half", 2.0)
        return rows


def test_what_no_request_can_carry_is_not_played_and_says_why(tumours: Path, tmp_path: Path) -> None:
    with open_project(tumours) as project:
        declared = project.applied().model()
        copy_project(project, declared, tmp_path / "copy", live_settings())
        stage = LiveStage(tmp_path / "copy", declared.name, gather(project, declared, 1), per_day=40, seed=1)
    try:
        stage.begin(Hours(), 1.0)
        stage.play()
        assert "the server computes it anew" in stage.off
        assert (stage.day, stage.sent) == (0, 0), "and nothing was started for it"
    finally:
        stage.close()


@pytest.mark.timeout(300)
def test_labels_whose_time_had_not_come_are_told_in_the_runs_that_begin_where_the_quiet_days_end(
    tumours: Path, tmp_path: Path
) -> None:
    with open_project(tumours) as project:
        declared = project.applied().model()
        material = gather(project, declared, 1)
        copy_project(project, declared, tmp_path / "base", live_settings())
    first = LiveStage(tmp_path / "base", declared.name, material, per_day=40, seed=1)
    try:
        first.play()
        waiting = list(first._untold)
        assert waiting, "the labels of a day's evening come on a later day"
    finally:
        first.close()
    shutil.copytree(tmp_path / "base", tmp_path / "run")
    stage = LiveStage(tmp_path / "run", declared.name, material, per_day=40, seed=1, day=1)
    try:
        assert stage._untold == waiting
        while stage._untold[0] == waiting[0]:
            stage.play()
        told = {row["prediction_id"] for row in stage.project.lake.scan("labels_tumours").to_pylist()}
        assert {label["id"] for at, label in waiting if at <= to_micros(stage.now)} <= told
    finally:
        stage.close()
