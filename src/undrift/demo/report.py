"""The report of a run as one HTML file: figures, decisions with evidence and truth, the year, months, and the log.

It opens without a network and runs no script; all numbers come of the scoreboard and the log it is given. Colours and
layout stand in templates/report.html.j2, drawings in timeline.py and drawing.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import jinja2

from undrift.demo.chronicle import moment
from undrift.demo.drawing import Drawing, bars, lines
from undrift.demo.scoreboard import Month, Row, Scoreboard
from undrift.demo.story import DAY, Story
from undrift.demo.timeline import timeline
from undrift.event import Event

__all__ = ["write_report"]

TEMPLATES: Final = Path(__file__).parent / "templates"
QUIET: Final = frozenset({"tick.judged", "rollout.judged"})
"""Judgements that moved nothing; they are counted, not listed."""
WIDE: Final = 1120.0
NARROW: Final = 704.0
UNKNOWN: Final = "–"


class _Figure(NamedTuple):
    """One headline: what, how much, and what to hold it against; ``mood`` is good, bad or empty."""

    name: str
    value: str
    beside: str
    mood: str = ""


class _Logged(NamedTuple):
    at: str
    kind: str
    who: str
    why: str


def write_report(path: Path, board: Scoreboard, events: Sequence[Event], story: Story) -> Path:
    """Write the report of a run and return its path.

    Parameters
    ----------
    board : what was decided, and what of it was right.
    events : the whole log, in order. Decisions of people before the story have no date in it: they were taken by the
        clock on the wall.
    story : from when to when, and what was planted.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    logged = [event for event in events if event.kind not in QUIET]
    text = environment.get_template("report.html.j2").render(
        board=board,
        story=story,
        last=story.end - DAY,
        promises=_promises(board),
        figures=_figures(board),
        rows=[(row, mood_of(row)) for row in board.rows],
        timelines=[("wide", timeline(events, story, WIDE)), ("narrow", timeline(events, story, NARROW))],
        plots=_plots(board.months),
        months=[(month, _name(month)) for month in board.months],
        log=[_logged(event, story) for event in logged],
        quiet=len(events) - len(logged),
        number=_number,
    )
    path.write_text(text, encoding="utf-8")
    return path


def mood_of(row: Row) -> str:
    """How a verdict is shown: ``good``, ``bad``, or plain."""
    if row.verdict in ("MISSED", "FALSE ALARM", "NOT NAMED", "WRONG"):
        return "bad"
    return "good" if row.verdict else ""


def _promises(board: Scoreboard) -> list[tuple[str, bool]]:
    """What was promised, and whether it held."""
    return [
        ("every planted failure caught", board.caught == board.planted),
        ("false alarms within their budget", board.false_alarms <= board.budget),
        ("better at the end than never updated", board.final_served < board.final_never),
    ]


def _figures(board: Scoreboard) -> list[_Figure]:
    delays = [row.delay for row in board.rows if row.what == "planted fault" and row.verdict.startswith("caught")]
    after = f"after {', '.join(delays)}" if delays else "none was found"
    within = board.false_alarms <= board.budget
    return [
        _Figure(
            "planted failures caught",
            f"{board.caught} of {board.planted}",
            after,
            "good" if board.caught == board.planted else "bad",
        ),
        _Figure("false alarms", f"{board.false_alarms}", f"budget {board.budget:.0f}", "good" if within else "bad"),
        _Figure(
            "log loss, whole run",
            _number(board.served),
            f"never updated {_number(board.never)} ({_change(board.served, board.never)})",
            "good" if board.served <= board.never else "bad",
        ),
        _Figure(
            "saved since the last champion",
            _signed(board.final_gain.value),
            f"log loss a flight, 95\N{NO-BREAK SPACE}% interval {_signed(board.final_gain.lower)} to "
            f"{_signed(board.final_gain.upper)}",
            "good" if board.final_gain.lower > 0 else "bad" if board.final_gain.upper < 0 else "",
        ),
        _Figure(
            "log loss, last month",
            _number(board.final_served),
            f"never updated {_number(board.final_never)} ({_change(board.final_served, board.final_never)})",
            "good" if board.final_served < board.final_never else "bad",
        ),
        _Figure("predictions served", f"{board.predictions:,}", "each captured, joined to its outcome"),
        _Figure("challengers promoted", f"{board.promoted}", f"{_count(board.refused, 'retrain')} refused"),
    ]


def _plots(months: Sequence[Month]) -> list[tuple[str, str, Drawing]]:
    names = [_name(month) for month in months]
    pairs = {
        "log_loss": [
            ("served", "served", [m.served for m in months]),
            ("never", "never updated", [m.never for m in months]),
        ],
        "auc": [
            ("served", "served", [m.served_auc for m in months]),
            ("never", "never updated", [m.never_auc for m in months]),
        ],
    }
    return [
        (
            "Log loss",
            "Lower is better. Mean over the flights of the month that have an outcome.",
            lines(
                "Log loss by month", names, pairs["log_loss"], "mean log loss, nats per flight", lambda v: f"{v:.2f}"
            ),
        ),
        (
            "Ranking",
            "Higher is better; 0.5 is chance.",
            lines("AUC by month", names, pairs["auc"], "AUC, share of pairs in the right order", lambda v: f"{v:.2f}"),
        ),
        (
            "How late New York was",
            "What really happened: the share of flights that arrived 15 minutes late or more.",
            bars(
                "Late flights by month", names, [100 * m.late for m in months], "late flights, %", lambda v: f"{v:.0f}"
            ),
        ),
    ]


def _logged(event: Event, story: Story) -> _Logged:
    at = moment(event, story)
    told = "before the start" if at is None else f"{at:%Y-%m-%d %H:%M}"
    return _Logged(told, event.kind, event.actor, event.why)


def _name(month: Month) -> str:
    return ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[
        int(month.name[5:7]) - 1
    ]


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else UNKNOWN


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else UNKNOWN


def _change(now: float, before: float) -> str:
    if not (math.isfinite(now) and math.isfinite(before) and before):
        return UNKNOWN
    return f"{100 * (now / before - 1):+.1f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
