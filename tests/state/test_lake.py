"""The lake under stress: writers at once, repeated appends, damage, full disks, and files that are not read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pytest

from undrift.errors import ConflictError, DataError, NotFoundError, SettingsError, StateError
from undrift.state.columns import predicate
from undrift.state.lake import DeltaLake, sql


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(tmp_path / "lake")


def _rows(day: int, *ids: int) -> pa.Table:
    at = [datetime(2013, 4, day, i % 24, tzinfo=UTC) for i in ids]
    columns = {"date": pa.array([t.date() for t in at], pa.date32()), "id": pa.array(ids, pa.int64())}
    return pa.table({**columns, "event_time": pa.array(at, pa.timestamp("us", "UTC"))})


def _ids(lake: DeltaLake, *where: tuple[str, str, object]) -> list[int]:
    found = lake.scan("t", columns=["id"], where=where)
    return [] if found is None else sorted(found["id"].to_pylist())


APPEND = """
import sys
from datetime import UTC, date, datetime
import pyarrow as pa
from undrift.errors import ConflictError
from undrift.state.lake import DeltaLake
folder, writer, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
lake = DeltaLake(folder)
for i in range(times):
    when = datetime(2013, 4, 1 + i % 3, tzinfo=UTC)
    columns = {"date": pa.array([when.date()], pa.date32()), "at": pa.array([when], pa.timestamp("us", "UTC"))}
    own = pa.table({**columns, "id": [writer + " " + str(i)], "only " + writer: [i]})
    lake.append("t", own, marks={writer: i})
    lake.append("t", own, marks={writer: i})
    shared = pa.table({**columns, "id": ["shared " + str(i)]})
    try:
        lake.append("t", shared, marks={"shared": i}, since={"shared": i - 1})
    except ConflictError:
        pass
