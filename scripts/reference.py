"""Write docs/reference/cli.md from the help texts of the commands (`make reference`); `--check` only compares.

Duck-typed: typer carries its own copy of click, so click's classes are not those of the commands.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main

from undrift.app.cli import app
from undrift.app.terminal import EXIT_CODES

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
HEAD = """# Commands

<!-- written by `make reference` from the help texts; change those -->

Every command takes `--help` and `--json` (one document instead of text). Results go to stdout,
everything said on the way to stderr.

| exit code | means |
|---|---|
"""


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The command, or all below it, each with the words that call it."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    else:
        for name in sorted(children):
            if not children[name].hidden:
                yield from commands(children[name], f"{path} {name}")


def section(path: str, command: Any) -> str:
    """One command: its call, its help, its arguments and options."""
    context = typer.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    told = inspect.cleandoc(command.help or "").replace("\b\n", "").strip()
    lines = [f"## `{path}`", "", "```text", usage, "```", "", told, ""]
    parameters = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    if parameters:
        lines += ["| option or argument | meaning |", "|---|---|", *(row(p, context) for p in parameters), ""]
    return "\n".join(lines)


def row(parameter: Any, context: Any) -> str:
    """One line of the table: how it is written, what it means, what it is when not given."""
    if parameter.param_type_name == "option":
        written = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    else:
        written = "`" + " ".join(parameter.get_usage_pieces(context)) + "`"
    meaning = " ".join((getattr(parameter, "help", None) or "").split())
    default = parameter.default
    if default not in (None, False, "", (), []) and not callable(default) and "default" not in meaning:
        meaning += f" Default: `{default}`."
    cells = [cell.replace("|", "\\|") for cell in (written, meaning)]
    return f"| {cells[0]} | {cells[1]} |"


def document() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    codes = "".join(f"| {code} | {text} |\n" for code, text in EXIT_CODES.items())
    return (
        "\n".join([HEAD + codes, *(section(path, command) for path, command in commands(root, "undrift"))]).rstrip()
        + "\n"
    )


if __name__ == "__main__":
    page = document()
    if "--check" not in sys.argv:
        TARGET.write_text(page, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
        sys.exit(f"docs/reference/{TARGET.name} is not what the help texts say: run `make reference`")
