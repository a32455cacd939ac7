"""The evidence of a rollout: what the tally of its traffic says of each guardrail, over all and in each segment.

The unit of assignment is the unit of analysis: a unit counts once, in the stratum (weight and day) in which it was
first seen, so that weights that change and days that differ bias nothing. What the numbers mean is judged in judge.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.data.outcomes import events_of, outcomes, with_labels
from undrift.deploy import tally_file
from undrift.deploy.cells import Cell, cells_of, labelled_cell
from undrift.deploy.metrics import Metric
from undrift.deploy.plan import Plan
from undrift.deploy.rollout import Exposure, RolloutState
from undrift.deploy.tally import Tally
from undrift.deploy.traffic import labelled_rows, segment_columns, stand_ins, values_of
from undrift.develop.bundle import Interface
from undrift.develop.segments import fields_of
from undrift.finding import Window
from undrift.ids import from_micros, to_micros

if TYPE_CHECKING:
    import pyarrow as pa

    from undrift.state.ports import Lake

__all__ = ["Cell", "Evidence", "collect", "summarise"]

LOOK_BACK: Final = timedelta(days=7)
"""Champion traffic before the first step that fixes, ahead of all evidence, centres of bets and segments."""
LABELS_COME: Final = timedelta(days=60)
"""A row without a label waits so long for one."""
EXPECTED: Final = {"failed": 0.0, "violations": 0.05, "brier": 0.2, "error": 0.2, "accuracy": 0.8, "score": 0.5}
"""Centre of bets where the champion has no past; a wrong one costs power, never validity."""
UNKNOWN_EVENTS: Final = 0.1
"""The same for business events."""
FEWEST_PAST: Final = 8
_KEPT: Final = ("prediction_id", "request_id", "revision", "unit", "propensity", "event_time", "score", "scores",
                "prediction", "error", "inputs")  # fmt: skip


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a rollout until now.

    ``counts`` holds (weight, champion units, candidate units) of each weight, each unit at the weight where it was
    first seen; ``mixed`` the units seen in both arms at that weight; ``labelled`` compares how many units of each arm
    have a label (None where no metric needs one); ``tests`` how many share alpha; ``thin`` the segments with too few
    units to be looked at; ``unlabelled`` the rows that wait for a label.
    """

    window: Window
    cells: tuple[Cell, ...]
    counts: tuple[tuple[float, int, int], ...]
    mixed: int
    exposure: Exposure
    tests: int
    thin: int
    unlabelled: int = 0
    labelled: Cell | None = None


def collect(lake: Lake, interface: Interface, state: RolloutState, now: datetime, keep: Path | None = None) -> Evidence:
    """Count the traffic of a rollout that is new, and say what all of it shows.

    Parameters
    ----------
    now : labels, events and rows with a later event time are not looked at.
    keep : folder in which the tally is kept from tick to tick; without one all is counted again from the first step.
    """
    begin = state.spans[0].start if state.spans else state.started_at
    plan = Plan.of(state.declared, interface.task)
    asked = f"{state.id}|{to_micros(begin)}|{msgspec.json.encode(state.declared).decode()}"
    path = None if keep is None else keep / f"{state.id}.tally"
    found = None if path is None else tally_file.read(path, plan, asked, to_micros(now))
    if found is None:
        rows = outcomes(lake, state.model, begin - LOOK_BACK, now, now)
        names = sorted({name for metric in plan.metrics for name in metric.events})
        before = events_of(lake, state.model, names, begin - LOOK_BACK, begin) if names else None
        tally, waiting = _begin(rows, interface, state, begin, plan, now, before)
    else:
        tally, waiting = found[0], _unpacked(found[1])
        since = from_micros(tally.through)
        rows = outcomes(lake, state.model, since, now, now)
        fresh = _kept(rows, state, begin)
        oldest = min(waiting["event_time"].to_pylist(), default=since)
        waiting = _joined(with_labels(lake, state.model, waiting, oldest, now), _see(tally, interface, state, fresh))
        waiting = _labels(tally, interface, state, waiting, now)
    _events(tally, lake, state.model, now)
    tally.through = to_micros(now)
    # asked again about the past or the very moment (a replay, by another rule maybe), what is kept stays as it is
    if path is not None and len(tally.key) and tally_file.reached(path) < tally.through:
        tally_file.write(path, tally, _packed(waiting), asked)
    return evidence_of(tally, state, begin, now, waiting.num_rows)


