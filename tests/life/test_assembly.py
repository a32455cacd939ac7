"""Tables put together from declarations and the lake: read, filled in once, materialised once, joined as known then."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from undrift import assembly, lifecycle
from undrift.assembly import fill_sources, materialise_views, read_table, view_tables, with_features
from undrift.errors import ConflictError, DataError, DeclarationError
from undrift.ids import to_micros
from undrift.project import Project, open_project

from living import ME  # isort: skip
from town import DAY, LIVE, START, TRAINED_DAYS, Town  # isort: skip


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_are_read_by_their_suffix(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"x": [1, 2], "who": ["a", "b"]})
    writer = pyarrow.csv.write_csv if suffix == "csv" else pyarrow.parquet.write_table
    writer(table, tmp_path / f"rows.{suffix}")
    assert read_table(tmp_path, f"rows.{suffix}").to_pylist() == table.to_pylist()


def test_what_cannot_be_read_as_a_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "rows.parquet").write_text("no parquet")
    (tmp_path / "empty.csv").write_text("a,b\n")
    (tmp_path / "history.py").write_text("def rows():\n    return 7\n")
    for data, said in [
        ("nothing.csv", "the data file .*nothing.csv does not exist"),
        ("rows.json", "rows.json: .json is not known; use .csv, .parquet, .pq"),
        ("rows.parquet", "rows.parquet cannot be read as parquet"),
        ("empty.csv", "empty.csv has no rows"),
        ("history:rows", "history:rows returned a int, which is no table"),
    ]:
        with pytest.raises(DataError, match=said):
            read_table(tmp_path, data)
    with pytest.raises(DeclarationError, match="has no function 'row'"):
        read_table(tmp_path, "history:row")


def test_a_function_may_give_the_rows(tmp_path: Path) -> None:
    (tmp_path / "past.py").write_text("def rows():\n    return {'x': [1, 2]}\n")
    assert read_table(tmp_path, "past:rows").to_pylist() == [{"x": 1}, {"x": 2}]
    assert read_table(tmp_path, lambda: {"x": [3]}).to_pylist() == [{"x": 3}]


def test_histories_are_loaded_once(fresh: Project) -> None:
    town = Town(TRAINED_DAYS)
    weather = len(town.tables(TRAINED_DAYS)["weather"])
    assert fill_sources(fresh)["weather"] == weather
    assert fill_sources(fresh) == {}
    rows = fresh.lake.scan("source_weather")
    assert rows is not None
    assert rows.num_rows == weather
    assert rows["received_at"].to_pylist() == rows["seen_at"].to_pylist(), "known when it was seen, not when loaded"
    assert {at.date() for at in rows["seen_at"].to_pylist()} == set(rows["date"].to_pylist())


def test_a_history_takes_the_types_of_the_contract(fresh: Project, caplog: pytest.LogCaptureFixture) -> None:
    file = fresh.root / "arrivals.parquet"
    whole = pyarrow.parquet.read_table(file)
    late = pa.array([7, *[int(value) for value in whole["late"].to_pylist()][1:]], pa.int64())
    pyarrow.parquet.write_table(whole.set_column(whole.column_names.index("late"), "late", late), file)
    with caplog.at_level(logging.WARNING, "undrift"):
        fill_sources(fresh)
    assert "1 of" not in caplog.text, "beyond a range that only flags"
    rows = fresh.lake.scan("source_arrivals")
    assert rows is not None
    assert rows.schema.field("late").type == pa.float64(), "as a row that is pushed later"


def test_rows_of_a_history_that_no_server_would_take_are_left_out_and_told(
    fresh: Project, caplog: pytest.LogCaptureFixture
) -> None:
    file = fresh.root / "weather.parquet"
    whole = pyarrow.parquet.read_table(file)
    zones = [None, *whole["zone"].to_pylist()[1:]]
    pyarrow.parquet.write_table(whole.set_column(0, "zone", pa.array(zones, pa.string())), file)
    with caplog.at_level(logging.WARNING, "undrift"):
        assert fill_sources(fresh)["weather"] == whole.num_rows - 1
    assert f"1 of {whole.num_rows} rows break its contract" in caplog.text
    assert "zone is missing" in caplog.text
    pyarrow.parquet.write_table(whole.drop_columns(["rain"]), file)
    (fresh.root / ".undrift").rename(fresh.root / "gone")
    with (
        open_project(fresh.root) as again,
        pytest.raises(DataError, match=r"history of source 'weather' \(weather.parquet\) lacks the column\(s\) rain"),
    ):
        fill_sources(again)


def hops(project: Project) -> list[dict[str, Any]]:
    (view,) = (v for v in project.model().views if v.name == "record")
    rows = project.lake.scan(f"view_{view.key}")
    return [] if rows is None else rows.sort_by([("event_time", "ascending"), ("entity", "ascending")]).to_pylist()


def test_each_hop_is_materialised_once_and_counts_what_was_known(fresh: Project) -> None:
    town = Town(TRAINED_DAYS)
    lifecycle.apply(fresh, actor=ME)
    materialise_views(fresh, START + 5 * DAY + timedelta(hours=7))
    first = hops(fresh)
    materialise_views(fresh, START + 5 * DAY + timedelta(hours=20))
    assert hops(fresh) == first
    materialise_views(fresh, START + 8 * DAY)
    rows = hops(fresh)
    assert [row for row in rows if row["event_time"] <= START + 5 * DAY] == first
    assert sorted({row["event_time"] for row in rows}) == [START + day * DAY for day in range(1, 9)]
    # by hand: the mean over the arrivals in zone b that were known in the three days before a hop
    at = START + 7 * DAY
    known = [
        town.late[i]
        for i in range(town.days * town.per_day)
        if town.zone[i] == 1 and at - 3 * DAY < town.at[i] + timedelta(hours=3) <= at
    ]
    (found,) = (row["late_3d"] for row in rows if row["event_time"] == at and row["entity"] == "b")
    assert found == pytest.approx(sum(known) / len(known))


def test_the_latest_hop_is_online_even_if_its_commit_never_came(
    fresh: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (view,) = (v for v in fresh.model().views if v.name == "record")
    lifecycle.apply(fresh, actor=ME)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fresh.lake, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            materialise_views(fresh, START + 5 * DAY)
    assert hops(fresh) == []
    materialise_views(fresh, START + 5 * DAY)
    online = fresh.online.get(view.key, ["a", "b", "c"])
    latest = {row["entity"]: row for row in hops(fresh) if row["event_time"] == START + 5 * DAY}
    assert online == [(to_micros(START + 5 * DAY), {"late_3d": latest[zone]["late_3d"]}) for zone in ("a", "b", "c")]


def test_hops_that_another_process_did_meanwhile_are_not_doubled(
    fresh: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle.apply(fresh, actor=ME)
    with open_project(fresh.root) as other:
        real, once = assembly.materialise, []

        def slow(*given: Any) -> pa.Table:
            if not once:
                once.append(1)
                with monkeypatch.context() as patch:
                    patch.setattr(assembly, "materialise", real)
                    materialise_views(other, START + 3 * DAY)
            return real(*given)

        monkeypatch.setattr(assembly, "materialise", slow)
        materialise_views(fresh, START + 6 * DAY)
        named = [(row["event_time"], row["entity"]) for row in hops(fresh)]
        assert len(named) == len(set(named)) == 6 * 3

        def always(*given: Any) -> pa.Table:
            with monkeypatch.context() as patch:
                patch.setattr(assembly, "materialise", real)
                moment = other.lake.marks(f"view_{given[0].key}", ["hops"])["hops"] + DAY // timedelta(microseconds=1)
                materialise_views(other, START + timedelta(microseconds=moment - to_micros(START)))
            return real(*given)

        monkeypatch.setattr(assembly, "materialise", always)
        with pytest.raises(ConflictError):
            materialise_views(fresh, LIVE)


def test_features_are_joined_as_they_were_known(fresh: Project) -> None:
    town = Town(TRAINED_DAYS)
    lifecycle.apply(fresh, actor=ME)
    materialise_views(fresh, START + 8 * DAY)
    rides = town.tables(9)["rides"].slice(6 * town.per_day, 2 * town.per_day)
    full = with_features(fresh, fresh.model(), rides)
    assert full.column_names == [*rides.column_names, "rain", "late_3d", "weekend"]
    assert full.select(rides.column_names).equals(rides), "one row out per row in, in the same order"
    record = {(row["event_time"], row["entity"]): row["late_3d"] for row in hops(fresh)}
    for row in full.slice(0, 50).to_pylist():
        day = START + (row["at"] - START) // DAY * DAY
        assert row["late_3d"] == record[day, row["zone"]]
        assert row["rain"] == town.rain[(row["at"] - START) // (DAY / 4), "abc".index(row["zone"])]
        assert row["weekend"] == float(row["at"].weekday() >= 5)


def test_a_view_without_any_rows_says_how_to_fill_it(fresh: Project) -> None:
    file = fresh.root / "declarations.py"
    file.write_text(re.sub("histories = .*", "histories = {}", file.read_text()))
    with open_project(fresh.root) as empty:
        lifecycle.apply(empty, actor=ME)
    with pytest.raises(DataError, match="view 'rain' has no rows in the lake") as caught:
        view_tables(fresh, fresh.model().views, START, LIVE)
    assert "/v1/sources/weather" in caught.value.hint


def test_a_view_of_a_source_that_was_never_applied_says_so(fresh: Project) -> None:
    fill_sources(fresh)
    said = "takes from the source '(weather|arrivals)', which was never applied"
    with pytest.raises(DeclarationError, match=said):
        materialise_views(fresh, LIVE + DAY)
    with pytest.raises(DeclarationError, match=said):
        view_tables(fresh, fresh.model().views, START, LIVE)


def test_a_source_that_was_taken_back_still_serves_what_is_in_place(project: Project) -> None:
    project.declarations.sources.clear()
    materialise_views(project, LIVE + DAY)
    assert hops(project)[-1]["event_time"] == LIVE + DAY
