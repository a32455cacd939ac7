from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from undrift.errors import DataError
from undrift.state.tables import open_table

N = 25_000


def numbers(n: int = N) -> pa.Table:
    return pa.table({"place": np.arange(n), "text": [f"t{i % 7}" for i in range(n)]})


def _written(kind: str, folder: Path) -> Path:
    table = numbers()
    if kind == "csv":
        csv.write_csv(table, folder / "t.csv")
        return folder / "t.csv"
    if kind == "parquet":
        pq.write_table(table, folder / "t.parquet", row_group_size=3000)
        return folder / "t.parquet"
    if kind == "folder":
        (folder / "t").mkdir()
        for i in range(3):
            pq.write_table(table.slice(i * 10_000, 10_000), folder / "t" / f"{i}.parquet", row_group_size=4000)
        (folder / "t" / "_job.parquet").write_bytes(b"none of them")
        return folder / "t"
    from deltalake import write_deltalake

    for i in range(3):
        write_deltalake(folder / "d", table.slice(i * 10_000, 10_000), mode="append")
    return folder / "d"


@pytest.mark.parametrize("kind", ["csv", "parquet", "folder", "delta"])
@pytest.mark.parametrize("rows", [700, 8192, 10_000, 40_000])
def test_parts_are_the_rows_in_order_wherever_one_begins(kind: str, rows: int, tmp_path: Path) -> None:
    table = open_table(_written(kind, tmp_path))
    assert table.rows == (None if kind == "csv" else N)
    whole = [part["place"].cast(pa.int64()).to_pylist() for part in table.parts(rows)]
    assert [len(part) for part in whole[:-1]] == [rows] * (len(whole) - 1)
    together = [place for part in whole for place in part]
    assert sorted(together) == list(range(N))
    if kind != "delta":  # whose files stand in the order of its log
        assert together == list(range(N))
    for first in {0, 1, len(whole) // 2, len(whole) - 1, len(whole)}:
        again = [part["place"].cast(pa.int64()).to_pylist() for part in table.parts(rows, first=first)]
        assert again == whole[first:]


def test_csv_comes_as_text_however_its_first_rows_look(tmp_path: Path) -> None:
    rows = ["code,x"] + [f"{i:03d},{i}" for i in range(40_000)] + ["A17,far"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    parts = list(open_table(tmp_path / "t.csv").parts(20_000))
    assert parts[0]["code"][7].as_py() == "007"
    assert parts[-1].to_pylist() == [{"code": "A17", "x": "far"}]


def test_a_delta_table_is_kept_at_the_version_it_had(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    path = _written("delta", tmp_path)
    table = open_table(path)
    write_deltalake(path, numbers(10), mode="append")
    assert sum(part.num_rows for part in table.parts(9000)) == N
    assert open_table(path).identity["version"] == table.identity["version"] + 1


def test_a_file_that_changes_is_another_one(tmp_path: Path) -> None:
    path = _written("parquet", tmp_path)
    before = open_table(path).identity
    assert open_table(path).identity == before
    pq.write_table(numbers().slice(1), path)
    assert open_table(path).identity != before


def _broken(folder: Path) -> dict[str, Path]:
    (folder / "empty.csv").write_bytes(b"")
    (folder / "no.parquet").write_bytes(b"PAR1 but no more")
    (folder / "t.xlsx").write_bytes(b"x")
    (folder / "folder").mkdir()
    (folder / "twice.csv").write_text("a,a\n1,2\n")
    (folder / "mixed").mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "mixed" / "0.parquet")
    pq.write_table(pa.table({"b": [1]}), folder / "mixed" / "1.parquet")
    return {
        name: folder / name for name in ("empty.csv", "no.parquet", "t.xlsx", "folder", "twice.csv", "mixed", "none")
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty.csv", "is empty"),
        ("no.parquet", "cannot be read"),
        ("t.xlsx", ".xlsx is not known; use .csv, .parquet, .pq, or a Delta table"),
        ("folder", "holds no Parquet file"),
        ("twice.csv", "more than one column 'a'"),
        ("mixed", "has other columns than 0.parquet"),
        ("none", "does not exist"),
    ],
)
def test_what_cannot_be_read_is_said_at_once(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said.replace(".", r"\.")):
        open_table(_broken(tmp_path)[name])


def test_a_file_that_breaks_off_is_said_when_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 600_000 + "3\n")
    parts = open_table(tmp_path / "t.csv").parts(50_000)
    assert next(parts).num_rows == 50_000
    with pytest.raises(DataError, match="cannot be read on"):
        list(parts)
