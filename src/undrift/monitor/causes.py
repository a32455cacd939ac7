"""What may explain a loss of performance, ranked, and what it has cost so far; pure.

A column that moved weighs by how much the model depends on it times the share of rows that moved; a fault of a feed or
of answers, a segment, and a change of version, code or data stand beside it. Correlation in time, weighted by size;
named as what it is: a place to look first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from undrift.develop.bundle import Interface
from undrift.finding import Finding, Verdict
from undrift.monitor.monitors import ROC_AUC

__all__ = ["Cause", "Lost", "explain", "lost", "ranked"]

MOST: Final = 5
FAULT: Final = 1.0
CHANGE: Final = 0.6
SEGMENT: Final = 0.5
MOVED: Final = 0.8
"""Weight of a column on which the model depends most, if all its rows moved."""
BEFORE: Final = timedelta(days=1)
"""How long before the window a change may have happened and still count."""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A possible cause in words, and its weight in [0, 1]."""

    text: str
    weight: float


class Lost(NamedTuple):
    """What was lost beyond the expected: in the metric, as sum over ``n`` rows; in errors and in money where known."""

    metric: str
    total: float
    n: int
    errors: float | None = None
    money: float | None = None

    def __str__(self) -> str:
        if self.errors is None:
            return f"{self.total:.4g} of {self.metric} lost over {self.n} rows"
        unit = "of absolute error" if self.metric == "absolute_error" else "errors"
        cost = f", {self.money:,.0f} in money" if self.money else ""
        return f"about {self.errors:.0f} {unit} more than expected in {self.n} rows{cost}"


def ranked(
    found: Finding,
    others: Iterable[Finding],
    incidents: Iterable[Mapping[str, Any]] = (),
    changes: Sequence[tuple[datetime, str]] = (),
    importance: Mapping[str, float] | None = None,
    interface: Interface | None = None,
) -> tuple[Cause, ...]:
    """Possible causes of a finding of performance, the likeliest first; pure.

    Parameters
    ----------
    others : findings of the same tick: drift and faults are causes, performance in segments says where.
    incidents : open incidents of feeds and answers.
    changes : (when, what) of releases, declarations and data.
    importance : how much the model's answers depend on each column, in any unit; equal for all if not known.
    interface : says from which view and source a column comes; columns of one source are one cause.
    """
    others = list(others)
    causes = [Cause(text=str(i["title"]), weight=FAULT) for i in incidents if i["kind"] in ("feed", "silent")]
    causes += _moved(others, importance, _origins(interface))
    if not found.measurement.segment:
        n = max(found.measurement.n, 1)
        for other in others:
            seen = other.measurement
            if seen.detail.get("kind") == "performance" and other.verdict is Verdict.FAIL and seen.segment:
                share = min(1.0, seen.n / n)
                causes.append(Cause(text=f"worst for {seen.where} ({share:.0%} of the rows)", weight=SEGMENT))
    window = found.measurement.window
    recent = [what for at, what in changes if window is not None and window.start - BEFORE <= at]
    causes += [Cause(text=what, weight=CHANGE) for what in dict.fromkeys(recent)]
    return tuple(sorted(causes, key=lambda c: (-c.weight, c.text))[:MOST])


def _moved(
    others: Sequence[Finding], importance: Mapping[str, float] | None, origins: Mapping[str, str]
) -> list[Cause]:
    """Columns that drifted, those of one source together: importance times the share of rows that moved.

    One that is beyond with confidence counts at once, whether or not it lasted long enough for an alarm of its own.
    """
    most = max((importance or {}).values(), default=0.0)
    groups: dict[str, list[tuple[float, str]]] = {}
    for other in others:
        seen = other.measurement
        column = str(seen.detail.get("column", ""))
        drifted = other.verdict is Verdict.FAIL or seen.detail.get("beyond", False)
        if seen.detail.get("kind") != "drift" or not drifted or seen.value is None:
            continue
        depends = 1.0 if importance is None or most <= 0 else importance.get(column, 0.0) / most
        weight = MOVED * depends * min(1.0, max(0.0, float(seen.value)))
        groups.setdefault(origins.get(column, "") or column, []).append((weight, column))
    causes = []
    for origin, members in groups.items():
        members.sort(key=lambda member: (-member[0], member[1]))
        names = ", ".join(column for _, column in members[:4])
        place = f" ({origin})" if origin not in {column for _, column in members} else ""
        causes.append(Cause(text=f"{names} drifted{place}", weight=members[0][0]))
    return causes


def _origins(interface: Interface | None) -> dict[str, str]:
    """Where each looked-up or computed column comes from, in words."""
    if interface is None:
        return {}
    found = {o.name: f"view {view.name} of source {view.source}" for view in interface.views for o in view.outputs}
    return found | {o.name: f"transform {t.name}" for t in interface.transforms for o in t.outputs}


def lost(found: Finding, errors: tuple[float, float] | None = None, value_per_error: float = 0.0) -> Lost | None:
    """What a finding of performance has cost so far.

    Parameters
    ----------
    errors : (seen, expected) errors per row, where both are known: wrong classes, or units of absolute error.
    value_per_error : money per error, 0 if unknown.
    """
    seen = found.measurement
    expected = seen.detail.get("expected")
    if seen.value is None or expected is None or seen.n <= 0:
        return None
    if seen.name == ROC_AUC:  # no row has one: what is lost can be told in errors alone
        if errors is None:
            return None
        name, total = "error", (errors[0] - errors[1]) * seen.n
    else:
        name, total = seen.name, (seen.value - float(expected)) * seen.n
    if errors is None:
        return Lost(name, total, seen.n)
    more = max(0.0, (errors[0] - errors[1]) * seen.n)
    return Lost(name, total, seen.n, more, more * value_per_error if value_per_error > 0 else None)


def explain(found: Finding, causes: Sequence[Cause], cost: Lost | None = None) -> Finding:
    """The finding with its cost and its possible causes, in words and in its detail."""
    detail, why = dict(found.measurement.detail), found.why
    if cost is not None:
        detail["lost"] = {name: value for name, value in cost._asdict().items() if value is not None}
        why = f"{why}; {cost}"
    if causes:
        detail["causes"] = [[c.text, round(c.weight, 3)] for c in causes]
        why = f"{why}; look first at: {', '.join(c.text for c in causes[:3])}"
    if detail == found.measurement.detail:
        return found
    return msgspec.structs.replace(
        found, why=why, measurement=msgspec.structs.replace(found.measurement, detail=detail)
    )
