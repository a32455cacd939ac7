"""What all commands share: options, exit codes, how results, errors and progress reach the terminal.

Results go to stdout, as text or as one JSON document; everything said on the way goes to stderr. No command stands
here, and nothing heavy is loaded: `undrift --help` must answer at once.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import msgspec
import typer

from undrift.errors import (
    ConflictError,
    CorruptModelError,
    DeadlineError,
    OverloadError,
    ServeError,
    SettingsError,
    StateError,
    UndriftError,
)
from undrift.ids import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "AsOption",
    "JsonOption",
    "ModelArgument",
    "ProjectOption",
    "QuantiseOption",
    "VersionOption",
    "WhyOption",
    "actor",
    "console",
    "exit_code",
    "moment",
    "progress",
    "report_error",
    "report_surprise",
    "show",
    "stop_with",
]

OK: Final = 0
REFUSED: Final = 1
"""A verdict other than PASS, or a step that is not allowed from here."""
USER: Final = 2
"""Something was asked for wrongly: an option, a file, a declaration, a name."""
STATE: Final = 3
"""A store, a file system, a port or a stored model is not as it must be."""
SURPRISE: Final = 70
"""An error nobody foresaw (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

EXIT_CODES: Final = {
    OK: "done, and every verdict is PASS",
    REFUSED: "a verdict is not PASS, or the step is refused",
    USER: "asked for wrongly: an option, a file, a name, a declaration",
    STATE: "a store, a disk, a port or a stored model is not as it must be",
    SURPRISE: "an error in undrift itself",
    INTERRUPTED: "interrupted",
}

ProjectOption = Annotated[
    Path, typer.Option("--project", "-C", metavar="DIR", help="The project's folder, or one below it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Which model; may be left out if there is one.")]
VersionOption = Annotated[
    int | None, typer.Option("--version", "-v", metavar="N", min=1, help="Which version; the newest if left out.")
]
AsOption = Annotated[
    str, typer.Option("--as", metavar="WHO", help="Who is acting, for the record; you ($USER) if left out.")
]
QuantiseOption = Annotated[
    bool, typer.Option("--quantise", help="Give a compiled network 8-bit weights, if it judges as well with them.")
]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, kept with the event.")]


def actor(given: str) -> str:
    """``person:ann`` from ``--as ann``, from ``--as person:ann``, or from the user who runs the command."""
    if given:
        return given if ":" in given else f"person:{given}"
    try:
        return f"person:{getpass.getuser()}"
    except (OSError, KeyError):  # a container's user may have no name
        return f"person:uid-{os.getuid()}"


def moment(text: str, *, now: datetime | None = None) -> datetime:
    """A point in time from ISO 8601 (UTC where no offset is written), or from a span that means so long ago.

    Raises
    ------
    SettingsError : it is neither.

    Examples
    --------
    >>> moment("2013-04-01T12:00").isoformat()
    '2013-04-01T12:00:00+00:00'
    >>> moment("2h", now=datetime(2013, 4, 1, 12, tzinfo=UTC)).isoformat()
    '2013-04-01T10:00:00+00:00'
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    try:
        return (now or datetime.now(UTC)) - duration(text)
    except ValueError as error:
        raise SettingsError(
            f"{text!r} is no point in time.",
            hint="Write 2013-04-01T12:00 (UTC), 2013-04-01T14:00+02:00, or 2h for ago.",
        ) from error


# -- results ----------------------------------------------------------------------------------------------------------


def console(*, stderr: bool = False) -> Console:
    """A rich console that reads no markup in what it is given, and wraps nothing when a program reads along."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def show(value: Any, text: Callable[[], RenderableType], *, json: bool) -> None:
    """Print a result: the value as JSON, or its rendering."""
    with piped():
        if json:
            plain = msgspec.json.encode(value, enc_hook=str, order="deterministic")
            printed = msgspec.json.format(plain, indent=2).decode() + "\n"
        else:
            screen = console()
            with screen.capture() as capture:  # rich would end the process by itself when the reader is gone
                screen.print(text())
            printed = capture.get()
        sys.stdout.write(printed)
        sys.stdout.flush()


@contextmanager
def piped() -> Iterator[None]:
    """Writing to a pipe whose reader went away (`undrift history | head`) ends the command in silence."""
    try:
        yield
    except BrokenPipeError:
        # the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None


def stop_with(code: int) -> None:
    """End the command with a code, if it is not 0."""
    if code:
        raise typer.Exit(code)


@contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that moves while something long is done; gives a function that changes its text.

    Nothing is drawn where nobody looks (no terminal).
    """
    screen = console(stderr=True)
    if not screen.is_terminal or screen.is_dumb_terminal:
        yield lambda line: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda line: bar.update(task, description=line)


@contextmanager
def counted(text: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr for rows that are counted; gives a function of how many are done, and of how many (or None)."""
    screen = console(stderr=True)
    if not screen.is_terminal or screen.is_dumb_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# -- errors -----------------------------------------------------------------------------------------------------------


def exit_code(error: BaseException) -> int:
    """The code a script sees for an error."""
    if isinstance(error, ConflictError):
        return REFUSED
    if isinstance(error, StateError | ServeError | CorruptModelError | OverloadError | DeadlineError | OSError):
        return STATE
    if isinstance(error, UndriftError):
        return USER
    return SURPRISE


def report_error(message: str, *, hint: str = "", findings: tuple[str, ...] = (), json: bool = False, code: int) -> int:
    """Say what is wrong on stderr: one line, the findings, the hint. Returns the code."""
    if json:
        told = {"error": message, "hint": hint, "findings": findings, "exit_code": code}
        lines = [msgspec.json.encode({k: v for k, v in told.items() if v}).decode()]
    else:
        lines = [f"undrift: {message}", *(f"  - {f}" for f in findings), *(f"  {h}" for h in hint.splitlines())]
    try:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    return code


def report_surprise(error: BaseException, *, debug: bool, json: bool) -> int:
    """An error nobody foresaw: a short message, the traceback in a file (or on stderr with ``--debug``)."""
    trace = "".join(traceback.format_exception(error))
    if debug:
        sys.stderr.write(trace)
        kept = "The traceback stands above."
    else:
        try:
            handle, name = tempfile.mkstemp(prefix="undrift-error-", suffix=".txt")
            with open(handle, "w", encoding="utf-8") as file:
                file.write(f"undrift {' '.join(sys.argv[1:])}\n\n{trace}")
            kept = f"Please report it with {name}; `undrift --debug ...` shows the traceback at once."
        except OSError:
            kept = "Please report it with what `undrift --debug ...` shows."
    summary = " ".join(str(error).split()) or "no message"
    return report_error(
        f"this should not have happened: {type(error).__name__}: {summary}", hint=kept, json=json, code=SURPRISE
    )


def user_error(message: str, *, hint: str = "") -> NoReturn:
    """Raise the error of a command asked for wrongly."""
    raise SettingsError(message, hint=hint)
