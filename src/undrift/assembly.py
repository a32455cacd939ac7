"""Tables assembled from declarations and the lake: sources filled, views materialised, features joined point in time.

Training, retraining, shadow tests and local scoring all take their features from here, so there is one answer to
"what was known then". The computation itself stands in data/offline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from undrift.data.features import FeatureView, Source, Transform
from undrift.data.inspect import check
from undrift.data.offline import feature_table, materialise, point_in_time
from undrift.declarations import Model, resolve_function
from undrift.develop.bundle import Interface, load_functions
from undrift.errors import ConflictError, DataError, DeclarationError
from undrift.ids import duration, from_micros, to_micros
from undrift.project import Project

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["fill_sources", "materialise_views", "read_table", "transform_code", "view_tables", "with_features"]

ATTEMPTS = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_table(root: Path, data: str | Callable[..., Any]) -> pa.Table:
    """A table from a CSV or Parquet file, or from ``module:function`` of the project.

    Raises
    ------
    DataError : the file does not exist, cannot be read, or the function returned no table.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if callable(data) or (":" in data and not Path(data).suffix):
        found = resolve_function(root, data, what="data")()
        try:
            return pa.table(found)
        except (TypeError, ValueError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{data} returned a {type(found).__name__}, which is no table: {error}.",
                hint="Return anything with the Arrow PyCapsule interface: pyarrow, pandas, Polars, DuckDB.",
            ) from error
    file = root / data
    if not file.is_file():
        raise DataError(f"the data file {file} does not exist.")
    readers: dict[str, Callable[[Any], pa.Table]] = {
        ".csv": pyarrow.csv.read_csv,
        ".parquet": pyarrow.parquet.read_table,
        ".pq": pyarrow.parquet.read_table,
    }
    if file.suffix.lower() not in readers:
        raise DataError(f"{file}: {file.suffix or 'no suffix'} is not known; use {', '.join(sorted(readers))}.")
    try:
        table = readers[file.suffix.lower()](file)
    except (pa.ArrowInvalid, pa.ArrowIOError, OSError) as error:
        raise DataError(f"{file} cannot be read as {file.suffix.lower()[1:]}: {error}.") from error
    if table.num_rows == 0:
        raise DataError(f"{file} has no rows.")
    return table


def fill_sources(project: Project) -> dict[str, int]:
    """Load the past rows of each source that declares a history and is not in the lake yet; rows per source.

    They take the types of the contract, as rows that are pushed later have them; rows that break it are left out, as
    the server would refuse them, and noted.
    """
    import pyarrow as pa

    filled = {}
    for name, path in project.declarations.histories.items():
        source = project.declarations.sources[name]
        table = f"source_{name}"
        if project.lake.marks(table, ["history"])["history"] >= 0:
            continue
        rows = read_table(project.root, path)
        wanted = [field.name for field in source.contract.fields]
        missing = [column for column in wanted if column not in rows.column_names]
        if missing:
            raise DataError(f"the history of source {name!r} ({path}) lacks the column(s) {', '.join(missing)}.")
        checked = check(rows.select(wanted), source.contract)
        if checked.quarantined.num_rows:
            left, reason = checked.quarantined.num_rows, checked.quarantined["reason"][0].as_py()
            project.note(
                f"the history of source {name!r} ({path}): {left} of {rows.num_rows} rows break its contract and are "
                f"left out (the first: {reason})."
            )
        known = checked.accepted[source.known_at]
        rows = checked.accepted.append_column("received_at", known).append_column("date", known.cast(pa.date32()))
        project.lake.append(table, rows, marks={"history": 0})
        filled[name] = rows.num_rows
    return filled


def _views(project: Project, extra: Iterable[FeatureView] = ()) -> list[FeatureView]:
    """Declared views and those of revisions in place (which may be older), each once per definition."""
    found = {view.key: view for model in project.declarations.models.values() for view in model.views}
    for route in project.journal.items("route").values():
        for revision in (route.get("champion"), route.get("candidate")):
            if revision:
                found.update({view.key: view for view in project.manifest(revision).interface.views})
    found.update({view.key: view for view in extra})
    return list(found.values())


def materialise_views(project: Project, until: datetime) -> None:
    """Compute every aggregated view at each hop up to a moment; into the lake, and the latest values online.

    Idempotent: the hops done are part of the same commit as their rows, and a worker that finds another to have done
    some of them goes on after those. Values go online first, so that a crash in between leaves no hop out there.

    Raises
    ------
    ConflictError : others did hops again and again while these were computed.
    """
    views = [view for view in _views(project) if view.aggregates]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _materialise(project, views, until)
            break
        except ConflictError:
            if attempt == ATTEMPTS:
                raise


def _source_of(project: Project, view: FeatureView) -> Source:
    source = project.known_sources().get(view.source)
    if source is None:
        raise DeclarationError(
            f"view {view.name!r} takes from the source {view.source!r}, which was never applied.",
            hint="Declare it in the declarations and run `undrift apply`.",
        )
    return source


def _materialise(project: Project, views: Sequence[FeatureView], until: datetime) -> None:
    hops = [hop for view in views if (hop := _hops(project, view, until)) is not None]
    for each in hops:
        _put_online(project, each.view, each.values)
    with ThreadPoolExecutor(max(len(hops), 1)) as pool:  # an append waits for files more than it computes
        for started in [pool.submit(_append_hops, project, each) for each in hops]:
            started.result()


