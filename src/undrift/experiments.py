"""Experiments before and beside a rollout: what it can find from the traffic seen, and business events from a table.

A plan turns the judge's own boundary round (stats/planning.py) with the spread, the units and the steps of this model.
It promises power only: whatever it says, the judge stays valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.capture.capture import EventRecord, SpoolWriter
from undrift.data.outcomes import outcomes
from undrift.deploy.metrics import Metric, resolve
from undrift.deploy.plan import Plan, alpha_of_group
from undrift.deploy.rollout import RolloutState
from undrift.deploy.routes import running
from undrift.deploy.strategy import Rollout
from undrift.deploy.traffic import segment_columns, values_of
from undrift.develop.bundle import Interface
from undrift.errors import DataError, NotFoundError
from undrift.ids import duration, to_micros
from undrift.project import Project
from undrift.stats.planning import Design, days_needed, information, smallest_effect, units_needed

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ExperimentPlan", "add_events", "outlook", "plan_experiment"]

LOOK_BACK: Final = timedelta(days=14)
"""Traffic that a plan starts from."""
FEWEST: Final = 30
"""Units without which nothing is said about traffic or spread."""
DAY: Final = timedelta(days=1)
BATCH: Final = 5000
EVENT: Final = "event:"


class ExperimentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment needs, and what it can find, at the traffic seen and with the declared rollout.

    ``effect`` and ``smallest`` are in the metric's unit; ``units`` counts both arms, ``days`` is None when ten years
    are not enough. ``smallest`` is what is found with ``power`` by the declared maximum; ``smallest_now`` by what a
    rollout under way has seen, None where none is. ``alpha`` is the share of it that a test over all has.
    """

    model: str
    metric: str
    effect: float
    power: float
    alpha: float
    mean: float
    deviation: float
    units_a_day: float
    share: float
    units: int
    days: float | None
    maximum_days: float
    smallest: float
    rollout: str = ""
    smallest_now: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether the effect is found within the declared maximum."""
        return self.days is not None and self.days <= self.maximum_days


def plan_experiment(
    project: Project, model: str = "", metric: str = "", effect: float = 0.0, *, power: float = 0.8
) -> ExperimentPlan:
    """Units and days until a rollout of the model finds an effect, from the traffic of the last two weeks.

    Parameters
    ----------
    metric : one that the rollout declares or that is built in, or ``event:NAME`` for the sum of a unit's business
        events of that name. Quantiles, ratios and areas under a curve have no plan.
    effect : the difference to be found, > 0, in the metric's unit; for a guardrail its distance from the margin.
    power : wanted chance to find it, in (0, 1).

    Raises
    ------
    NotFoundError : no champion, or too little traffic to plan from.
    DataError : an effect or power that may not be, or a metric of which no unit has a value.
    """
    declared = project.model(model)
    name, rollout, now = declared.name, declared.rollout, project.now().now()
    if not effect > 0 or not math.isfinite(effect) or not 0 < power < 1:
        raise DataError(f"the effect must be above 0 and the power in (0, 1), not {effect:g} and {power:g}.")
    rows, interface = _traffic(project, name, now)
    meant = _metric(metric, rollout, interface)
    per_unit = _per_unit(project, name, rows, interface, meant, now)
    if len(per_unit) < FEWEST:
        raise DataError(
            f"{metric!r} has a value for {len(per_unit)} units of {name} in the last {LOOK_BACK.days} days; "
            f"{FEWEST} are needed to know its spread."
        )
    deviation = float(per_unit.std(ddof=1))
    if not deviation > 0:
        raise DataError(f"{metric!r} was {float(per_unit[0]):g} for every unit of {name}: its spread is not known.")
    alpha = _alpha(meant, rollout, interface, rows)
    design = Design(deviation=deviation, alpha=alpha, power=power, one_sided=True)
    new_units = _new_units(rows, now)
    steps = _steps(rollout)
    share = steps[-1][0]
    maximum = duration(rollout.maximum) / DAY
    plan = ExperimentPlan(
        model=name,
        metric=metric,
        effect=effect,
        power=power,
        alpha=alpha,
        mean=float(per_unit.mean()),
        deviation=deviation,
        units_a_day=float(np.mean(new_units)),
        share=share,
        units=units_needed(design, effect, share),
        days=days_needed(design, effect, new_units, steps),
        maximum_days=maximum,
        smallest=smallest_effect(design, _information(new_units, steps, maximum)),
        warnings=outlook(project, name),
    )
    for state in running(project.journal):
        if state.model == name and state.spans:
            seen = _seen(rows, state)
            plan = msgspec.structs.replace(plan, rollout=state.id, smallest_now=smallest_effect(design, seen))
    return plan


def outlook(project: Project, model: str = "") -> tuple[str, ...]:
    """Why a rollout of the model could not succeed as declared, at the traffic of the last two weeks; empty if it can.

    Says nothing where too little traffic was seen to tell.
    """
    declared = project.model(model)
    rollout, now = declared.rollout, project.now().now()
    try:
        rows, _ = _traffic(project, declared.name, now)
    except NotFoundError:
        return ()
    daily = float(np.mean(_new_units(rows, now)))
    maximum, needed, slow = duration(rollout.maximum) / DAY, 0.0, []
    for weight in [weight for weight in rollout.weights if weight < 100]:
        of_candidate = daily * weight / 100
        days = rollout.minimum_units / of_candidate if of_candidate else math.inf
        if days > maximum:
            slow.append(
                f"at {weight:g} % the candidate sees {of_candidate:.2g} new units a day: {rollout.minimum_units} of "
                f"them take {days:.0f} days, and the maximum is {rollout.maximum}"
            )
        needed += max(days, duration(rollout.hold) / DAY)
    if needed > maximum and not slow:
        slow.append(f"all steps together take {needed:.0f} days at least, and the maximum is {rollout.maximum}")
    return tuple(slow)


def _traffic(project: Project, model: str, now: datetime) -> tuple[pa.Table, Interface]:
    route = project.route(model)
    if route is None or not route["champion"]:
        raise NotFoundError(f"{model} has no champion, so there is no traffic to plan from.")
    rows = outcomes(project.lake, model, now - LOOK_BACK, now, now)
    if rows.num_rows < FEWEST:
        raise NotFoundError(
            f"{model} answered {rows.num_rows} rows in the last {LOOK_BACK.days} days; a plan needs at least {FEWEST}."
        )
    return rows, project.manifest(route["champion"]).interface


def _metric(name: str, rollout: Rollout, interface: Interface) -> Metric:
    """What is meant by a name; an event that no metric declares is summed up from first exposure on."""
    if name.startswith(EVENT) and name not in {metric.name for metric in rollout.metrics}:
        return Metric(name=name, of=name, kind="mean", better="higher", window=f"{LOOK_BACK.days}d")
    meant = resolve(name, rollout.metrics, interface.task)
    if meant.kind not in ("mean", "proportion", "count"):
        raise DataError(f"{name!r} is a {meant.kind}: a plan needs a mean, a proportion or a count over units.")
    return meant


def _alpha(metric: Metric, rollout: Rollout, interface: Interface, rows: pa.Table) -> float:
    """What the judge gives a test of this metric over all: its share of alpha; of means bets have half of that."""
    known = 1 + sum(len(names) for _, names in segment_columns(rows, interface).values())
    objective = rollout.objective
    if objective is not None and objective.metric == metric.name:
        share = objective.alpha
    else:
        share = alpha_of_group(0, known, rollout.alpha, [guard.by_segment for guard in rollout.guardrails])
    plan = Plan.of(rollout, interface.task)
    exact = any(plan.metrics[t.metric].name == metric.name and plan.exact(i) for i, t in enumerate(plan.tests))
    return share / (2 if exact and metric.kind == "mean" else 1) / (2 if metric.better == "same" else 1)


def _per_unit(
    project: Project, model: str, rows: pa.Table, interface: Interface, metric: Metric, now: datetime
) -> NDArray[np.float64]:
    """The metric's value of each unit that has one."""
    units = rows["unit"].to_pylist()
    if metric.events:
        return _events_per_unit(project, model, rows, metric, now)
    values = values_of(rows, interface, [metric.of])[metric.of]
    held = np.isfinite(values)
    if not held.any():
        raise DataError(
            f"{metric.name!r} has no value on the traffic of {model}.", hint="A labelled loss needs labels."
        )
    _, which = np.unique(np.asarray(units, dtype=object)[held].astype(str), return_inverse=True)
    return np.asarray(np.bincount(which, weights=values[held]) / np.bincount(which), dtype=np.float64)


