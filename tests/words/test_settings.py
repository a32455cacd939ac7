"""Settings: the environment over the file over the defaults, and nothing that is wrong goes by in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from undrift.errors import SettingsError
from undrift.settings import Settings, find, load, secret


def _load(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "undrift.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ)


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    settings = _load(tmp_path, "[serve]\nport = 9000\nworkers = 2\n", UNDRIFT_SERVE__PORT="9001", HOME="/nowhere")
    assert (settings.serve.port, settings.serve.workers, settings.serve.host) == (9001, 2, "127.0.0.1")
    origins = {name: origin for name, _, origin in settings.values()}
    assert origins["serve.port"] == "UNDRIFT_SERVE__PORT"
    assert origins["serve.workers"] == str(tmp_path / "undrift.toml")
    assert origins["serve.host"] == "default"
    assert settings.root == str(tmp_path)


def test_without_a_file_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(None, {})
    assert {origin for _, _, origin in settings.values()} == {"default"}
    assert settings.path(settings.stores.journal) == tmp_path / ".undrift" / "undrift.db"


def test_values_from_the_environment_take_the_type_of_the_setting(tmp_path: Path) -> None:
    settings = _load(tmp_path, "", UNDRIFT_TRUST__FORMATS="onnx, pickle", UNDRIFT_SERVE__DRAIN_SECONDS="2.5")
    assert settings.trust.formats == ("onnx", "pickle")
    assert settings.serve.drain_seconds == 2.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[serve]\nprot = 9000\n", r"unknown setting serve\.prot; did you mean 'port'\?"),
        ("[server]\nport = 9000\n", r"unknown section \[server\]; did you mean 'serve'\?"),
        (
            "[zzz]\n",
            r"unknown section \[zzz\]; known here: project, stores, time, serve, observe, work, alerts, ui, "
            r"explain, trust",
        ),
        ("serve = 3\n", "'serve' must be a section"),
        ('[serve]\nport = "many"\n', r"serve\.port = 'many': Expected `int`"),
        ("[serve]\nport = 9000.5\n", r"serve\.port = 9000\.5: Expected `int`"),
        ("[serve]\nport = 70000\n", r"serve\.port must be in 0\.\.65535"),
        ("[serve]\nport = -1\n", r"serve\.port must be in"),
        ("[serve]\nworkers = 0\n", r"serve\.workers = 0 must be a number above 0"),
        ("[serve]\npoll_seconds = nan\n", r"serve\.poll_seconds = nan must be a number above 0"),
        ("[work]\nlease_seconds = inf\n", r"work\.lease_seconds = inf must be a number above 0"),
        ('[serve]\ncapture = "maybe"\n', r"serve\.capture = 'maybe': Invalid enum value"),
        ('[time]\ntick = "soon"\n', r"time\.tick: 'soon' is no duration; write a number"),
        ('[time]\ntick = "0s"\n', r"time\.tick must be longer than nothing"),
        ("[serve\nport = 1\n", r"undrift\.toml is not valid TOML: .*line 1"),
        ("[serve]\nport = 1\nport = 2\n", "is not valid TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_name_and_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        _load(tmp_path, text)
    assert str(tmp_path / "undrift.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("UNDRIFT_SERVE__PRT", "1", r"UNDRIFT_SERVE__PRT: unknown setting serve\.prt; did you mean 'port'"),
        ("UNDRIFT_SERV__PORT", "1", r"unknown section \[serv\]"),
        ("UNDRIFT_SERVE_PORT", "1", "sets nothing; did you mean 'UNDRIFT_SERVE__PORT'"),
        ("UNDRIFT_SERVE__PORT", "eighty", r"UNDRIFT_SERVE__PORT: serve\.port = 'eighty'"),
        ("UNDRIFT_TIME__TICK", "1 year", r"UNDRIFT_TIME__TICK: time\.tick"),
    ],
)
def test_what_is_wrong_in_the_environment_is_said(tmp_path: Path, variable: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        _load(tmp_path, "", **{variable: value})


def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path) -> None:
    assert _load(tmp_path, "", UNDRIFT_FAULTS="/tmp/faults.json", UNDRIFTED="1").origins == {}


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "missing.toml", {})
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path, {})
    (tmp_path / "undrift.toml").write_bytes(b"\xff\xfe[serve]")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "undrift.toml", {})


def test_the_nearest_file_upwards_is_found(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"no undrift\.toml in .*(.|\n)*undrift init"):
        find(below)
    (tmp_path / "undrift.toml").write_text("")
    assert find(below) == tmp_path / "undrift.toml"
    (tmp_path / "a" / "undrift.toml").write_text("")
    assert find(below) == tmp_path / "a" / "undrift.toml"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:x/u.db", "/project/x/u.db"),
        ("sqlite://x/u.db", "/project/x/u.db"),
        ("file:../lake", "/lake"),
        ("x", "/project/x"),
        ("sqlite:/var/u.db", "/var/u.db"),
        ("sqlite:///var/u.db", "/var/u.db"),
        ("sqlite:////var/u.db", "/var/u.db"),
        ("/var/lake", "/var/lake"),
    ],
)
def test_relative_paths_start_at_the_project(url: str, path: str) -> None:
    assert Settings(root="/project").path(url) == Path(path)


def test_secrets_are_references(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush\n")
    assert secret("env:TOKEN", {"TOKEN": "t"}) == "t"
    assert secret(f"file:{tmp_path}/token") == "hush"
    with pytest.raises(SettingsError, match="TOKEN, which is not set"):
        secret("env:TOKEN", {})
    with pytest.raises(SettingsError, match="cannot be read"):
        secret(f"file:{tmp_path}/nothing")
    with pytest.raises(SettingsError, match="must be a reference") as caught:
        secret("hunter2", {})
    assert "hunter2" not in str(caught.value), "what may be the secret itself is not printed"


def test_a_secret_that_is_written_out_is_refused_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "undrift.toml"
    file.write_text('[alerts.sinks.oncall]\nkind = "pagerduty"\nsecret = "R0UT1NG"\n')
    with pytest.raises(SettingsError, match=r"alerts\.sinks\.oncall\.secret must be a reference") as caught:
        load(file, {})
    assert "R0UT1NG" not in str(caught.value)


def test_a_misspelt_filter_of_a_sink_is_refused_without_showing_the_others(tmp_path: Path) -> None:
    file = tmp_path / "undrift.toml"
    file.write_text('[alerts.sinks.oncall]\nkind = "slack"\nurl = "https://hooks/R0UT1NG"\nseverity = ["high"]\n')
    with pytest.raises(SettingsError, match="unknown field `severity`") as caught:
        load(file, {})
    assert "R0UT1NG" not in str(caught.value)
