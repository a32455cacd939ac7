"""How rollouts look in a terminal: where one stands, what served whom, a replay, a plan; pure, like render.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from undrift.app.render import columns, minute, pairs, title

if TYPE_CHECKING:
    from undrift.deploy.replay import Replayed
    from undrift.deploy.rollout import RolloutState
    from undrift.experiments import ExperimentPlan

__all__ = ["live", "plan", "replayed", "rollout", "served"]

WORDS: Final = 110


def rollout(state: RolloutState, warnings: Sequence[str] = ()) -> RenderableType:
    """Where a rollout stands, and what speaks against its ever succeeding."""
    step = f"{state.weight:g} % of units"
    if state.step < 0:
        step = "shadow" if state.stage == "shadow" else "no unit yet"
    rows = [
        ("strategy", state.declared.strategy),
        ("candidate", f"version {state.candidate_version} against champion {state.champion_version}"),
        ("status", state.status + (f": {state.reason}" if state.reason else "")),
        ("step", step),
        ("since", minute(state.step_started_at)),
    ]
    if state.asked_by:
        rows.append(("asked for by", state.asked_by))
    if state.approved_by:
        rows.append(("approved by", state.approved_by))
    told = [Text(f"  warning: {line}", "yellow") for line in warnings]
    return Group(title(state.model, f"rollout {state.id}"), pairs(rows), *told)


def live(routes: Mapping[str, Mapping[str, Any]], at: datetime) -> RenderableType:
    """What answered at a moment, and who had decided so."""
    head = Text(f"live at {at:%Y-%m-%d %H:%M:%S} UTC", "bold")
    if not routes:
        return Group(head, Text("  no model had a champion yet"))
    rows = columns("model", "champion", "candidate", "since", "who", "why")
    for model, route in sorted(routes.items()):
        candidate = f"version {route['candidate_version']} at {route['weight']:g} %" if route.get("candidate") else "-"
        champion = f"version {route['champion_version']} ({route['champion']})" if route.get("champion") else "-"
        cells = (model, champion, candidate, minute(route["since"]), route["by"], route["why"])
        rows.add_row(*(Text(str(cell)) for cell in cells))
    return Group(head, rows)


def served(found: Mapping[str, Mapping[str, Any]], unit: str, at: datetime) -> RenderableType:
    """What served a unit at a moment: what it was assigned to, and what answered it last before that."""
    head = Text(f"unit {unit} at {at:%Y-%m-%d %H:%M:%S} UTC", "bold")
    rows = columns("model", "assigned to", "with probability", "last answered", "by", "prediction")
    for model, one in sorted(found.items()):
        last = one["answered"] or {}
        cells = (
            model,
            f"version {one['version']} ({one['revision']}), {one['variant']}",
            f"{one['propensity']:g}",
            minute(last.get("at")),
            f"version {last['version']} ({last['revision']})" if last else "-",
            last.get("id", "-"),
        )
        rows.add_row(*(Text(str(cell)) for cell in cells))
    return Group(head, rows)


def replayed(found: Replayed) -> RenderableType:
    """How a rollout went and how it goes by the rule of the replay, without the moments that moved neither."""
    differs = "nowhere: both did the same" if found.differs_at is None else f"from {minute(found.differs_at)} UTC on"
    head = pairs(
        [
            ("changed", ", ".join(found.changes) or "nothing: by the rule it had"),
            ("recorded", f"{found.recorded_status}; {found.recorded_exposed} units were exposed"),
            ("replayed", f"{found.status}: {found.reason}" if found.reason else found.status),
            ("exposed then", f"{found.exposed_units} units"),
            ("differs", differs),
        ]
    )
    rows = columns("at", "recorded", "weight", "replayed", "weight", "why")
    for moment in found.moments:
        if moment.same and moment.recorded == "rollout.judged":
            continue
        style = "" if moment.same else "yellow"
        cells = (
            minute(moment.at),
            moment.recorded.partition(".")[2],
            f"{moment.recorded_weight:g} %",
            moment.replayed.partition(".")[2] or "over",
            f"{moment.weight:g} %" if moment.replayed else "-",
            moment.why or moment.recorded_why,
        )
        rows.add_row(*(Text(cell, style) for cell in cells))
    return Group(title(found.model, f"replay of rollout {found.rollout}"), head, rows)


def plan(found: ExperimentPlan) -> RenderableType:
    """What an experiment needs and what it can find."""
    days = "more than ten years" if found.days is None else f"{found.days:.1f} days"
    rows = [
        ("metric", f"{found.metric}: mean {found.mean:.4g}, standard deviation {found.deviation:.4g} over units"),
        ("to find", f"a difference of {found.effect:g} with power {found.power:g}"),
        ("judged at", f"alpha {found.alpha:.2g}, the share of a test over all"),
        ("traffic", f"{found.units_a_day:.0f} new units a day"),
        ("needs", f"{found.units} units at a share of {found.share:g}; {days} with the declared steps"),
        ("maximum", f"{found.maximum_days:g} days: then a difference of {found.smallest:.4g} is found"),
    ]
    if found.smallest_now is not None:
        rows.append(("under way", f"rollout {found.rollout} could find {found.smallest_now:.4g} by now"))
    told = [Text(f"  warning: {line}", "yellow") for line in found.warnings]
    if not found.feasible:
        told.insert(0, Text("  warning: the effect is not found within the declared maximum", "yellow"))
    return Group(title(found.model, "plan of an experiment"), pairs(rows), *told)
