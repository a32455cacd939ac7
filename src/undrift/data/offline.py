"""Features of the past, as they were known then: point-in-time joins, and aggregates over windows hop by hop.

Nothing is used before it was known. DuckDB only finds which row counts for which time; the values themselves are taken
by Arrow, so types and nulls stay as they are. The latest values stand in online.py, the definitions in features.py, a
slow and obvious twin of both functions in tests/oracle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from undrift.data.features import Aggregate, Feature, FeatureView, Function, Source, Transform, compute
from undrift.data.inspect import ARROW, UTC_MICROS
from undrift.errors import DataError, PredictionError
from undrift.ids import from_micros
from undrift.state.lake import sql

__all__ = ["feature_table", "materialise", "on_demand", "point_in_time"]

_BEFORE_ALL: Final = -(2**63)

_PLAIN: Final[dict[str, frozenset[type]]] = {
    "string": frozenset({str, type(None)}),
    "integer": frozenset({int, type(None)}),
    "number": frozenset({float, int, type(None)}),
    "boolean": frozenset({bool, type(None)}),
}
"""Types of outputs that need no look at each value."""
_ASOF: Final = """
SELECT feature.place AS found FROM asked
ASOF LEFT JOIN (SELECT entity, moment, max(place) AS place FROM known GROUP BY entity, moment) AS feature
ON asked.entity = feature.entity AND asked.moment >= feature.moment
ORDER BY asked.place
"""


def feature_table(view: FeatureView, source_rows: pa.Table, source: Source) -> pa.Table:
    """The rows of a direct view: ``entity``, ``event_time`` (when it was known), and the features.

    Rows without an entity or without the time they became known are left out. Rows are in the order in which they
    count: by the time they became known; of one time the one that happened later counts, then the one received later.

    Parameters
    ----------
    source_rows : the columns of the source; ``received_at`` decides ties if it is there.

    Raises
    ------
    DataError : a column is missing, a time has no zone, a value does not fit the type of its feature.
    """
    where = f"source {source.name!r}"
    keys = {"known": _micros(source_rows, source.known_at, where)}
    if source.time != source.known_at:
        keys["time"] = _micros(source_rows, source.time, where)
    if "received_at" in source_rows.column_names:
        keys["received"] = _micros(source_rows, "received_at", where)
    sortable = pa.table({name: pc.fill_null(times, _BEFORE_ALL) for name, times in keys.items()})
    order = pc.sort_indices(sortable, sort_keys=[(name, "ascending") for name in keys])
    columns = {
        "entity": _entities(source_rows, view.entity, where),
        "event_time": keys["known"].cast(UTC_MICROS),
        **{f.name: _typed(_column(source_rows, f.name, where), f, where) for f in view.features},
    }
    table = pa.table(columns).take(order)
    return table.filter(pc.and_(pc.is_valid(table["entity"]), pc.is_valid(table["event_time"])))


def point_in_time(
    entities: pa.Table,
    time: str,
    views: Sequence[tuple[FeatureView, pa.Table | None]],
    transforms: Sequence[Transform] = (),
    functions: Mapping[str, Function] | None = None,
    *,
    feature_times: bool = False,
) -> pa.Table:
    """Append to each row the features as they were known at the row's time.

    The value is that of the latest feature row known at or before the row's time, or null if there is none or it is
    older than the view's TTL. Exactly one row comes out per row that goes in, in the same order.

    Parameters
    ----------
    entities : rows with the entity columns of all views.
    time : the column with the time of prediction; a row where it is null has no features.
    views : each with its feature table (``entity``, ``event_time`` and the outputs, of equal rows the last counts), or
        None where nothing was ever known.
    transforms, functions : computed row by row from the columns of ``entities``; functions by name of the transform.
    feature_times : append a struct column ``feature_times`` with the time of each view's row (null: absent).

    Raises
    ------
    DataError : a column is missing or would be there twice, a time has no zone.
    PredictionError : a transform failed; says at which row.
    """
    at = _micros(entities, time, "the rows")
    found, times = entities, {}
    for view, known in views:
        table = known if known is not None else _nothing(view)
        where = f"view {view.name!r}"
        known_at = _micros(table, "event_time", where)
        keys = _entities(table, "entity", where)
        names = pc.unique(keys.drop_null())  # numbers join faster than text
        codes = pc.index_in(_entities(entities, view.entity, "the rows"), value_set=names)
        asked = pa.table({"entity": codes, "moment": at, "place": _places(entities)})
        known_codes = pc.index_in(keys, value_set=names)
        features = pa.table({"entity": known_codes, "moment": known_at, "place": _places(table)})
        rows = sql(_ASOF, asked=asked, known=features)["found"]
        of_row = known_at.take(rows)
        live = pc.less_equal(pc.subtract(at, of_row), view.ttl_micros)
        rows = pc.if_else(live, rows, None)  # null where nothing was found, too
        for output in view.outputs:
            found = _append(found, output.name, _typed(_column(table, output.name, where).take(rows), output, where))
        times[view.name] = pc.if_else(live, of_row, None).cast(UTC_MICROS)
    for transform in transforms:
        if transform.name not in (functions or {}):
            raise DataError(f"no function was given for the transform {transform.name!r}.")
        computed = on_demand(entities, transform, (functions or {})[transform.name])
        for name in computed.column_names:
            found = _append(found, name, computed[name])
    if feature_times:
        arrays = [column.combine_chunks() for column in times.values()]
        fields = [pa.field(name, UTC_MICROS) for name in times]
        whole = pa.StructArray.from_arrays(arrays, fields=fields) if times else pa.nulls(len(at), pa.struct([]))
        found = _append(found, "feature_times", whole)
    return found


def on_demand(rows: pa.Table, transform: Transform, function: Function) -> pa.Table:
    """The outputs of a transform, one row per row, by the function that serves requests.

    The function sees what it sees in a request: aware UTC datetimes, None for null and for NaN. It must depend on its
    inputs alone.

    Raises
    ------
    DataError : an input is no column.
    PredictionError : the function failed; says at which row.
    """
    columns = [_column(rows, name, "the rows") for name in transform.inputs]
    which, first = _distinct(columns, rows.num_rows)  # equal inputs, equal outputs: computed once
    values = [_values(column.take(pa.array(first))) for column in columns]
    inputs = [dict(zip(transform.inputs, row, strict=True)) for row in zip(*values, strict=True)]
    inputs = inputs or [{} for _ in first]
    given = _plain(transform, function, inputs)
    if given is None:
        found = []
        for row, each in zip(first.tolist(), inputs, strict=True):
            try:
                found.append(compute(transform, function, each))
            except PredictionError as error:
                raise PredictionError(f"{error.message} (row {row} of {rows.num_rows})") from error
        given = {f.name: [each[f.name] for each in found] for f in transform.outputs}
    places = pa.array(which)
    arrays = {f.name: pa.array(given[f.name], ARROW[f.type], from_pandas=True) for f in transform.outputs}
    return pa.table({name: array.take(places) for name, array in arrays.items()})


def _plain(transform: Transform, function: Function, inputs: Sequence[dict[str, Any]]) -> dict[str, list[Any]] | None:
    """What `compute` gives for each row, its checks made for whole columns at once; None where they need a closer look.

    That is where the function raises, leaves an output out or answers anything but plain values of the declared types.
    """
    try:
        given = [function(dict(row)) for row in inputs]
        if set(map(type, given)) - {dict}:
            return None
        columns = {f.name: [each[f.name] for each in given] for f in transform.outputs}
    except Exception:  # noqa: BLE001  foreign code: asked again row by row, its error is told with the row
        return None
    ok = all(set(map(type, columns[f.name])) <= _PLAIN.get(f.type, frozenset()) for f in transform.outputs)
    if not ok:
        return None
    numbers = [f.name for f in transform.outputs if f.type == "number"]
    return {**columns, **{n: [float(v) if type(v) is int else v for v in columns[n]] for n in numbers}}


def _distinct(columns: Sequence[pa.ChunkedArray], n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """For each row which distinct combination of values it holds, and for each of those its first row, in order."""
    codes = np.zeros(n, dtype=np.int64)
    for column in columns:
        coded = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
        _, codes = np.unique(codes * (len(coded.dictionary) + 1) + coded.indices.to_numpy(), return_inverse=True)
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[which], first[order]


def materialise(view: FeatureView, source_rows: pa.Table, source: Source, start: datetime, end: datetime) -> pa.Table:
    """Compute an aggregated view at each hop in ``(start, end]``: ``entity``, ``event_time`` (the hop), the outputs.

    At hop h an aggregate is over the rows of one entity known in ``(h - window, h]``. There is a row for each entity
    seen in the longest window, and one of nulls where an entity has just left it, so that a later look-up does not find
    what no longer holds. Null values are skipped; mean, sum, min and max over none are null, a count is 0.

    Parameters
    ----------
    source_rows : all rows known in ``(start - longest window, end]``; others change nothing.

    Returns
    -------
    pyarrow.Table
        ordered by ``event_time``, then ``entity``.

    Raises
    ------
    DataError : a column is missing, or a time has no zone.
    """
    where = f"source {source.name!r}"
    if not view.aggregates:
        raise DataError(f"view {view.name!r} has no aggregates: its rows are those of the source (feature_table).")
    hops = view.hops(start, end)
    windows = [aggregate.window_micros for aggregate in view.aggregates]
    # Every hop and every beginning of a window is a multiple of the tile, so whole tiles make up each window exactly.
    tile = math.gcd(view.hop_micros, *windows)
    columns = {
        "entity": _entities(source_rows, view.entity, where),
        "known": _micros(source_rows, source.known_at, where),
        **{f"v{i}": _aggregated(source_rows, aggregate, where) for i, aggregate in enumerate(view.aggregates)},
    }
    rows = pa.table(columns)
    reach = hops.start - view.hop_micros - max(windows)  # the rows that the hop before the first one looked at, too
    within = pc.and_(pc.greater(rows["known"], reach), pc.less_equal(rows["known"], hops.stop - 1))
    rows = rows.filter(pc.and_(within, pc.is_valid(rows["entity"])))
    if not hops or not rows.num_rows:
        return pa.table({"entity": [], "event_time": [], **{a.name: [] for a in view.aggregates}}, _schema(view))
    known = rows["known"].to_numpy()
    longest, step = max(windows) // tile, view.hop_micros // tile
    tiles = -(-known // tile)  # rounded up: a row counts from the first hop at or after the time it became known
    rows = rows.append_column("tile", pa.array(tiles))
    rows = rows.append_column("hop", pa.array(-(-tiles // step)))
    rows = rows.append_column("gone", pa.array(-(-(tiles + longest) // step)))
    query = _window_query(view.aggregates, windows, tile, step, (hops[0] // tile, hops[-1] // tile))
    found = sql(query, source_rows=rows)
    hop_times = pc.multiply(found["tile"], tile).cast(UTC_MICROS)
    outputs = {aggregate.name: found[f"a{i}"] for i, aggregate in enumerate(view.aggregates)}
    return pa.table({"entity": found["entity"], "event_time": hop_times, **outputs}).cast(_schema(view))


def _window_query(
    aggregates: Sequence[Aggregate], windows: Sequence[int], tile: int, step: int, span: tuple[int, int]
) -> str:
    """Partial sums per entity and tile, then frames over the tiles: linear in rows plus hops.

    ``step``: tiles in a hop. ``span``: the first and the last hop, in tiles.
    """
    partial, values, frames, nothing, outputs = [], [], [], [], []
    for i, (aggregate, window) in enumerate(zip(aggregates, windows, strict=True)):
        partial.append(f"count(v{i}) AS n{i}, sum(v{i}) AS s{i}, min(v{i}) AS l{i}, max(v{i}) AS h{i}")
        nothing.append(f"NULL AS n{i}, NULL AS s{i}, NULL AS l{i}, NULL AS h{i}")
        count, total = f"coalesce(sum(n{i}) OVER w{i}, 0)", f"sum(s{i}) OVER w{i}"
        value = {
            "count": count,
            "sum": total,
            "mean": f"{total} / nullif({count}, 0)",
            "min": f"min(l{i}) OVER w{i}",
            "max": f"max(h{i}) OVER w{i}",
        }[aggregate.function]
        values.append(f"{value} AS b{i}")
        frames.append(f"w{i} AS ({_frame(window // tile)})")
        outputs.append(f"CASE WHEN seen > 0 THEN CAST(b{i} AS DOUBLE) END AS a{i}")
    frames.append(f"longest AS ({_frame(max(windows) // tile)})")
    return f"""
    WITH tiles AS (
        SELECT entity, tile, count(*) AS n, {", ".join(partial)} FROM source_rows GROUP BY entity, tile
    ), spans AS (
        -- From the first hop at which rows count to the hop at which the last has left the longest window, or to
        -- where the rows of a later hop take over, so that no hop comes twice.
        SELECT entity, hop, least(gone, coalesce(lead(hop) OVER (PARTITION BY entity ORDER BY hop) - 1, gone)) AS until
        FROM (SELECT entity, hop, max(gone) AS gone FROM source_rows GROUP BY entity, hop)
    ), asked AS (
        SELECT entity, TRUE AS wanted, NULL AS n, {", ".join(nothing)},
            unnest(generate_series(greatest(hop * {step}, {span[0]}), least(until * {step}, {span[1]}), {step})) AS tile
        FROM spans
    ), framed AS (
        SELECT entity, tile, wanted, coalesce(sum(n) OVER longest, 0) AS seen, {", ".join(values)}
        FROM (SELECT *, FALSE AS wanted FROM tiles UNION ALL BY NAME SELECT * FROM asked)
        WINDOW {", ".join(frames)}
    )
    SELECT entity, tile, {", ".join(outputs)} FROM framed WHERE wanted ORDER BY tile, entity
    """  # noqa: S608 - numbers and numbered columns only, no text from outside


def _frame(tiles: int) -> str:
    return f"PARTITION BY entity ORDER BY tile RANGE BETWEEN {tiles - 1} PRECEDING AND CURRENT ROW"


def _aggregated(rows: pa.Table, aggregate: Aggregate, where: str) -> pa.ChunkedArray:
    """The values to aggregate as float64, NaN as null; for a count, 1 where there is a value."""
    if not aggregate.column:
        return pa.chunked_array([pa.repeat(1.0, rows.num_rows)])
    values = _column(rows, aggregate.column, where)
    if aggregate.function == "count" and not pa.types.is_floating(values.type):
        return pc.if_else(pc.is_valid(values), 1.0, None)
    found = _typed(values, Feature(name=aggregate.column), where)
    return found if aggregate.function != "count" else pc.if_else(pc.is_valid(found), 1.0, None)


def _schema(view: FeatureView) -> pa.Schema:
    outputs = [(output.name, ARROW[output.type]) for output in view.outputs]
    return pa.schema([("entity", pa.string()), ("event_time", UTC_MICROS), *outputs])


def _nothing(view: FeatureView) -> pa.Table:
    return _schema(view).empty_table()


def _column(table: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise DataError(f"{where}: there is no column {name!r}; there are {', '.join(table.column_names)}.")
    column = table[name]
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _micros(table: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    """A column of times as microseconds since 1970 UTC."""
    column = _column(table, name, where)
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.int64())
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise DataError(
            f"{where}: the column {name!r} must hold times with a zone, it is {kind}.",
            hint="Say which zone: pyarrow.compute.assume_timezone(column, 'UTC').",
        )
    return column.cast(UTC_MICROS, safe=False).cast(pa.int64())


def _entities(table: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    """A column of entity keys as text, as ``features.entity_key`` writes them."""
    column = _column(table, name, where)
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"{where}: the entity {name!r} must be text or an integer, it is {kind}.")
    return column.cast(pa.string())


def _places(table: pa.Table) -> pa.Array:
    return pa.array(np.arange(table.num_rows))


def _typed(column: pa.ChunkedArray, output: Feature, where: str) -> pa.ChunkedArray:
    """Values in the type of their feature; a NaN is null, as no request can hold one."""
    kind = ARROW[output.type]
    try:
        found = column if column.type == kind else column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{where}: {output.name!r} is {column.type}, declared {output.type}: {error}.") from error
    return pc.if_else(pc.is_nan(found), None, found) if pa.types.is_floating(kind) else found


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Values as a decoded request holds them: aware UTC datetimes, None for null and NaN."""
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        return [None if value is None else from_micros(value) for value in micros.to_pylist()]
    if pa.types.is_floating(column.type):
        return [None if value is None or value != value else value for value in column.to_pylist()]
    return list(column.to_pylist())


def _append(table: pa.Table, name: str, values: Any) -> pa.Table:
    if name in table.column_names:
        raise DataError(f"the column {name!r} is there already, and a feature of that name would be a second one.")
    return table.append_column(name, values)
