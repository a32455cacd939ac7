"""What a rehearsal is played with: the project's own captured rows with their outcomes, else its training data.

Rows are kept whole, with the features they had at their time, and drawn at random for each day of the rehearsal; so the
days have no seasons, and what is found in the control run is a false alarm.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from undrift.assembly import read_table, with_features
from undrift.candidates import keeping
from undrift.data.outcomes import outcomes
from undrift.declarations import Model
from undrift.develop.performance import label_text
from undrift.errors import DataError
from undrift.monitor.alerts import spoiled_windows
from undrift.project import Project
from undrift.rehearse.row import Row

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Material", "gather"]

CAPTURED: Final = timedelta(days=60)
FEWEST_CAPTURED: Final = 2000
FEWEST: Final = 100
MOST: Final = 12_000
SOURCE_DAYS: Final = 60


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """Rows to draw from, where they come from, and per source its latest rows in their order."""

    rows: list[Row]
    origin: str
    sources: dict[str, list[dict[str, Any]]]


def gather(project: Project, model: Model, seed: int) -> Material:
    """The material of a project.

    Raises
    ------
    DataError : there are fewer than 100 labelled rows.
    """
    rng = np.random.default_rng(seed)
    rows = _captured(project, model, rng)
    origin = f"{len(rows):,} captured rows with outcomes"
    if not rows and model.data:
        rows = _trained(project, model, rng)
        origin = f"{len(rows):,} rows of the training data"
    if len(rows) < FEWEST:
        raise DataError(
            f"{model.name}: {len(rows)} labelled rows are too few to rehearse with; {FEWEST} are needed.",
            hint="Serve traffic and send its labels, or declare `data`.",
        )
    return Material(rows=rows, origin=origin, sources=_sources(project, model))


def _captured(project: Project, model: Model, rng: np.random.Generator) -> list[Row]:
    import pyarrow.compute as pc

    now = project.now().now()
    table = outcomes(project.lake, model.name, now - CAPTURED, now, now)
    if not table.num_rows or "inputs" not in table.column_names:
        return []
    outcome = "value" if model.task == "regression" else "label"
    table = table.filter(pc.and_(pc.is_valid(table[outcome]), pc.is_null(table["error"])))
    spoiled = spoiled_windows(project.journal.items("incident"), model.name, now)
    keep = [not any(at in window for window in spoiled) for at in table["event_time"].to_pylist()]
    table = table.filter(keep)
    if table.num_rows < FEWEST_CAPTURED:
        return []
    table = _sample(table, rng)
    names = [name for name in ("inputs", "features", outcome) if name in table.column_names]
    return [
        Row(inputs=row["inputs"], features=row.get("features") or {}, label=row[outcome])
        for row in table.select(names).to_pylist()
    ]


def _trained(project: Project, model: Model, rng: np.random.Generator) -> list[Row]:
    import pyarrow.compute as pc

    interface = model.interface()
    table = keeping(read_table(project.root, model.data), interface.contract).accepted
    table = _sample(table.filter(pc.is_valid(table[model.label])), rng)
    full = with_features(project, interface, table)
    fields = [field.name for field in interface.contract.fields]
    looked_up = [output.name for view in interface.views for output in view.outputs]
    looked_up += [output.name for transform in interface.transforms for output in transform.outputs]
    rows = full.select(list(dict.fromkeys([*fields, *looked_up, model.label]))).to_pylist()
    regression = model.task == "regression"
    return [
        Row(
            inputs={name: row[name] for name in fields},
            features={name: row[name] for name in looked_up},
            label=float(row[model.label]) if regression else label_text(row[model.label]),
        )
        for row in rows
    ]


def _sample(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    if table.num_rows <= MOST:
        return table
    return table.take(np.sort(rng.choice(table.num_rows, MOST, replace=False)))


def _sources(project: Project, model: Model) -> dict[str, list[dict[str, Any]]]:
    """The last weeks of each source that a monitor watches or a view takes from."""
    import pyarrow.compute as pc

    found = {}
    watched = {view.source for view in model.views} | {m.source for m in model.monitors if m.source}
    known = project.known_sources()
    for name in sorted(watched & set(known)):
        table = project.lake.scan(f"source_{name}")
        if table is None or not table.num_rows:
            continue
        newest: datetime = pc.max(table[known[name].known_at]).as_py()
        first = newest - timedelta(days=SOURCE_DAYS)
        table = table.filter(pc.greater(table[known[name].known_at], first)).sort_by(known[name].known_at)
        found[name] = table.select([field.name for field in known[name].contract.fields]).to_pylist()
    return found
