"""The command line: the tree of commands, and the one place where errors become exit codes.

The commands stand in cli_*.py; each loads its room when it is called, so that `undrift --help` loads nothing heavy. How
things are printed stands in render.py and terminal.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from undrift import __version__
from undrift.app import cli_model, cli_project, cli_rehearse, cli_rollout, cli_run, cli_watch
from undrift.app.terminal import EXIT_CODES, exit_code, report_error, report_surprise
from undrift.errors import ContractError, UndriftError

__all__ = ["app", "main"]

_PANELS: Final[dict[str, tuple[Callable[..., Any], ...]]] = {
    "Begin": (cli_project.demo, cli_project.init, cli_project.adopt),
    "Declare": (cli_project.plan, cli_project.apply, cli_project.check, cli_project.config),
    "Make a model": (cli_model.train, cli_model.gate, cli_model.score, cli_model.retrain),
    "Release it": (
        cli_model.promote,
        cli_rollout.roll_out,
        cli_rollout.roll_back,
        cli_rollout.approve,
        cli_rollout.pause,
        cli_rollout.resume,
        cli_rollout.skip,
        cli_rollout.abort,
    ),
    "Experiment": (cli_rollout.plan_experiment, cli_rollout.shadow_report, cli_rollout.replay, cli_rollout.events),
    "Run it": (cli_run.dev, cli_run.serve, cli_run.work, cli_run.ui),
    "Answer alerts": (
        cli_watch.incidents,
        cli_watch.acknowledge,
        cli_watch.snooze,
        cli_watch.resolve,
        cli_watch.assign,
        cli_watch.notify,
    ),
    "Trust it": (cli_watch.watch, cli_watch.paging, cli_rehearse.rehearse),
    "Ask": (cli_run.status, cli_run.history, cli_run.why),
}


class _Panels(TyperGroup):
    """Lists the commands by what they are for, in the order in which one meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for panel, functions in _PANELS.items():
            names = [_name(function) for function in functions]
            with formatter.section(panel):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(90)) for name in names])


def _name(function: Callable[..., Any]) -> str:
    return function.__name__.replace("_", "-")


app = typer.Typer(
    name="undrift",
    cls=_Panels,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExit codes: " + "\n  ".join(f"{code} {text}." for code, text in EXIT_CODES.items()),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"undrift {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Take a model to production and keep it right there: measure, judge, act.

    \b
        undrift init shop --data orders.csv --label returned
        cd shop && undrift train && undrift promote && undrift dev
    """  # noqa: D301  \b keeps the lines of an example apart
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _panel, _functions in _PANELS.items():
    for _function in _functions:
        app.command(_name(_function), no_args_is_help=False)(_function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code and never raises for what a user can cause.

    Parameters
    ----------
    arguments : the words after ``undrift``; those of the process if left out.
    """
    # OpenMP reads this once, when scikit-learn or a booster is loaded, and children inherit it. Its threads otherwise
    # wait for each other in a busy loop, which on shared cores makes a fit many times slower; asleep they cost nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    json, debug = "--json" in words, "--debug" in words
    try:
        done = app(words, prog_name="undrift", standalone_mode=False)
        return done if isinstance(done, int) else 0
    except UndriftError as error:
        findings = error.findings if isinstance(error, ContractError) else ()
        hint = "" if error.hint in findings else error.hint
        return report_error(error.message, hint=hint, findings=findings, json=json, code=exit_code(error))
    except typer.Abort:
        return report_error("interrupted.", json=json, code=130)
    except KeyboardInterrupt:
        return report_error("interrupted.", json=json, code=130)
    except OSError as error:
        return report_error(f"{_system(error)}.", json=json, code=exit_code(error))
    except Exception as error:  # noqa: BLE001  the edge: what nobody foresaw is reported, not thrown at the user
        usage = getattr(error, "format_message", None)
        if usage is not None:
            return report_error(_one_line(usage()), hint=_where_to_look(error), json=json, code=2)
        return report_surprise(error, debug=debug, json=json)


def _system(error: OSError) -> str:
    """What the operating system refused, with the file it was about."""
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].lower() + text[1:]


def _where_to_look(error: Exception) -> str:
    path = getattr(getattr(error, "ctx", None), "command_path", "undrift")
    return f"`{path} --help` shows how it is called."


if __name__ == "__main__":
    sys.exit(main())