def _events_per_unit(
    project: Project, model: str, rows: pa.Table, metric: Metric, now: datetime
) -> NDArray[np.float64]:
    """Total, number or presence of each unit's events within the window after it was first seen."""
    first: dict[str, int] = {}
    for unit, at in zip(rows["unit"].to_pylist(), rows["event_time"].cast("int64").to_pylist(), strict=True):
        first[unit] = min(at, first.get(unit, at))
    (name,) = metric.events
    window = duration(metric.window) // timedelta(microseconds=1)
    found = project.lake.scan(f"events_{model}", where=[("event_time", ">=", now - LOOK_BACK)])
    named = [] if found is None else [row for row in found.to_pylist() if row["name"] == name]
    if not named:
        raise DataError(f"no event of the name {name!r} was seen for {model} in the last {LOOK_BACK.days} days.")
    # what is declared counts when the window is over; an event by name alone counts as it stands now
    until = to_micros(now) - (0 if metric.name.startswith(EVENT) else window)
    totals = {unit: 0.0 for unit, at in first.items() if at <= until}
    for row in named:
        unit, at = row["unit"], to_micros(row["event_time"])
        if unit in totals and first[unit] <= at < first[unit] + window:
            totals[unit] += 1.0 if metric.kind in ("count", "proportion") else row["value"]
    values = np.asarray(list(totals.values()), dtype=np.float64)
    return np.minimum(values, 1.0) if metric.kind == "proportion" else values