def summarise(rows: pa.Table, interface: Interface, state: RolloutState, begin: datetime, now: datetime) -> Evidence:
    """The same from rows as `outcomes` gives them, without business events; pure."""
    plan = Plan.of(state.declared, interface.task)
    tally, waiting = _begin(rows, interface, state, begin, plan, now)
    return evidence_of(tally, state, begin, now, waiting.num_rows)


def evidence_of(tally: Tally, state: RolloutState, begin: datetime, now: datetime, unlabelled: int) -> Evidence:
    """What a tally says; takes milliseconds, whatever the number of units."""
    whole = tally.group == 0
    probability = np.array([p for p, _ in tally.strata])[tally.stratum[whole]] if len(tally.key) else np.zeros(0)
    arm = tally.arm[whole]
    counts = tuple(
        (
            round(p * 100, 6),
            int(((probability == p) & (arm == 0)).sum()),
            int(((probability == p) & (arm == 1)).sum()),
        )
        for p in sorted(tally.shares)
        if 0 < p < 1
    )
    step_start = to_micros(state.step_started_at)
    exposure = Exposure(
        step_units=int((tally.labelled[whole] >= step_start).sum()), total_units=int(tally.exposed[whole].sum())
    )
    cells, tests, thin = cells_of(tally, state.declared)
    return Evidence(
        window=Window(begin, now),
        cells=cells,
        counts=counts,
        mixed=int(tally.mixed.sum()),
        exposure=exposure,
        tests=tests,
        thin=thin,
        unlabelled=unlabelled,
        labelled=labelled_cell(tally) if tally.plan.labelled else None,
    )


# -- counting ---------------------------------------------------------------------------------------------------------


def _begin(
    rows: pa.Table,
    interface: Interface,
    state: RolloutState,
    begin: datetime,
    plan: Plan,
    now: datetime,
    events: pa.Table | None = None,
) -> tuple[Tally, pa.Table]:
    """A new tally: what the champion's past (and its business events) fixes, then all rows of the rollout."""
    revision = np.asarray(rows["revision"].to_pylist(), dtype=object)
    before = (rows["event_time"].cast("int64").to_numpy() < to_micros(begin)) & (revision == state.champion)
    kept = _kept(rows, state, begin)
    past = rows.filter(before)
    segments = segment_columns(past, interface)
    first = segment_columns(kept, interface)
    columns = sorted({*segments, *first})
    known = [(c, name) for c in columns for name in sorted({*_names(segments, c), *_names(first, c)})]
    sources = sorted({m.of for m in plan.metrics if not m.events})
    values = values_of(past, interface, sources) if past.num_rows else {}
    centers = np.zeros((len(plan.metrics), len(known) + 1))
    for i, metric in enumerate(plan.metrics):
        if metric.events and events is not None:
            seen = _past_events(past, events, metric, plan.spans[i][0], to_micros(begin))
            centers[i] = _center(seen, UNKNOWN_EVENTS)
            continue
        seen = values.get(metric.of, np.zeros(0))
        centers[i] = _center(seen, EXPECTED.get(metric.of, 0.0))
        for g, (column, name) in enumerate(known, start=1):
            codes, names = segments.get(column, (np.zeros(0, np.int64), []))
            if name in names and len(seen):
                centers[i, g] = _center(seen[codes == names.index(name)], centers[i, 0])
    tally = Tally(plan, known, centers)
    return tally, _labels(tally, interface, state, _see(tally, interface, state, kept), now)


def _names(segments: dict[str, tuple[NDArray[np.int64], list[str]]], column: str) -> list[str]:
    return segments[column][1] if column in segments else []


def _center(values: NDArray[np.float64], otherwise: float) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) >= FEWEST_PAST else otherwise


