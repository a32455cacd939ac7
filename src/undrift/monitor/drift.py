"""Drift of inputs, features, scores and labels against the reference profile of the version that serves.

A column drifts when its distance is beyond the practical size with confidence, and stays so. Rows of one day share
their weather, so a window holds fewer independent rows than it has: counts are divided by the design effect that days
show (Kish 1965), else everything would drift once n is large.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Interval, Verdict, Window
from undrift.monitor.frames import column, columns_of, inside, micros, numeric, outside
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found
from undrift.stats.distance import Distance, kolmogorov_smirnov, total_variation

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Reference", "judge_drift", "reference_of"]

FEWEST_ROWS: Final = 100
MOST_CELLS: Final = 20
DAY: Final = 86_400_000_000

Floats = NDArray[np.float64]


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A column as it was in training: counts in cells.

    Parameters
    ----------
    edges : inner cut points of a numeric column, ascending; cell i holds values in [edges[i-1], edges[i]), the first
        and last are open. Empty for categories.
    labels : categories, the last cell being all others. Empty for numbers.
    counts : rows per cell, one more than edges or labels.
    """

    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    counts: tuple[float, ...] = ()
    nulls: int = 0

    @property
    def n(self) -> float:
        """Rows with a value."""
        return float(sum(self.counts))


def reference_of(values: Any) -> Reference:
    """The reference of a column of training rows: twentieths for numbers, the frequent categories else."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = int(values.null_count)
    if numeric(values):
        x = column(values)
        x = x[np.isfinite(x)]
        edges = np.unique(np.quantile(x, np.arange(1, MOST_CELLS) / MOST_CELLS)) if len(x) else np.zeros(0)
        made = Reference(edges=tuple(edges.tolist()), nulls=nulls)
    else:
        texts = [text for text in pc.cast(values, pa.string()).to_pylist() if text is not None]
        names, counts = np.unique(texts, return_counts=True) if texts else (np.zeros(0, dtype=str), np.zeros(0))
        top = [str(names[i]) for i in np.argsort(-counts, kind="stable")[:MOST_CELLS]]
        made = Reference(labels=tuple(sorted(top)), nulls=nulls)
    cells = _cells(made, values)
    counted = np.bincount(cells[cells >= 0], minlength=_size(made))
    return msgspec.structs.replace(made, counts=tuple(float(c) for c in counted))


def judge_drift(
    monitor: Monitor,
    rows: pa.Table,
    reference: Mapping[str, Reference],
    now: Any,
    *,
    tick: timedelta = timedelta(days=1),
    spoiled: tuple[Window, ...] = (),
    answers_spoiled: tuple[Window, ...] = (),
    version: int | None = None,
) -> list[Finding]:
    """Judge the columns of the last window; pure.

    Parameters
    ----------
    rows : captured predictions (with outcomes where ``label`` is watched) of at least the window and the ticks the
        persistence looks back.
    reference : by column name, from the bundle of the champion.
    spoiled : windows of faults of feeds, left out.
    answers_spoiled : windows of silent failures, left out of ``score``; inputs are sound in them.
    version : if given, scores are those of this version only.
    """
    window = Window(now - monitor.span, now)
    times = micros(rows, "event_time")
    sound = outside(times, spoiled)
    named = columns_of(rows)
    watched = [
        c for c in sorted(reference) if c in named and (c in monitor.columns if monitor.columns else c != "label")
    ]
    mine = rows["version"].to_numpy() == version if version is not None else np.ones(rows.num_rows, dtype=bool)
    alpha = monitor.alpha(len(watched), max(1, int(timedelta(days=30) / tick)))
    findings = []
    for name in watched:
        which = sound & mine & outside(times, answers_spoiled) if name == "score" else sound
        cells = _cells(reference[name], named[name])
        findings.append(
            _judge(monitor, name, reference[name], times, np.where(which, cells, -1), (alpha, tick), window)
        )
    return findings


def _judge(
    monitor: Monitor,
    name: str,
    reference: Reference,
    times: NDArray[np.int64],
    cells: NDArray[np.int64],
    terms: tuple[float, timedelta],
    window: Window,
) -> Finding:
    """Beyond the practical size with confidence at k of the last n ticks."""
    alpha, tick = terms
    seen: Distance | None = None
    beyond, first, effect = 0, None, 1.0
    for back in reversed(range(monitor.lasting.n)):
        end = window.end - back * tick
        held = inside(times, end - monitor.span, end) & (cells >= 0)
        seen, effect = _distance(reference, times[held], cells[held], alpha)
        if seen is not None and seen.lower > monitor.size:
            beyond += 1
            first = first or end
    if seen is None:
        n = int((inside(times, window.start, window.end) & (cells >= 0)).sum())
        why = f"{name}: {n} values in {window}, too few to say"
        return found(monitor, Verdict.INCONCLUSIVE, why, name="drift", value=0.0, n=n, window=window, column=name)
    bad = seen.lower > monitor.size and beyond >= monitor.lasting.k
    measure = "largest gap of distribution functions" if reference.edges else "share that moved"
    why = (
        f"{name}: {measure} is {seen.value:.3f} (at least {max(seen.lower, 0.0):.3f}; tolerated {monitor.size:g}; "
        f"{window}, {_moved(reference, cells[inside(times, window.start, window.end)])})"
    )
    return found(
        monitor,
        Verdict.FAIL if bad else Verdict.PASS,
        why,
        name="drift",
        value=seen.value,
        n=int(seen.n * effect),
        window=window,
        column=name,
        interval=Interval(seen.lower, seen.upper, 1 - alpha),
        onset=first,
        cause=f"{name} drifted" if bad else "",
        design_effect=round(effect, 2),
        lingers=bool(seen.value > monitor.size),
    )


def _distance(
    reference: Reference, times: NDArray[np.int64], cells: NDArray[np.int64], alpha: float
) -> tuple[Distance | None, float]:
    """The distance of a window from the reference, counts divided by the design effect of days."""
    days = np.unique(times // DAY, return_inverse=True)[1]
    count = int(days.max(initial=-1)) + 1
    if len(cells) < FEWEST_ROWS or count < FEWEST_DAYS["drift"] or reference.n < FEWEST_ROWS:
        return None, 1.0
    size = _size(reference)
    table = np.bincount(days * size + cells, minlength=count * size).reshape(count, size).astype(np.float64)
    counts = table.sum(axis=0)
    effect = _design_effect(table) * _few_days(count, alpha)
    level = 1 - 2 * alpha  # one side of a two-sided interval
    before = np.asarray(reference.counts) / effect
    if reference.edges:
        places = np.arange(size, dtype=np.float64)
        return kolmogorov_smirnov(places, places, before, counts / effect, level=level), effect
    return total_variation(before, counts / effect, level=level), effect


def _design_effect(table: Floats) -> float:
    """How many rows count as one: variance of days' shares against that of independent rows, at least 1."""
    rows = table.sum(axis=1)
    n, days = rows.sum(), len(rows)
    share = table.sum(axis=0) / n
    residual = table - rows[:, None] * share
    between = float(np.square(residual).sum()) * days / (days - 1)
    within = float((share * (1 - share)).sum()) * n
    return max(1.0, between / within) if within > 0 else 1.0


