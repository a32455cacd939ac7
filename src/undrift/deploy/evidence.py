"""The evidence of a rollout: sums per arm, metric, segment and stratum, made of captured rows and their outcomes.

The unit of assignment is the unit of analysis: a unit counts once, with the mean over its rows in the stratum where it
was first seen. A stratum is one weight (and one day of it, where every unit has one row), so that weights that change
and days that differ bias nothing. What the sums mean is judged in judge.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.data.outcomes import outcomes
from undrift.deploy.rollout import Exposure, Guardrail, RolloutState
from undrift.develop.bundle import Interface
from undrift.finding import Window
from undrift.stats.betting import Wealth
from undrift.stats.sequential import Bounds, difference_bounds
from undrift.validate.metrics import row_losses

if TYPE_CHECKING:
    import pyarrow as pa

    from undrift.state.ports import Lake

__all__ = ["Cell", "Evidence", "collect", "segment_columns", "values_of"]

LOOK_BACK: Final = timedelta(days=7)
"""Champion traffic before the first step that fixes, ahead of all evidence, the centre of bets and the segments."""
BOUNDED: Final = frozenset({"brier", "error", "failed", "violations"})
EXPECTED: Final = {"failed": 0.0, "violations": 0.05, "brier": 0.2, "error": 0.2}
"""Centre of bets where the champion has no past; a wrong one costs power, never validity."""
FEWEST_UNITS: Final = 8
"""Candidate units below which a segment is not looked at; exact bets need no more than that."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One metric in one segment: means of both arms, their difference, and the evidence that it exceeds the margin.

    ``half_width`` is that of the anytime-valid difference at ``alpha / 2`` (infinite where too little was seen);
    ``e_value`` the wealth of exact bets against "at most the margin", 0 where the metric has no bounds.
    """

    metric: str
    segment: dict[str, str]
    margin: float
    champion_units: int
    candidate_units: int
    champion_mean: float
    candidate_mean: float
    difference: float
    half_width: float
    e_value: float = 0.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a rollout until now.

    ``counts`` holds (weight, champion units, candidate units) of each weight; ``mixed`` the units seen in both arms at
    one weight; ``tests`` how many cells share alpha; ``thin`` the segments with too few units to be looked at.
    """

    window: Window
    cells: tuple[Cell, ...]
    counts: tuple[tuple[float, int, int], ...]
    mixed: int
    exposure: Exposure
    tests: int
    thin: int
    unlabelled: int = 0


class _Arms(msgspec.Struct, frozen=True):
    """Rows of both arms as arrays: who answered, with which probability, in which stratum, for which unit."""

    candidate: NDArray[np.bool_]
    probability: NDArray[np.float64]
    stratum: NDArray[np.int64]
    unit: NDArray[np.int64]
    first: NDArray[np.bool_]


def collect(lake: Lake, interface: Interface, state: RolloutState, now: datetime) -> Evidence:
    """Read and sum up the traffic of a rollout, from its first live step until now.

    Parameters
    ----------
    now : labels and rows with a later event time are not looked at.
    """
    begin = state.spans[0].start if state.spans else state.started_at
    rows = outcomes(lake, state.model, begin - LOOK_BACK, now, now)
    return summarise(rows, interface, state, begin, now)


def summarise(rows: pa.Table, interface: Interface, state: RolloutState, begin: datetime, now: datetime) -> Evidence:
    """Sum up rows as `outcomes` gives them; pure."""
    revision = np.asarray(rows["revision"].to_pylist(), dtype=object)
    times = rows["event_time"].cast("int64").to_numpy()
    start = int(begin.timestamp() * 1e6)
    live = times >= start
    before = ~live & (revision == state.champion)
    values = values_of(rows, interface, [g.metric for g in state.declared.guardrails])
    segments = segment_columns(rows, interface)
    known = sum(len(set(codes[live | before].tolist()) - {-1}) for codes, _ in segments.values())
    keep = live & ((revision == state.candidate) | ((revision == state.champion) & ~_stand_ins(rows, revision, state)))
    arms = _arms(rows, keep, state)
    labelled = _labelled(rows)[keep]
    cells: list[Cell] = []
    tests, thin = 0, 0
    alpha = state.declared.alpha
    for guard in state.declared.guardrails:
        tests += 1 + (known if guard.by_segment else 0)
    for guard in state.declared.guardrails:
        y, past = values[guard.metric][keep], values[guard.metric][before]
        cells.append(_cell(guard, {}, guard.margin, y, past, arms, alpha / max(tests, 1)))
        if not guard.by_segment:
            continue
        margin = guard.margin if guard.segment_margin is None else guard.segment_margin
        for column, (codes, names) in segments.items():
            here, then = codes[keep], codes[before]
            for code, name in enumerate(names):
                inside = here == code
                if int((inside & arms.candidate & arms.first).sum()) < FEWEST_UNITS:
                    thin += bool(inside.any()) and guard is state.declared.guardrails[0]
                    continue
                masked = np.where(inside, y, np.nan)
                cells.append(_cell(guard, {column: name}, margin, masked, past[then == code], arms, alpha / tests))
    counts, mixed = _counts(arms)
    step_start = int(state.step_started_at.timestamp() * 1e6)
    in_step = arms.candidate & labelled & (times[keep] >= step_start)
    exposure = Exposure(
        step_units=len(set(arms.unit[in_step].tolist())),
        total_units=len(set(arms.unit[arms.candidate].tolist())),
    )
    return Evidence(
        window=Window(begin, now),
        cells=tuple(cells),
        counts=counts,
        mixed=mixed,
        exposure=exposure,
        tests=tests,
        thin=thin,
        unlabelled=int((~labelled).sum()),
    )