class _Hops(NamedTuple):
    """The values of a view at the hops after those ``done``, up to ``end`` (microseconds)."""

    view: FeatureView
    values: pa.Table
    done: int
    end: int


def _append_hops(project: Project, hops: _Hops) -> None:
    table, marks, since = f"view_{hops.view.key}", {"hops": hops.end}, {"hops": hops.done}
    project.lake.append(table, _dated(hops.values), marks=marks, since=since)


def _hops(project: Project, view: FeatureView, until: datetime) -> _Hops | None:
    """What is to be added to a view; None for nothing."""
    hop = duration(view.hop)
    source = _source_of(project, view)
    end = _EPOCH + (until - _EPOCH) // hop * hop
    done = project.lake.marks(f"view_{view.key}", ["hops"])["hops"]
    if done >= to_micros(end):
        return None
    widest = max(duration(a.window) for a in view.aggregates)
    start = from_micros(done) if done >= 0 else None
    where: list[tuple[str, str, Any]] = [("date", "<=", end.date())]
    if start is not None:
        where.append(("date", ">=", (start - widest).date()))
    rows = project.lake.scan(f"source_{view.source}", where=where)
    if rows is None or rows.num_rows == 0:
        return None
    if start is None:
        import pyarrow.compute as pc

        start = pc.min(rows[source.known_at]).as_py() - timedelta(microseconds=1)
    values = materialise(view, rows, source, start, end)
    return _Hops(view, values, done, to_micros(end)) if values.num_rows else None


def _dated(values: pa.Table) -> pa.Table:
    import pyarrow as pa

    return values.append_column("date", values["event_time"].cast(pa.date32()))


def _put_online(project: Project, view: FeatureView, values: pa.Table) -> None:
    latest: dict[str, dict[str, Any]] = {}
    for row in values.to_pylist():
        if row["entity"] not in latest or row["event_time"] >= latest[row["entity"]]["event_time"]:
            latest[row["entity"]] = row
    names = [feature.name for feature in view.outputs]
    project.online.put(
        view.key,
        [(entity, to_micros(row["event_time"]), {n: row[n] for n in names}) for entity, row in latest.items()],
    )


def view_tables(
    project: Project, views: Iterable[FeatureView], start: datetime, end: datetime
) -> list[tuple[FeatureView, pa.Table]]:
    """Each view with the feature rows (entity, event_time, values) that may count for times in ``[start, end]``.

    Raises
    ------
    DataError : a view has no rows at all: its source is empty or was never materialised.
    """
    tables = []
    for view in views:
        since = (start - duration(view.ttl)).date()
        where = [("date", ">=", since), ("date", "<=", end.date())]
        if view.aggregates:
            rows = project.lake.scan(f"view_{view.key}", where=where)
        else:
            rows = project.lake.scan(f"source_{view.source}", where=where)
            if rows is not None:
                rows = feature_table(view, rows, _source_of(project, view))
        if rows is None:
            raise DataError(
                f"view {view.name!r} has no rows in the lake.",
                hint=f"Push rows to /v1/sources/{view.source}, or declare `histories = {{{view.source!r}: ...}}`.",
            )
        tables.append((view, rows))
    return tables


def _functions(project: Project, transforms: Iterable[Transform], bundle: Path | None) -> dict[str, Callable[..., Any]]:
    wanted = tuple(transforms)
    if bundle is not None:
        return load_functions(bundle, wanted)
    return {t.name: resolve_function(project.root, t.function, what=f"transform {t.name!r}") for t in wanted}


def with_features(
    project: Project, model: Model | Interface, rows: pa.Table, *, bundle: Path | None = None
) -> pa.Table:
    """Rows with all inputs of a model: looked up as known at each row's time, and computed by its transforms.

    Parameters
    ----------
    rows : the request fields; the time column as timestamp.
    bundle : take the code of transforms from this bundle instead of the project's folder.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    interface = model if isinstance(model, Interface) else model.interface()
    if not interface.views and not interface.transforms:
        return rows
    time = interface.time
    if not time and interface.views:
        raise DeclarationError(f"model {interface.model!r} looks features up, so it needs a `time` field.")
    functions = _functions(project, interface.transforms, bundle)
    if not interface.views:
        return point_in_time(rows, time, [], interface.transforms, functions)
    moments = rows[time].cast(pa.timestamp("us", "UTC"))
    span = pc.min_max(moments).as_py()
    tables = view_tables(project, interface.views, span["min"], span["max"])
    return point_in_time(rows, time, tables, interface.transforms, functions)


def transform_code(project: Project, model: Model) -> dict[str, str]:
    """The source text of the modules that a model's transforms name."""
    modules = {transform.function.partition(":")[0] for transform in model.transforms}
    code = {}
    for name in sorted(modules):
        file = project.root / f"{name}.py"
        try:
            code[name] = file.read_text(encoding="utf-8")
        except OSError as error:
            raise DeclarationError(
                f"a transform names the module {name!r}, but {file} cannot be read: {error}."
            ) from error
    return code