def _few_days(days: int, alpha: float) -> float:
    """What the design effect is raised by because so few days show it: Student's quantile for the normal one."""
    from scipy.special import ndtri, stdtrit

    return float(max(1.0, stdtrit(days - 1, 1 - alpha) / ndtri(1 - alpha)) ** 2)


def _size(reference: Reference) -> int:
    return (len(reference.edges) or len(reference.labels)) + 1


def _cells(reference: Reference, values: Any) -> NDArray[np.int64]:
    """The cell of each row's value; -1 for none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if reference.edges and numeric(values):
        x = column(values)
        cells = np.searchsorted(np.asarray(reference.edges), x, side="right")
        return np.where(np.isfinite(x), cells, -1).astype(np.int64)
    if reference.edges:
        return np.full(len(values), -1, dtype=np.int64)
    texts = pc.cast(values, pa.string())
    place = pc.index_in(texts, value_set=pa.array(reference.labels, pa.string()))
    cells = pc.fill_null(place, len(reference.labels))
    held = texts.is_valid().to_numpy(zero_copy_only=False)
    return np.where(held, np.asarray(cells.to_numpy()), -1).astype(np.int64)


def _moved(reference: Reference, cells: NDArray[np.int64]) -> str:
    """In words: which category moved most, or where the middle of the numbers lies now."""
    now = np.bincount(cells[cells >= 0], minlength=_size(reference)).astype(np.float64)
    before = np.asarray(reference.counts)
    if not now.sum() or not before.sum():
        return "nothing to compare"
    p, q = before / before.sum(), now / now.sum()
    if not reference.edges:
        top = int(np.abs(q - p).argmax())
        label = reference.labels[top] if top < len(reference.labels) else "other values"
        return f"{label}: {p[top]:.1%} before, {q[top]:.1%} now"
    cut = min(int(np.searchsorted(np.cumsum(q), 0.5)), len(reference.edges) - 1)
    old = min(int(np.searchsorted(np.cumsum(p), 0.5)), len(reference.edges) - 1)
    return f"median near {reference.edges[old]:.4g} before, {reference.edges[cut]:.4g} now"