def values_of(rows: pa.Table, interface: Interface, metrics: list[str]) -> dict[str, NDArray[np.float64]]:
    """One value a row and metric; NaN where there is none (no label yet, no answer)."""
    n = rows.num_rows
    found: dict[str, NDArray[np.float64]] = {}
    failed = _failed(rows)
    direct: dict[str, Callable[[], NDArray[np.float64]]] = {
        "failed": lambda: failed.astype(np.float64),
        "shift": lambda: np.where(failed, np.nan, _floats(rows["score"])),
        "violations": lambda: np.asarray([float(bool(v)) for v in rows["violations"].to_pylist()], dtype=np.float64),
        "latency": lambda: np.where(failed, np.nan, _floats(rows["latency_us"]) / 1000.0),
    }
    losses: dict[str, NDArray[np.float64]] | None = None
    for metric in metrics:
        if metric in direct:
            found[metric] = direct[metric]()
            continue
        if losses is None:
            losses = _losses(rows, interface, failed)
        found[metric] = losses.get(metric, np.full(n, np.nan))
    return found


def segment_columns(rows: pa.Table, interface: Interface) -> dict[str, tuple[NDArray[np.int64], list[str]]]:
    """Each declared segment as (code per row, names); -1 where the row has no value."""
    import pyarrow.compute as pc

    found = {}
    for name in interface.segments:
        if "inputs" not in rows.column_names:
            break
        inputs = rows["inputs"]
        if name not in [field.name for field in inputs.type]:
            continue
        column = pc.cast(pc.struct_field(inputs, name), "string").combine_chunks()
        encoded = column.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        order = {old: new for new, old in enumerate(sorted(range(len(names)), key=lambda i: names[i]))}
        raw = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        codes = np.array([order.get(int(i), -1) for i in range(len(names))] + [-1], dtype=np.int64)[raw]
        found[name] = (codes, sorted(names))
    return found


