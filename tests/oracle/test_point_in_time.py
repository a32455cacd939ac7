"""The slow, obvious twins of the point-in-time join and of windowed aggregates, and that the fast ones agree."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift.data.contract import Contract, Field
from undrift.data.features import Aggregate, Feature, FeatureView, Source
from undrift.data.inspect import UTC_MICROS
from undrift.data.offline import feature_table, materialise, point_in_time

START = datetime(2013, 1, 1, tzinfo=UTC)
SOURCE = Source(
    name="s",
    contract=Contract(
        name="s",
        fields=(
            Field(name="e", type="string", nullable=True),
            Field(name="happened", type="timestamp", nullable=True),
            Field(name="known", type="timestamp", nullable=True),
            Field(name="x", type="number", nullable=True),
            Field(name="word", type="string", nullable=True),
        ),
    ),
    time="happened",
    known="known",
)
VIEW = FeatureView(
    name="v", source="s", entity="e", features=(Feature(name="x"), Feature(name="word", type="string")), ttl="5m"
)


def naive_join(asked: list[dict[str, Any]], rows: list[dict[str, Any]], ttl: timedelta) -> list[dict[str, Any]]:
    """For each asked row: of the rows of its entity known by then, the one known last (then: happened last, then: last
    in the list), unless it is older than the TTL."""
    found = []
    for ask in asked:
        best = None
        for row in rows:
            fits = None not in (row["e"], row["known"], ask["t"]) and row["e"] == ask["e"] and row["known"] <= ask["t"]
            rank = (row["known"], row["happened"] or datetime.min.replace(tzinfo=UTC))
            if fits and (best is None or rank >= best[0]):
                best = (rank, row)
        live = best is not None and ask["t"] - best[1]["known"] <= ttl
        found.append({"x": best[1]["x"] if live else None, "word": best[1]["word"] if live else None})
    return found


def naive_window(rows: list[dict[str, Any]], entity: str, at: datetime, view: FeatureView) -> dict[str, Any] | None:
    """The aggregates of an entity at a time, by the definition: over the rows known in ``(h - window, h]``."""
    hop = timedelta(microseconds=view.hop_micros)
    h = START + (at - START) // hop * hop  # START is a whole number of days after 1970

    def known_within(span: timedelta) -> list[dict[str, Any]]:
        return [r for r in rows if r["e"] == entity and r["known"] is not None and h - span < r["known"] <= h]

    if not known_within(max(timedelta(microseconds=a.window_micros) for a in view.aggregates)):
        return None
    found: dict[str, Any] = {}
    for a in view.aggregates:
        inside = known_within(timedelta(microseconds=a.window_micros))
        x = [r[a.column] for r in inside if r[a.column] is not None] if a.column else []
        summary: dict[str, Callable[[], Any]] = {
            "count": lambda x=x, inside=inside, a=a: len(x) if a.column else len(inside),
            "sum": lambda x=x: sum(x) if x else None,
            "mean": lambda x=x: sum(x) / len(x) if x else None,
            "min": lambda x=x: min(x, default=None),
            "max": lambda x=x: max(x, default=None),
        }
        found[a.name] = summary[a.function]()
    return found


minutes = st.integers(0, 40)
entity = st.sampled_from(["a", "b", "c", None])
rows_of_a_source = st.lists(
    st.fixed_dictionaries(
        {
            "e": entity,
            "happened": st.none() | minutes.map(lambda m: START + timedelta(minutes=m)),
            "known": st.none() | minutes.map(lambda m: START + timedelta(minutes=m)),
            "x": st.none() | st.integers(-9, 9).map(float),
            "word": st.none() | st.sampled_from(["p", "q"]),
        }
    ),
    max_size=30,
)
asked_rows = st.lists(
    st.fixed_dictionaries(
        {
            "e": st.sampled_from(["a", "b", "c", "nowhere", None]),
            "t": st.none() | minutes.map(lambda m: START + timedelta(minutes=m)),
        }
    ),
    max_size=20,
)
TYPES = {"e": pa.string(), "happened": UTC_MICROS, "known": UTC_MICROS, "x": pa.float64(), "word": pa.string()}
SCHEMA = pa.schema(list(TYPES.items()))


@given(asked=asked_rows, rows=rows_of_a_source)
def test_the_join_agrees_with_its_twin(asked: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(asked, pa.schema([("e", pa.string()), ("t", UTC_MICROS)]))
    features = feature_table(VIEW, pa.Table.from_pylist(rows, SCHEMA), SOURCE)
    found = point_in_time(table, "t", [(VIEW, features)])
    assert found.select(["e", "t"]).to_pylist() == asked  # one row out per row in, in order
    assert found.select(["x", "word"]).to_pylist() == naive_join(asked, rows, timedelta(minutes=5))


@settings(max_examples=50)
@given(
    rows=rows_of_a_source,
    first=st.integers(0, 45),
    length=st.integers(0, 60),
    hop=st.sampled_from(["1m", "3m", "10m"]),
    windows=st.tuples(st.sampled_from(["1m", "4m", "10m"]), st.sampled_from(["2m", "10m", "25m"])),
)
def test_windows_agree_with_their_twin_at_every_moment(
    rows: list[dict[str, Any]], first: int, length: int, hop: str, windows: tuple[str, str]
) -> None:
    aggregates = [
        Aggregate(name=f"{function}_{window}", function=function, column=column, window=window)
        for function, column in (("mean", "x"), ("sum", "x"), ("count", ""), ("min", "x"), ("max", "x"))
        for window in dict.fromkeys(windows)
    ]
    aggregates.append(Aggregate(name="words", function="count", column="word", window=windows[0]))
    view = FeatureView(name="v", source="s", entity="e", aggregates=tuple(aggregates), hop=hop, ttl="30d")
    start, end = START + timedelta(minutes=first), START + timedelta(minutes=first + length)
    whole = materialise(view, pa.Table.from_pylist(rows, SCHEMA), SOURCE, START - timedelta(minutes=1), end)
    keys = [(r["entity"], r["event_time"]) for r in whole.to_pylist()]
    assert len(keys) == len(set(keys))
    # any later piece is the same as that part of the whole: work can be taken up where it was left
    piece = materialise(view, pa.Table.from_pylist(rows, SCHEMA), SOURCE, start, end)
    assert piece.to_pylist() == [r for r in whole.to_pylist() if start < r["event_time"] <= end]
    asked = [{"e": e, "t": START + timedelta(minutes=m)} for e in "abc" for m in range(0, first + length + 1, 2)]
    table = pa.Table.from_pylist(asked, pa.schema([("e", pa.string()), ("t", UTC_MICROS)]))
    found = point_in_time(table, "t", [(view, whole)]).to_pylist()
    for ask, row in zip(asked, found, strict=True):
        expected = naive_window(rows, ask["e"], ask["t"], view) or {a.name: None for a in aggregates}
        assert {name: row[name] for name in expected} == pytest.approx(expected)
