"""Every command is documented with the words of its own help, and every help teaches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PAGE = Path("docs/reference/cli.md")


@pytest.fixture(scope="module")
def commands(root: Path) -> dict[str, Any]:
    if not list((root / "src/undrift/app").glob("cli*.py")):
        pytest.skip("the command line is still to come")
    typer = pytest.importorskip("typer")
    found = dict(_below(typer.main.get_command(import_module("undrift.app.cli").app), "undrift"))
    assert len(found) > 5, f"hardly any command: {sorted(found)}"
    return found


def _below(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    for name, child in (children or {}).items():
        if not child.hidden:
            yield from _below(child, f"{path} {name}")


def test_every_command_is_documented(root: Path, commands: dict[str, Any]) -> None:
    page = (root / PAGE).read_text(encoding="utf-8")
    missing = [path for path in commands if f"## `{path}`" not in page]
    assert not missing, f"not in {PAGE}: {missing}; run `make reference`.py"


def test_the_reference_says_what_the_help_says(root: Path, commands: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, root / "scripts/reference.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_and_option_has_a_help_text(commands: dict[str, Any]) -> None:
    silent = [path for path, command in commands.items() if len((command.help or "").split()) < 4]
    for path, command in commands.items():
        silent += [
            f"{path} {parameter.name}"
            for parameter in command.params
            if not getattr(parameter, "hidden", False)
            and parameter.name != "help"
            and not getattr(parameter, "help", "")
        ]
    assert not silent, f"without help: {silent}"