def _losses(rows: pa.Table, interface: Interface, failed: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    known = _labelled(rows) & ~failed
    picked = rows.filter(known)
    losses = row_losses(interface, picked)
    full = {}
    for name, values in losses.items():
        column = np.full(rows.num_rows, np.nan)
        column[known] = values
        full[name] = column
    return full


def _failed(rows: pa.Table) -> NDArray[np.bool_]:
    """Rows a variant could not answer; none in a table of no rows, which may lack the column."""
    if "error" not in rows.column_names:
        return np.zeros(rows.num_rows, dtype=bool)
    return np.asarray(rows["error"].is_valid().to_numpy(zero_copy_only=False), dtype=bool)


def _labelled(rows: pa.Table) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    either = pc.or_(rows["label"].is_valid(), rows["value"].is_valid())
    return np.asarray(either.to_numpy(zero_copy_only=False), dtype=bool)


def _stand_ins(rows: pa.Table, revision: NDArray[Any], state: RolloutState) -> NDArray[np.bool_]:
    """Rows the champion answered because the candidate had failed on them: they count for neither arm."""
    failed = np.flatnonzero(_failed(rows) & (revision == state.candidate))
    if not len(failed):
        return np.zeros(rows.num_rows, dtype=bool)
    asked = list(zip(rows["request_id"].to_pylist(), rows["unit"].to_pylist(), strict=True))
    broken = {asked[i] for i in failed}
    return np.fromiter((pair in broken for pair in asked), dtype=bool, count=len(asked))


def _floats(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.cast("float64").to_numpy(zero_copy_only=False), dtype=np.float64)


def _arms(rows: pa.Table, keep: NDArray[np.bool_], state: RolloutState) -> _Arms:
    """Arms, strata and units of the rows kept; the recorded propensity is that of the variant that was drawn."""
    picked = rows.filter(keep)
    candidate = np.asarray(picked["revision"].to_pylist(), dtype=object) == state.candidate
    drawn = _floats(picked["propensity"])
    probability = np.where(candidate, drawn, 1.0 - drawn)
    units = picked["unit"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    by_weight = np.unique(np.round(probability, 9), return_inverse=True)[1]
    days = picked["event_time"].cast("int64").to_numpy() // 86_400_000_000
    single = len(np.unique(units)) == len(units)
    stratum = np.unique(np.stack([by_weight, days if single else np.zeros_like(days)]), axis=1, return_inverse=True)[1]
    stratum = np.asarray(stratum).ravel()
    # one value a unit: those of the stratum in which it was first seen
    order = np.argsort(picked["event_time"].cast("int64").to_numpy(), kind="stable")
    home = np.full(int(units.max(initial=-1)) + 2, -1, dtype=np.int64)
    home[units[order[::-1]]] = stratum[order[::-1]]
    return _Arms(candidate, probability, stratum, units.astype(np.int64), stratum == home[units])


def _per_unit(
    y: NDArray[np.float64], arms: _Arms
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """Value, arm, probability and stratum of each unit that has a value and could have gone either way."""
    usable = np.isfinite(y) & arms.first & (arms.probability > 0) & (arms.probability < 1)
    y, arm = y[usable], arms.candidate[usable]
    p, stratum, unit = arms.probability[usable], arms.stratum[usable], arms.unit[usable]
    _, place, which = np.unique(unit, return_index=True, return_inverse=True)
    if len(place) == len(unit):
        return y, arm, p, stratum
    mean = np.bincount(which, weights=y) / np.bincount(which)
    return np.asarray(mean, dtype=np.float64), arm[place], p[place], stratum[place]


def _cell(
    guard: Guardrail,
    segment: dict[str, str],
    margin: float,
    values: NDArray[np.float64],
    past: NDArray[np.float64],
    arms: _Arms,
    alpha: float,
) -> Cell:
    y, arm, p, stratum = _per_unit(values, arms)
    strata = int(stratum.max(initial=-1)) + 1
    sums = [_sums(y[arm == side], stratum[arm == side], strata) for side in (False, True)]
    n0, n1 = int((~arm).sum()), int(arm.sum())
    sides = 2 if guard.metric == "shift" else 1
    bound = (
        difference_bounds(sums[0], sums[1], alpha / 2 / sides, max(60.0, n1 / 2), one_sided=True)
        if n0 and n1
        else Bounds(np.asarray(np.nan), np.asarray(np.inf))
    )
    in_range = bool(y.size) and float(y.min()) >= 0 and float(y.max()) <= 1
    exact = 0.0
    if n1 and in_range and (guard.metric in BOUNDED or guard.metric == "shift") and 0 <= margin < 1:
        seen = past[np.isfinite(past)]
        centre = seen.mean() if len(seen) >= FEWEST_UNITS else EXPECTED.get(guard.metric, 0.5)
        centre = float(np.clip(centre, 0.01, 0.99))
        exact = Wealth.at([margin], center=centre).update(y, arm, p).e_values[0]
        if sides == 2:
            exact = max(exact, Wealth.at([margin], center=1 - centre).update(1 - y, arm, p).e_values[0])
    return Cell(
        metric=guard.metric,
        segment=segment,
        margin=margin,
        champion_units=n0,
        candidate_units=n1,
        champion_mean=float(y[~arm].mean()) if n0 else float("nan"),
        candidate_mean=float(y[arm].mean()) if n1 else float("nan"),
        difference=float(bound.value),
        half_width=float(bound.half_width),
        e_value=exact / sides,
    )


def _sums(
    y: NDArray[np.float64], stratum: NDArray[np.int64], strata: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    n = np.bincount(stratum, minlength=strata).astype(np.float64)
    mean = np.bincount(stratum, weights=y, minlength=strata) / np.maximum(n, 1)
    m2 = np.bincount(stratum, weights=np.square(y - mean[stratum]), minlength=strata)
    return n, mean, np.asarray(m2, dtype=np.float64)


def _counts(arms: _Arms) -> tuple[tuple[tuple[float, int, int], ...], int]:
    found, mixed = [], 0
    probability = np.round(arms.probability, 9)
    for p in np.unique(probability):
        if not 0 < p < 1:
            continue
        here = probability == p
        old, new = (set(arms.unit[here & (arms.candidate == side)].tolist()) for side in (False, True))
        mixed += len(old & new)
        found.append((round(float(p) * 100, 6), len(old), len(new)))
    return tuple(found), mixed
