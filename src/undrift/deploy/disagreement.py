"""Where two revisions disagree on the same rows: how often, by how much, for whom, and at what cost; pure.

A comparison of errors says which is better; this says what would change, before any user sees it. What is judged stands
in paired.py; the tables here are for people, and the cases at their end for looking at one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from undrift.deploy.paired import as_answered_by
from undrift.deploy.shadow import Replay
from undrift.deploy.traffic import segment_columns
from undrift.develop.bundle import Interface
from undrift.finding import Table
from undrift.validate.metrics import row_losses

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["REDACTED", "disagreement"]

CASES: Final = 10
BINS: Final = 10
SEGMENTS: Final = 50
REDACTED: Final = "(personal)"
"""What stands for a personal field: it was never captured."""

Floats = NDArray[np.float64]


def disagreement(interface: Interface, rows: pa.Table, champion: Replay, candidate: Replay) -> tuple[Table, ...]:
    """Both revisions' answers to the same rows, side by side.

    Parameters
    ----------
    interface : the candidate's.
    rows : predictions with outcomes that the champion answered, in the order of the replays.
    champion, candidate : their replays; the champion's is for its cost, its answers are those that users got.
    """
    old, new = _scores(rows["score"].to_pylist()), _scores(candidate.score)
    if len(new) < len(old):  # a process that died answered nothing
        new = np.full(len(old), np.nan)
    both = np.isfinite(old) & np.isfinite(new)
    was = rows["prediction"].to_pylist() if "prediction" in rows.column_names else [None] * len(old)
    says = list(candidate.label or []) + [None] * (len(old) - len(candidate.label or []))
    flipped = np.fromiter((a != b for a, b in zip(was, says, strict=True)), dtype=bool, count=len(old)) & both
    classes = interface.task != "regression"
    gap = np.where(both, new - old, np.nan)
    tables = [_overall(gap, flipped, classes), _distribution(gap[both], interface.task == "regression")]
    if classes:
        tables.append(_flips(was, says, both))
    tables += [
        _by_segment(interface, rows, gap, flipped, classes),
        _cost(champion, candidate),
        _quality(interface, rows, candidate),
        _cases(interface, rows, old, new, was, says, classes),
    ]
    return tuple(table for table in tables if table.rows)


def _scores(values: list[float | None]) -> Floats:
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)


def _overall(gap: Floats, flipped: NDArray[np.bool_], classes: bool) -> Table:
    held = gap[np.isfinite(gap)]
    size = np.abs(held)
    rows: list[tuple[Any, ...]] = [("rows compared", len(held)), ("rows it could not answer", len(gap) - len(held))]
    if len(held):
        if classes:
            rows.append(("share with another answer", float(flipped.sum() / len(held))))
        rows += [
            ("mean difference of the score", float(held.mean())),
            ("mean size of the difference", float(size.mean())),
            *((f"size not passed by {share:.0%}", float(np.quantile(size, share))) for share in (0.5, 0.9, 0.99)),
            ("largest size", float(size.max())),
        ]
    return Table(title="Disagreement (candidate minus champion)", columns=("what", "value"), rows=tuple(rows))


def _distribution(held: Floats, free: bool) -> Table:
    """Counts of differences: ten even bins over [-1, 1] for probabilities, else over the 1st to 99th percentile."""
    if not len(held):
        return Table(title="Differences", columns=("from", "to", "rows"), rows=())
    low, high = (float(np.quantile(held, 0.01)), float(np.quantile(held, 0.99))) if free else (-1.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1e-9, BINS + 1)
    inner = np.clip(np.searchsorted(edges, held, side="right") - 1, 0, BINS - 1)
    counts = np.bincount(inner, minlength=BINS)
    rows = tuple((float(edges[i]), float(edges[i + 1]), int(counts[i])) for i in range(BINS))
    title = "Differences of the score (what lies outside counts in the first or last row)"
    return Table(title=title, columns=("from", "to", "rows"), rows=rows)


def _flips(was: list[Any], says: list[Any], both: NDArray[np.bool_]) -> Table:
    counts: dict[tuple[str, str], int] = {}
    for old, new, held in zip(was, says, both, strict=True):
        if held:
            counts[(str(old), str(new))] = counts.get((str(old), str(new)), 0) + 1
    rows = tuple((old, new, n) for (old, new), n in sorted(counts.items()))
    return Table(title="Answers", columns=("champion", "candidate", "rows"), rows=rows)


def _by_segment(interface: Interface, rows: pa.Table, gap: Floats, flipped: NDArray[np.bool_], classes: bool) -> Table:
    found: list[tuple[Any, ...]] = []
    for column, (codes, names) in segment_columns(rows, interface).items():
        for code, name in enumerate(names):
            inside = (codes == code) & np.isfinite(gap)
            if inside.any():
                share = float(flipped[inside].mean()) if classes else float("nan")
                found.append((f"{column}={name}", int(inside.sum()), share, float(gap[inside].mean())))
    found.sort(key=lambda row: (-abs(row[3]), row[0]))
    columns = ("segment", "rows", "other answer", "mean difference")
    return Table(title="By segment, the most different first", columns=columns, rows=tuple(found[:SEGMENTS]))


def _cost(champion: Replay, candidate: Replay) -> Table:
    """What a replay took, on this machine, one row at a time; both were measured one after the other."""
    pairs: dict[str, list[Any]] = {
        "milliseconds a row, median": [each.row_ms[0] if each.row_ms else None for each in (champion, candidate)],
        "milliseconds a row, p99": [each.row_ms[1] if each.row_ms else None for each in (champion, candidate)],
        "peak memory of the process, MB": [round(each.peak_mb, 1) or None for each in (champion, candidate)],
        "rows that failed": [sum(each.errors.values()) for each in (champion, candidate)],
    }
    rows = tuple((name, old, new) for name, (old, new) in pairs.items())
    errors = tuple((f"error: {said}", champion.errors.get(said, 0), n) for said, n in candidate.errors.items())
    return Table(title="Cost", columns=("what", "champion", "candidate"), rows=rows + errors[:CASES])


def _quality(interface: Interface, rows: pa.Table, candidate: Replay) -> Table:
    """Losses of both on the rows whose outcome is known and that both answered."""
    import pyarrow.compute as pc

    if len(candidate.score) != rows.num_rows:
        return Table(title="Quality", columns=(), rows=())
    new = as_answered_by(rows, candidate)
    known = pc.and_(pc.or_(rows["label"].is_valid(), rows["value"].is_valid()), new["error"].is_null())
    if "error" in rows.column_names:
        known = pc.and_(known, rows["error"].is_null())
    if not pc.any(known).as_py():
        return Table(title="Quality", columns=(), rows=())
    before, after = (row_losses(interface, table.filter(known)) for table in (rows, new))
    n = int(pc.sum(known).as_py())
    found = tuple((name, float(before[name].mean()), float(after[name].mean()), n) for name in sorted(before))
    title = "Quality on known outcomes (losses: less is better)"
    return Table(title=title, columns=("loss", "champion", "candidate", "rows"), rows=found)


def _cases(
    interface: Interface, rows: pa.Table, old: Floats, new: Floats, was: list[Any], says: list[Any], classes: bool
) -> Table:
    """The rows on which the two differ most, with their inputs; personal fields were never captured."""
    personal = interface.personal
    size = np.nan_to_num(np.abs(new - old), nan=-1.0)
    order = [int(i) for i in np.argsort(-size, kind="stable")[:CASES] if size[i] > 0]
    picked = rows.take(order)
    inputs = picked["inputs"].to_pylist() if "inputs" in picked.column_names else [{}] * len(order)
    found = []
    for place, (i, given) in enumerate(zip(order, inputs, strict=True)):
        shown = {name: REDACTED if name in personal else value for name, value in (given or {}).items()}
        answers = (f"{was[i]} ({old[i]:.4g})", f"{says[i]} ({new[i]:.4g})") if classes else (old[i], new[i])
        named = picked["prediction_id"][place].as_py()
        found.append((named, *answers, ", ".join(f"{name}={value}" for name, value in shown.items())))
    return Table(
        title="The most different cases", columns=("prediction", "champion", "candidate", "inputs"), rows=tuple(found)
    )
