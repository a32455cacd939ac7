"""What goes wrong around undrift is one clear line and an exit code, by the real commands; put right, all goes on."""

from __future__ import annotations

import os
import shlex
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest

from undrift import releases
from undrift.app.terminal import STATE, USER
from undrift.errors import CorruptModelError
from undrift.ids import to_micros
from undrift.project import Project, open_project

from living import ME, Service, copy_of, send_day  # isort: skip
from town import DAY, LIVE, PER_DAY, TRAINED_DAYS, Town, write_declarations  # isort: skip


@pytest.fixture
def folder(trained_twice: Path, tmp_path: Path) -> Path:
    with copy_of(trained_twice, tmp_path / "town"):
        return tmp_path / "town"


def run(folder: Path, *words: str, most_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """One command as a process; ``most_bytes``: no file may grow beyond, as if the disk were full."""
    command = [sys.executable, "-m", "undrift.app.cli", *words, "-C", str(folder)]
    if most_bytes is not None:
        command = ["bash", "-c", f"ulimit -f {most_bytes // 1024}; exec {shlex.join(command)}"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=120)


def refused(code: int, folder: Path, *words: str, most_bytes: int | None = None) -> str:
    """What a command that must fail says: one line, and at most one more that says what to do."""
    done = run(folder, *words, most_bytes=most_bytes)
    said = [line for line in done.stderr.splitlines() if not line.startswith('{"at"')]
    lines = [line for line in said if line.startswith("undrift: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert said.index(lines[0]) >= len(said) - 3, f"the last thing that is said: {said}"
    return lines[0]


def test_a_full_disk_stops_a_training_and_it_can_be_done_again(untrained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(untrained, tmp_path / "town")
    folder = tmp_path / "town"
    write_declarations(folder)
    assert "cannot be used" in refused(STATE, folder, "train", most_bytes=64 * 1024)
    done = run(folder, "train")
    assert done.returncode == 0, done.stderr
    with open_project(folder) as project:
        assert [row["version"] for row in project.versions("rides")] == [1]
        project.journal.verify()
        weather = project.lake.scan("source_weather")
        assert weather is not None
        assert weather.num_rows == TRAINED_DAYS * 12, "what had been loaded before was not loaded again"


def test_a_full_disk_stops_the_worker_and_nothing_is_lost(folder: Path) -> None:
    day = Town(TRAINED_DAYS + 1).day(LIVE)
    with open_project(folder) as project:
        service = Service(project)
        send_day(service.post, day)
        service.post("/v1/watermark", {"event_time": to_micros(LIVE + DAY)})
        service.close()
    refused(STATE, folder, "work", "--once", most_bytes=8 * 1024)
    done = run(folder, "work", "--once")
    assert done.returncode == 0, done.stderr
    with open_project(folder) as project:
        rows = project.lake.scan("predictions_rides")
        assert rows is not None
        assert Counter(rows["prediction_id"].to_pylist()) == Counter(ride["ride"] for ride in day.rides)
        assert rows.num_rows == PER_DAY
        ticks = [event.at for event in project.journal.events(kinds=("tick.judged",))]
        assert ticks == [LIVE + DAY], "the watermark that was waiting was done, too"
        project.journal.verify()


@pytest.mark.parametrize("command", ["serve", "work", "train", "plan", "status"])
def test_a_broken_toml_is_told_by_every_command(folder: Path, command: str) -> None:
    (folder / "undrift.toml").write_text("[serve\nport = 1")
    line = refused(USER, folder, command)
    assert "undrift.toml" in line
    assert "is not valid TOML" in line


def test_a_data_file_that_is_missing_is_named(folder: Path) -> None:
    (folder / "rides.parquet").unlink()
    assert f"the data file {folder / 'rides.parquet'} does not exist" in refused(USER, folder, "train")


def test_data_of_another_shape_are_told_by_the_rule_they_break(folder: Path) -> None:
    rides = pyarrow.parquet.read_table(folder / "rides.parquet")
    pyarrow.parquet.write_table(rides.rename_columns({"distance": "miles"}), folder / "rides.parquet")
    line = refused(USER, folder, "train")
    assert "none of 4000 rows keeps the contract 'rides'" in line
    done = run(folder, "train")
    assert "distance" in done.stderr


def test_a_database_of_a_newer_undrift_is_left_alone(folder: Path) -> None:
    file = folder / ".undrift" / "undrift.db"
    with sqlite3.connect(file) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version + 1}")
    database.close()
    for words in (("status",), ("work", "--once"), ("train",)):
        line = refused(STATE, folder, *words)
        assert "newer" in line
    with sqlite3.connect(file) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (version + 1,)
    database.close()


def test_a_port_in_use_is_told_with_the_setting_that_changes_it(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(STATE, folder, "serve", "--port", str(port))
    assert f"port {port} on 127.0.0.1 is in use by another process" in line


def spoil(project: Project, version: int) -> None:
    """One byte of a model's file is another one."""
    file = project.bundle_path(project.version("rides", version)["revision"]) / "model.onnx"
    file.parent.chmod(0o700)
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_a_corrupt_model_file_is_not_scored_with(folder: Path) -> None:
    with open_project(folder) as project:
        spoil(project, 1)
    assert "are not the ones that were stored" in refused(STATE, folder, "score", str(folder / "rides.parquet"))


def test_a_corrupt_model_file_gets_no_traffic_and_no_event_says_so(folder: Path) -> None:
    with open_project(folder) as project:
        spoil(project, 2)
        before = len(project.journal.events())
    for words in (("promote", "--version", "2"), ("roll-out", "--version", "2")):
        assert "are not the ones that were stored" in refused(STATE, folder, *words)
    with open_project(folder) as project:
        assert len(project.journal.events()) == before
        with pytest.raises(CorruptModelError):
            releases.promote(project, version=2, actor=ME)
        assert project.route("rides")["champion_version"] == 1  # type: ignore[index]


def test_declarations_that_are_missing_or_wrong_are_told(folder: Path) -> None:
    (folder / "declarations.py").write_text("import undrift as ud\nmodel = ud.Model(\n")
    assert "SyntaxError: '(' was never closed (declarations.py:2)" in refused(USER, folder, "plan")
    (folder / "declarations.py").unlink()
    assert "declarations.py does not exist, but undrift.toml names it" in refused(USER, folder, "plan")