"""


def test_processes_appending_at_once_lose_nothing_and_double_nothing(lake: DeltaLake) -> None:
    command = [sys.executable, "-c", APPEND, str(lake.folder)]
    children = [subprocess.Popen([*command, w, "15"], stderr=subprocess.PIPE, text=True) for w in ("ann", "bob", "cy")]
    complaints = [child.communicate(timeout=120)[1] for child in children]
    assert complaints == ["", "", ""]
    found = lake.scan("t", columns=["id"])
    assert found is not None
    expected = [f"{w} {i}" for w in ("ann", "bob", "cy", "shared") for i in range(15)]
    assert sorted(found["id"].to_pylist()) == sorted(expected)


COMPACT = """
import sys
from undrift.state.lake import DeltaLake
lake = DeltaLake(sys.argv[1])
lake.marks("t", [])
print("ready", flush=True)
sys.stdin.readline()
lake.compact("t")
"""


def test_processes_merging_files_at_once_hold_every_row_once(lake: DeltaLake) -> None:
    ids = [lake.append("t", _rows(1, i)) and i for i in range(30)]
    command = [sys.executable, "-c", COMPACT, str(lake.folder)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert _ids(lake) == ids
    assert pa.table(lake._open["t"].get_add_actions(flatten=True)).num_rows == 1


def test_a_lake_with_an_old_view_merges_no_file_a_second_time(lake: DeltaLake) -> None:
    other = DeltaLake(lake.folder)
    for i in range(5):
        lake.append("t", _rows(1, i))
    assert _ids(other) == [0, 1, 2, 3, 4]
    lake.compact("t")
    other.compact("t")
    assert _ids(lake) == _ids(other) == [0, 1, 2, 3, 4]


def test_a_worker_with_an_old_view_of_the_table_appends_nothing_twice(lake: DeltaLake) -> None:
    other = DeltaLake(lake.folder)
    lake.append("t", _rows(1, 0), marks={"w": 0})
    read_from = other.marks("t", ["w"])
    lake.append("t", _rows(1, 1), marks={"w": 1}, since={"w": 0})
    with pytest.raises(ConflictError, match="up to 1; these rows begin after 0 and reach 2"):
        other.append("t", _rows(1, 1, 2), marks={"w": 2}, since=read_from)
    other.append("t", _rows(1, 1), marks={"w": 1}, since=read_from)
    assert _ids(lake) == [0, 1]


def test_rows_of_two_writers_of_which_one_is_in_already_are_refused(lake: DeltaLake) -> None:
    lake.append("t", _rows(1, 0), marks={"a": 5})
    with pytest.raises(ConflictError):
        lake.append("t", _rows(1, 0, 1), marks={"a": 5, "b": 5})
    assert _ids(lake) == [0]


def test_a_condition_on_the_date_leaves_other_days_unread(lake: DeltaLake) -> None:
    for day in (1, 2, 3):
        lake.append("t", _rows(day, day))
    for other in ("2013-04-01", "2013-04-03"):
        for file in (lake.folder / "t" / f"date={other}").glob("*.parquet"):
            file.write_bytes(b"unreadable")
    assert _ids(lake, ("date", ">=", date(2013, 4, 2)), ("date", "<", date(2013, 4, 3))) == [2]
    with pytest.raises(StateError, match="table t"):
        _ids(lake)


def test_many_appends_are_merged_into_few_files_and_old_versions_stay(lake: DeltaLake) -> None:
    versions = [lake.append("t", _rows(1, i), marks={"w": i}) for i in range(70)]
    table = pa.table(lake._open["t"].get_add_actions(flatten=True))
    assert table.num_rows < 40
    assert _ids(lake) == list(range(70))
    assert lake.marks("t", ["w"]) == {"w": 69}
    early = lake.scan("t", version=versions[9])
    assert early is not None
    assert early.num_rows == 10


def test_compacting_keeps_rows_and_removes_old_files_only_when_told_to(lake: DeltaLake) -> None:
    versions = [lake.append("t", _rows(day, 10 * day + i)) for day in (1, 2) for i in range(5)]

    def files() -> int:
        return len(list((lake.folder / "t").glob("date=*/*.parquet")))

    lake.compact("t")
    assert (_ids(lake), files()) == ([10, 11, 12, 13, 14, 20, 21, 22, 23, 24], 12)
    assert lake.scan("t", version=versions[3]) is not None
    lake.compact("t", keep=timedelta(0))
    assert (len(_ids(lake)), files()) == (10, 2)
    with pytest.raises(NotFoundError, match="no table 'u'"):
        lake.compact("u")


def test_a_table_removed_under_an_open_lake_is_gone_not_broken(lake: DeltaLake) -> None:
    lake.append("t", _rows(1, 1))
    shutil.rmtree(lake.folder / "t")
    assert lake.tables() == []
    with pytest.raises(StateError):
        lake.scan("t")
    assert lake.scan("t") is None
    lake.append("t", _rows(1, 2))
    assert _ids(lake) == [2]


def test_a_damaged_log_is_reported_in_one_line_with_what_to_do(lake: DeltaLake) -> None:
    lake.append("t", _rows(1, 1))
    (lake.folder / "t" / "_delta_log" / f"{1:020d}.json").write_text("{garbage")
    with pytest.raises(StateError) as caught:
        DeltaLake(lake.folder).scan("t")
    assert "table t in" in caught.value.message
    assert "\n" not in caught.value.message
    assert "backup" in caught.value.hint


APPEND_ON_A_FULL_DISK = """
import os, resource, signal, sys
import pyarrow as pa
from undrift.errors import StateError
from undrift.state.lake import DeltaLake
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lake = DeltaLake(sys.argv[1])
lake.append("t", pa.table({"id": [1], "blob": [os.urandom(10)]}), marks={"w": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    lake.append("t", pa.table({"id": [2], "blob": [os.urandom(500_000)]}), marks={"w": 1})
except StateError as error:
    print(error.hint)
"""


def test_a_full_disk_appends_nothing_and_the_next_try_appends_all(lake: DeltaLake) -> None:
    program = [sys.executable, "-c", APPEND_ON_A_FULL_DISK, str(lake.folder)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert "free space" in done.stdout
    assert (_ids(lake), lake.marks("t", ["w"])) == ([1], {"w": 0})
    lake.append("t", pa.table({"id": [2], "blob": [b"x"]}), marks={"w": 1})
    assert _ids(lake) == [1, 2]


def test_types_are_normalised_on_the_way_in(lake: DeltaLake) -> None:
    zone = timezone(timedelta(hours=-5))
    first = pa.table(
        {
            "carrier": pa.array(["UA", "AA"]).dictionary_encode(),
            "name": pa.array(["x", None], pa.large_string()),
            "tags": pa.array([["a"], None], pa.large_list(pa.string_view())),
            "n": pa.array([1, 2], pa.int64()),
            "at": pa.array([datetime(2013, 4, 1, 7, tzinfo=zone)] * 2, pa.timestamp("ns", "America/New_York")),
        }
    )
    second = pa.table({"n": pa.array([3], pa.int8()), "carrier": pa.nulls(1), "tags": [[None]]})
    lake.append("t", first)
    lake.append("t", second)
    found = lake.scan("t")
    assert found is not None
    assert dict(zip(found.schema.names, map(str, found.schema.types), strict=True)) == {
        "carrier": "string",
        "name": "string",
        "tags": "list<element: string>",
        "n": "int64",
        "at": "timestamp[us, tz=UTC]",
    }
    rows = found.sort_by("n").to_pylist()
    noon = datetime(2013, 4, 1, 12, tzinfo=UTC)
    assert rows[0] == {"carrier": "UA", "name": "x", "tags": ["a"], "n": 1, "at": noon}
    assert rows[2] == {"carrier": None, "name": None, "tags": [None], "n": 3, "at": None}


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("id", pa.array(["1"]), r"t\.id is int64, and string was to be stored"),
        ("id", pa.array([1.5]), r"t\.id is int64, and double"),
        ("id", pa.array([2**64 - 1], pa.uint64()), "do not fit"),
        ("id", pa.array([[1]]), r"t\.id is int64"),
        ("new", pa.nulls(1), r"t\.new holds nothing but nulls"),
        ("new", pa.array([datetime(2013, 4, 1)]), r"t\.new holds times without a zone"),
        ("inputs", pa.array([{"distance": "far"}]), r"t\.inputs\.distance is double, and string"),
        ("inputs", pa.array(["text"]), r"t\.inputs is struct"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_column(
    lake: DeltaLake, column: str, values: pa.Array, says: str
) -> None:
    lake.append("t", pa.table({"id": [1], "inputs": [{"distance": 1.5}]}))
    with pytest.raises(DataError, match=says):
        lake.append("t", pa.table({column: values}))
    assert _ids(lake) == [1]


def test_a_struct_grows_by_name(lake: DeltaLake) -> None:
    lake.append("t", pa.table({"id": [1], "inputs": [{"a": 1.0, "b": "x"}]}))
    lake.append("t", pa.table({"id": [2], "inputs": [{"c": True, "b": "y", "a": None}]}))
    found = lake.scan("t", columns=["inputs"], where=[("id", "==", 2)])
    assert found is not None
    assert found["inputs"].to_pylist() == [{"a": None, "b": "y", "c": True}]
    first = lake.scan("t", columns=["inputs"], where=[("id", "==", 1)])
    assert first is not None
    assert first["inputs"].to_pylist() == [{"a": 1.0, "b": "x", "c": None}]


def test_a_scan_says_which_column_is_unknown(lake: DeltaLake) -> None:
    lake.append("t", _rows(1, 1))
    with pytest.raises(DataError, match="no column 'distance'; it has"):
        lake.scan("t", columns=["distance"])
    with pytest.raises(DataError, match="no column 'distance'"):
        lake.scan("t", where=[("distance", "==", 1)])
    with pytest.raises(NotFoundError, match="no version 9; it has 0 to 1"):
        lake.scan("t", version=9)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../t", "t t"])
def test_a_table_name_is_never_a_path(lake: DeltaLake, name: str) -> None:
    with pytest.raises(DataError, match="is no table name"):
        lake.append(name, _rows(1, 1))


def test_an_address_that_is_no_folder_is_refused() -> None:
    with pytest.raises(SettingsError, match="s3://bucket"):
        DeltaLake("s3://bucket/lake")


def test_conditions_never_become_statements() -> None:
    assert predicate([('a" OR 1=1 --', "==", "x' OR '1'='1")]) == "\"a\"\" OR 1=1 --\" = 'x'' OR ''1''=''1'"
    assert predicate([("a", "in", []), ("b", "not in", []), ("c", "!=", None)]) == 'false AND true AND "c" IS NOT NULL'
    for op, value in (("like", "x"), ("==", object()), ("<", None), ("==", float("nan")), ("<", datetime(2013, 4, 1))):
        with pytest.raises(DataError):
            predicate([("a", op, value)])


def test_sql_runs_over_the_tables_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    flights = pa.table({"carrier": ["UA", "AA", "UA"], "at": pa.array([0, 1, 2], pa.timestamp("us", "UTC"))})
    found = sql('SELECT carrier, max("at") AS "at" FROM flights GROUP BY carrier ORDER BY carrier', flights=flights)
    assert found.schema.field("at").type == pa.timestamp("us", "UTC")
    assert [row["at"].microsecond for row in found.to_pylist()] == [1, 2]
    with pytest.raises(DataError, match="flights"):
        sql("SELECT * FROM flights")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(DataError):
        sql(f"SELECT * FROM read_csv('{tmp_path}/secret.csv')")
