"""The edge: exit codes, one clear line for what a user did, no trace, and nothing heavy loaded for a help text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from undrift.app.cli import main
from undrift.app.terminal import EXIT_CODES

HEAVY = {"mlflow", "duckdb", "sklearn", "pyarrow", "numpy", "deltalake"}


def run(*words: str, stdin: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "undrift.app.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=stdin, **more)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stderr; there is never a trace in it."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_help_loads_nothing_heavy() -> None:
    program = "import sys; from undrift.app.cli import main; code = main(['--help']); print(code, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    code, *loaded = done.stdout.splitlines()[-1].split()
    assert code == "0"
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(("own", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_openmp_sleep_while_they_wait_also_in_children_unless_told_otherwise(
    own: str | None, expected: str
) -> None:
    """Set before anything that would read it is loaded, and found by a child of `undrift dev`."""
    program = (
        "import sys\n"
        "from undrift.app.cli import main\n"
        "main(['--version'])\n"
        "assert not {'numpy', 'sklearn', 'onnxruntime'} & set(sys.modules)\n"
        "from undrift.app.dev import Child, run\n"
        "child = (sys.executable, '-c', 'import os; print(os.environ[\"OMP_WAIT_POLICY\"])')\n"
        "run([Child('work', child)], lambda name, line: print(name, line))\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environ |= {} if own is None else {"OMP_WAIT_POLICY": own}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environ)
    assert f"work {expected}" in done.stdout.splitlines(), done.stderr


def test_help_lists_every_command_once_by_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in ("init", "adopt", "plan", "apply", "train", "gate", "promote", "roll-out", "roll-back", "approve",
                    "pause", "resume", "abort", "retrain", "dev", "serve", "work", "score", "status", "history", "why",
                    "check", "config", "demo"):  # fmt: skip
        assert [line.split()[0] for line in shown.splitlines() if line.strip()].count(command) == 1, command
    for code in EXIT_CODES:
        assert f"{code} {EXIT_CODES[code]}" in shown


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from undrift import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"undrift {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no such command 'trian'"),
        (["train", "--colour"], "no such option: --colour"),
        (["gate", "--version", "x"], "should be a valid integer"),
        (["init"], "missing argument"),
    ],
)
def test_a_wrong_call_is_one_line_and_a_hint(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    first, second = told(capsys).splitlines()
    assert first.startswith("undrift: ")
    assert message in first
    assert "--help` shows how it is called" in second


def test_outside_a_project_every_command_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["status"], ["train"], ["why", "01J"], ["serve"], ["config"], ["dev"], ["work"], ["plan"]):
        assert main([*words, "-C", str(tmp_path)]) == 2, words
        said = told(capsys)
        assert said.startswith(f"undrift: no undrift.toml in {tmp_path}"), said
        assert "undrift init" in said


def test_with_json_an_error_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "-C", str(tmp_path), "--json"]) == 2
    said = json.loads(told(capsys))
    assert said["exit_code"] == 2
    assert "undrift init" in said["hint"]


def test_a_broken_toml_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "undrift.toml").write_text("[serve\nport = 1")
    assert main(["config", "-C", str(tmp_path)]) == 2
    assert "is not valid TOML" in told(capsys)


def test_an_event_kind_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "undrift.toml").write_text("")
    assert main(["history", "--kind", "model.exploded", "-C", str(tmp_path)]) == 2
    assert "revision.promoted" in told(capsys)


def test_config_tells_where_a_value_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "undrift.toml").write_text("[serve]\nport = 9000\n")
    monkeypatch.setenv("UNDRIFT_SERVE__WORKERS", "3")
    assert main(["config", "serve", "-C", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["serve.port"] == {"value": 9000, "origin": str(tmp_path / "undrift.toml")}
    assert found["serve.workers"] == {"value": 3, "origin": "UNDRIFT_SERVE__WORKERS"}
    assert found["serve.host"]["origin"] == "default"
    assert main(["config", "serve.prot", "-C", str(tmp_path)]) == 2
    assert "serve.port" in told(capsys)


def test_an_error_nobody_foresaw_is_short_and_keeps_its_trace_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import undrift.settings

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(undrift.settings, "find", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["config"]) == 70
    said = told(capsys)
    assert said.startswith("undrift: this should not have happened: ZeroDivisionError: a bug")
    (file,) = tmp_path.glob("undrift-error-*.txt")
    assert str(file) in said
    assert "Traceback" in file.read_text()
    assert main(["--debug", "config"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_what_the_operating_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import undrift.settings

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/data/undrift.db")

    monkeypatch.setattr(undrift.settings, "find", full)
    assert main(["config"]) == 3
    assert told(capsys) == "undrift: No space left on device: /data/undrift.db.\n"


def test_an_interrupt_is_130_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import undrift.settings

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(undrift.settings, "find", interrupted)
    assert main(["config"]) == 130
    told(capsys)


def test_a_reader_that_went_away_ends_the_command_in_silence(tmp_path: Path) -> None:
    (tmp_path / "undrift.toml").write_text("")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "undrift.app.cli", "config", "-C", str(tmp_path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141