def _past_events(past: pa.Table, events: pa.Table, metric: Metric, window: int, begin: int) -> NDArray[np.float64]:
    """What a metric of events was for the champion's units of before, those that had the window or half the past for
    it.
    """
    first: dict[str, int] = {}
    times = past["event_time"].cast("int64").to_pylist()
    for unit, time in zip(past["unit"].to_pylist(), times, strict=True):
        first[unit] = min(time, first.get(unit, time))
    oldest = begin - min(window, int(LOOK_BACK.total_seconds() * 1e6) // 2)
    total = {unit: 0.0 for unit, time in first.items() if time <= oldest}
    columns = [events[name].to_pylist() for name in ("unit", "name", "value")]
    for unit, name, value, time in zip(*columns, events["event_time"].cast("int64").to_pylist(), strict=True):
        if unit in total and name == metric.events[0] and 0 <= time - first[unit] < window:
            total[unit] += 1.0 if metric.kind in ("proportion", "count") else (value or 0.0)
    found = np.fromiter(total.values(), dtype=np.float64)
    if metric.kind == "proportion":
        found = np.minimum(found, 1.0)
    return found if metric.bounds is None else np.clip(found, *metric.bounds)


def _kept(rows: pa.Table, state: RolloutState, begin: datetime) -> pa.Table:
    """The rows of both arms since the first step."""
    revision = np.asarray(rows["revision"].to_pylist(), dtype=object)
    live = rows["event_time"].cast("int64").to_numpy() >= to_micros(begin)
    ours = (revision == state.candidate) | ((revision == state.champion) & ~stand_ins(rows, revision, state.candidate))
    return rows.filter(live & ours)


def _see(tally: Tally, interface: Interface, state: RolloutState, rows: pa.Table) -> pa.Table:
    """Count what new rows say without a label; returns what of them a label will need."""
    if rows.num_rows:
        tally.see(rows, interface, state.candidate)
    return _waiting(rows, interface)


def _labels(tally: Tally, interface: Interface, state: RolloutState, rows: pa.Table, now: datetime) -> pa.Table:
    """Count the labels that are ripe, each metric's at its maturity; returns the rows that still wait."""
    plan = tally.plan
    ages = sorted({age for age, metric in zip(plan.maturities, plan.metrics, strict=True) if metric.labelled})
    if not ages or not rows.num_rows:
        return rows.select([c for c in rows.column_names if c not in _LABEL]).slice(0, 0)
    import pyarrow as pa
    import pyarrow.compute as pc

    known = labelled_rows(rows)
    age = to_micros(now) - rows["event_time"].cast("int64").to_numpy()
    done = rows["done"].to_numpy().copy()
    for bit, maturity in enumerate(ages):
        ready = known & (age >= maturity) & (done & (1 << bit) == 0)
        which = [i for i, m in enumerate(plan.metrics) if m.labelled and plan.maturities[i] == maturity]
        if ready.any():
            ripe = rows.filter(ready)  # in the order in which labels came, whenever somebody looked
            ripe = ripe.take(pc.sort_indices(ripe["labelled_at"]))
            tally.see_labels(ripe, interface, state.candidate, which)
        done[ready] |= 1 << bit
    left = (done != (1 << len(ages)) - 1) & (age < LABELS_COME.total_seconds() * 1e6)
    rows = rows.set_column(rows.column_names.index("done"), "done", pa.array(done)).filter(left)
    return rows.select([c for c in rows.column_names if c not in _LABEL])


_LABEL: Final = ("label", "value", "labelled_at")


def _waiting(rows: pa.Table, interface: Interface) -> pa.Table:
    """Rows reduced to what a label will need: who answered what, and the segments."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: dict[str, Any] = {name: rows[name] for name in (*_KEPT, *_LABEL) if name in rows.column_names}
    if "inputs" in columns:
        held = [f.name for f in rows["inputs"].type]
        fields = [name for name in fields_of(interface.segments, held) if name in held]
        inputs = columns.pop("inputs").combine_chunks()
        if fields:
            columns["inputs"] = pa.StructArray.from_arrays([pc.struct_field(inputs, f) for f in fields], fields)
    columns["done"] = pa.array(np.zeros(rows.num_rows, np.int64))
    return pa.table(columns)


def _events(tally: Tally, lake: Lake, model: str, now: datetime) -> None:
    """Count the business events of the units whose windows are over."""
    at = to_micros(now)
    for i, metric in enumerate(tally.plan.metrics):
        if not metric.events:
            continue
        entries = tally.ripe(i, at)
        if not len(entries):
            continue
        window, before = tally.plan.spans[i]
        first = tally.first[entries]
        start, end = from_micros(int(first.min()) - before), from_micros(int(first.max()) + window)
        events = events_of(lake, model, metric.events, start.astimezone(UTC), end.astimezone(UTC))
        tally.see_events(i, entries, events)


def _joined(first: pa.Table, second: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([first, second], promote_options="default")


def _packed(rows: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _unpacked(raw: bytes) -> pa.Table:
    import pyarrow as pa

    with pa.ipc.open_stream(raw) as reader:
        return reader.read_all()
