from __future__ import annotations

from datetime import UTC, datetime

import pytest

from undrift import errors
from undrift.app import terminal

NOW = datetime(2013, 4, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-04-01", "2013-04-01T00:00:00+00:00"),
        ("2013-04-01T12:30", "2013-04-01T12:30:00+00:00"),
        ("2013-04-01T12:30:00+02:00", "2013-04-01T10:30:00+00:00"),
        ("2013-04-01T12:30:00Z", "2013-04-01T12:30:00+00:00"),
        ("36h", "2013-03-31T00:00:00+00:00"),
    ],
)
def test_a_moment_is_written_out_or_so_long_ago(text: str, expected: str) -> None:
    assert terminal.moment(text, now=NOW).isoformat() == expected


def test_what_is_no_moment_is_refused_with_how_to_write_one() -> None:
    with pytest.raises(errors.SettingsError, match="'yesterday' is no point in time") as caught:
        terminal.moment("yesterday", now=NOW)
    assert "2h" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "expected"), [("ann", "person:ann"), ("person:ann", "person:ann"), ("ci:nightly", "ci:nightly")]
)
def test_an_actor_is_a_person_unless_said_otherwise(given: str, expected: str) -> None:
    assert terminal.actor(given) == expected


def test_the_actor_is_the_user_who_runs_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "bea")
    assert terminal.actor("") == "person:bea"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConflictError("the gate did not pass"), 1),
        (errors.SettingsError("no undrift.toml"), 2),
        (errors.NotFoundError("no version 3"), 2),
        (errors.ContractError("no row keeps it"), 2),
        (errors.UntrustedModelError("a pickle"), 2),
        (errors.StateError("disk full"), 3),
        (errors.BrokenChainError("changed"), 3),
        (errors.ServeError("the port is taken"), 3),
        (errors.CorruptModelError("another hash"), 3),
        (OSError(28, "No space left on device"), 3),
        (RuntimeError("a bug"), 70),
    ],
)
def test_an_error_has_the_exit_code_of_who_can_mend_it(error: BaseException, code: int) -> None:
    assert terminal.exit_code(error) == code
    assert code in terminal.EXIT_CODES


def test_progress_is_drawn_only_where_somebody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("reading") as say:
        say("fitting")
    assert capfd.readouterr() == ("", "")


def test_json_has_sorted_keys_and_ends_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({"b": NOW, "a": 1}, lambda: "", json=True)
    assert capsys.readouterr().out == '{\n  "a": 1,\n  "b": "2013-04-01T12:00:00Z"\n}\n'


def test_text_from_outside_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({}, lambda: "[red]not red[/red] :smile:", json=False)
    assert capsys.readouterr().out == "[red]not red[/red] :smile:\n"