def _new_units(rows: pa.Table, now: datetime) -> list[float]:
    """Units seen for the first time on each day of the traffic, the oldest day first."""
    times = rows["event_time"].cast("int64").to_numpy()
    order = np.argsort(times, kind="stable")
    _, first = np.unique(np.asarray(rows["unit"].to_pylist(), dtype=object)[order].astype(str), return_index=True)
    days = (times[order][first] - times.min()) // (86_400 * 1_000_000)
    span = max(1, math.ceil((to_micros(now) - int(times.min())) / (86_400 * 1_000_000)))
    return [float(n) for n in np.bincount(days.astype(int), minlength=span)]


def _steps(rollout: Rollout) -> list[tuple[float, float]]:
    hold = duration(rollout.hold) / DAY
    return [(weight / 100, hold) for weight in rollout.weights if weight < 100] or [(0.5, hold)]


def _information(new_units: list[float], steps: list[tuple[float, float]], days: float) -> float:
    """What the arms are worth together after some days of the traffic seen (the last day holds on)."""
    worth, now = 0.0, 0.0
    ends = list(np.cumsum([length for _, length in steps[:-1]]))
    while now < days:
        until = min([days, math.floor(now) + 1.0, *(end for end in ends if end > now)])
        share = steps[sum(end <= now for end in ends)][0]
        worth += share * (1 - share) * new_units[min(int(now), len(new_units) - 1)] * (until - now)
        now = until
    return worth


def _seen(rows: pa.Table, state: RolloutState) -> float:
    begin = to_micros(state.spans[0].start)
    live = rows["event_time"].cast("int64").to_numpy() >= begin
    revision = np.asarray(rows["revision"].to_pylist(), dtype=object)
    units = np.asarray(rows["unit"].to_pylist(), dtype=object)
    arms = [len(set(units[live & (revision == name)].tolist())) for name in (state.champion, state.candidate)]
    return information(*arms)


# -- business events from a table -----------------------------------------------------------------------------------


def add_events(project: Project, table: pa.Table, model: str = "") -> int:
    """Put the business events of a table on their way to the lake, as if each had been posted; how many.

    Parameters
    ----------
    table : columns ``id``, ``unit``, ``name``, ``event_time`` (with a zone) and, if it is not 1, ``value``. An id that
        came before, by whatever way, counts once.

    Raises
    ------
    DataError : a column is missing, or a row is wrong; says which. Nothing is taken then.
    """
    name = project.model(model).name
    missing = [column for column in ("id", "unit", "name", "event_time") if column not in table.column_names]
    if missing:
        raise DataError(f"the events have no column {', '.join(missing)}; they have {', '.join(table.column_names)}.")
    received = to_micros(project.clock.now())
    records = list(_records(name, table, received))
    writer = SpoolWriter(project.settings.path(project.settings.stores.spool))
    try:
        for start in range(0, len(records), BATCH):
            writer.append(records[start : start + BATCH])
    finally:
        writer.close()
    return len(records)


def _records(model: str, table: pa.Table, received: int) -> Iterable[EventRecord]:
    for place, row in enumerate(table.to_pylist()):
        at, value = row["event_time"], row.get("value", 1.0)
        if isinstance(at, str):
            try:
                at = datetime.fromisoformat(at)
            except ValueError:
                at = None
        wrong = [column for column in ("id", "unit", "name") if row[column] is None or str(row[column]) == ""]
        if not isinstance(at, datetime) or at.tzinfo is None:
            wrong.append("event_time")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            wrong.append("value")
        if wrong or not isinstance(at, datetime):
            seen = ", ".join(f"{column}={row.get(column)!r}" for column in wrong)
            raise DataError(
                f"event {place} of the table: {seen}.",
                hint="id, unit and name must be given, event_time needs a zone, value must be a finite number.",
            )
        yield EventRecord(
            model=model,
            id=str(row["id"]),
            unit=str(row["unit"]),
            name=str(row["name"]),
            value=float(value),
            event_time=to_micros(at),
            received_at=received,
        )
