"""Rows unlike those in training: missing, unseen, out of range, one value too often, looked up in vain.

Each is a share of the window's rows, held against the share in training and in every earlier window that is there; a
clock that runs ahead is seen by the times of rows. Distances of whole distributions are drift.py's business, sources
themselves feed.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Interval, Verdict, Window
from undrift.monitor.cells import Reference
from undrift.monitor.frames import column, columns_of, inside, micros, numeric, outside, past_rates
from undrift.monitor.monitors import Monitor, found
from undrift.stats.compare import wilson_interval
from undrift.stats.summary import Counts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["judge_integrity"]

FEWEST_ROWS: Final = 30
FEWEST_WINDOWS: Final = 3
AHEAD: Final = timedelta(minutes=5)
"""How far events may lie after their arrival: clocks differ."""

Bools = NDArray[np.bool_]


class _Share(NamedTuple):
    """What is counted, where, for which rows it is true, its share in training, and what it means in words."""

    name: str
    column: str
    flag: Bools
    usual: float
    what: str
    cause: str


def judge_integrity(
    monitor: Monitor,
    rows: pa.Table,
    reference: Mapping[str, Reference],
    now: datetime,
    *,
    tick: timedelta = timedelta(days=1),
    spoiled: tuple[Window, ...] = (),
    views: Mapping[str, frozenset[str]] | None = None,
    version: int | None = None,
) -> list[Finding]:
    """Judge the rows of the last window; pure.

    Parameters
    ----------
    rows : captured predictions of the window and of days before it.
    reference : by column name, from the bundle of the champion.
    spoiled : windows of known faults, which are no custom.
    version : if given, scores are those of this version only: a candidate's are held against a reference of its own.
    views : the features of each view, to tell lookups that found nothing from values that were absent.
    """
    window = Window(now - monitor.span, now)
    times = micros(rows, "event_time")
    fresh = inside(times, window.start, window.end)
    n = int(fresh.sum())
    if n < FEWEST_ROWS:
        why = f"only {n} rows in {window} to look at"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="integrity", value=0.0, n=n, window=window)]
    past = (times < int(window.start.timestamp() * 1_000_000)) & outside(times, spoiled)
    mine = rows["version"].to_numpy() == version if version is not None else np.ones(rows.num_rows, dtype=bool)
    shares = [
        share._replace(flag=share.flag & mine) if share.column == "score" else share
        for share in _shares(monitor, rows, times, reference, fresh, views or {})
    ]
    alpha = monitor.alpha(len(shares), max(1, int(timedelta(days=30) / tick)))
    findings = []
    for share in shares:
        held = _judge(monitor, share, times, (fresh, past), alpha, window)
        if held is not None:
            findings.append(held)
    if not findings:
        why = f"{n} rows, {len(shares)} shares of them as in training"
        findings.append(found(monitor, Verdict.PASS, why, name="integrity", value=0.0, n=n, window=window))
    return findings


def _judge(
    monitor: Monitor, share: _Share, times: NDArray[np.int64], rows: tuple[Bools, Bools], alpha: float, window: Window
) -> Finding | None:
    fresh, past = rows
    n, k = int(fresh.sum()), int((share.flag & fresh).sum())
    if k / n <= share.usual + monitor.size:
        return None
    rates = _custom(past_rates(share.flag, times, past, window), share.usual, monitor.size)
    if share.name == "spike" and len(rates) < FEWEST_WINDOWS:
        return None  # a dry week may fill a column with zeros: custom is learnt first
    most = float(rates.max(initial=0.0))
    bound = max(share.usual, most) + monitor.size
    seen = wilson_interval(Counts(k, n), 1 - 2 * alpha)
    if seen.lower <= bound:
        return None
    first = int(times[fresh & share.flag].min())
    where = f"{share.column}: " if share.column else ""
    why = (
        f"{where}{k / n:.1%} of {n} rows {share.what} (at least {seen.lower:.1%}), {share.usual:.1%} in training, at "
        f"most {most:.1%} in a window before"
    )
    return found(
        monitor,
        Verdict.FAIL,
        why,
        name=share.name,
        value=k / n,
        n=n,
        window=window,
        column=share.column,
        interval=Interval(seen.lower, seen.upper, 1 - alpha),
        onset=datetime.fromtimestamp(first / 1_000_000, tz=window.start.tzinfo),
        cause=f"{share.column} {share.cause}".strip(),
    )


def _custom(rates: NDArray[np.float64], usual: float, practical: float) -> NDArray[np.float64]:
    """Earlier windows' rates, the latest first, without those directly before this window that are all above every
    older one: what has just begun is no custom. Enough older ones are left to tell.
    """
    for suspect in range(len(rates) - FEWEST_WINDOWS, 0, -1):
        if rates[:suspect].min() > max(usual, float(rates[suspect:].max())) + practical / 2:
            return rates[suspect:]
    return rates


def _shares(
    monitor: Monitor,
    rows: pa.Table,
    times: NDArray[np.int64],
    reference: Mapping[str, Reference],
    fresh: Bools,
    views: Mapping[str, frozenset[str]],
) -> Iterator[_Share]:
    columns = {
        name: values
        for name, values in columns_of(rows).items()
        if name in reference and name != "label" and (not monitor.columns or name in monitor.columns)
    }
    missing = {name: np.asarray(values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool)
               for name, values in columns.items()}  # fmt: skip
    explained: set[str] = set()
    for view, features in sorted(views.items()):
        mine = sorted(features & missing.keys())
        if not mine:
            continue
        vain = np.logical_and.reduce([missing[name] for name in mine])
        usual = min(_null_rate(reference[name]) for name in mine)
        yield _Share("join_miss", view, vain, usual, "found nothing in the view", "is looked up in vain")
        if float(vain[fresh].mean()) > usual + monitor.size:
            explained |= set(mine)
    for name, values in columns.items():
        known = reference[name]
        if name not in explained:
            yield _Share("missing", name, missing[name], _null_rate(known), "have no value", "went missing")
        if known.edges and numeric(values):
            x = column(values)
            yield from _of_numbers(name, x, known, fresh)
        elif known.labels and known.complete:
            yield from _of_categories(name, values, known, missing[name])
    if "received_at" in rows.column_names:
        ahead = times - micros(rows, "received_at") > int(AHEAD / timedelta(microseconds=1))
        yield _Share("clock", "", ahead, 0.0, "happened after they arrived", "clocks differ by minutes")


def _of_numbers(name: str, x: NDArray[np.float64], known: Reference, fresh: Bools) -> Iterator[_Share]:
    if known.minimum is not None and known.maximum is not None:
        out = (x < known.minimum) | (x > known.maximum)
        yield _Share(
            "range", name, out, 0.0, f"lie outside {known.minimum:.6g} to {known.maximum:.6g}", "left its range"
        )
    held = x[fresh & np.isfinite(x)]
    if len(held):
        values, counts = np.unique(held, return_counts=True)
        top = float(values[int(counts.argmax())])
        usual = known.spike if known.n else 0.0
        yield _Share("spike", name, x == top, usual, f"hold {top:.6g}", f"holds {top:.6g} too often")


def _of_categories(name: str, values: Any, known: Reference, missing: Bools) -> Iterator[_Share]:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.cast(values, pa.string())
    held = pc.is_in(texts, value_set=pa.array(known.labels, pa.string()))
    new = ~np.asarray(held.to_numpy(zero_copy_only=False), dtype=bool) & ~missing
    yield _Share("unseen", name, new, 0.0, "hold values never seen in training", "holds values never seen in training")


def _null_rate(known: Reference) -> float:
    whole = known.n + known.nulls
    return known.nulls / whole if whole else 0.0
