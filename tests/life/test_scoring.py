"""Scoring files: the same answers as in memory, in constant memory, each row once whatever is killed when."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from undrift import scoring
from undrift.assembly import read_table
from undrift.errors import ConflictError, DataError
from undrift.project import Project


def rides_of(project: Project, n: int = 900) -> pa.Table:
    """Rides of the town, of which every hundredth is further than any ride may be."""
    rides = read_table(project.root, "rides.parquet").slice(1500, n)
    distance = [99.0 if i % 100 == 50 else d for i, d in enumerate(rides["distance"].to_pylist())]
    return rides.set_column(rides.column_names.index("distance"), "distance", pa.array(distance, pa.float64()))


def write(rides: pa.Table, kind: str, folder: Path) -> Path:
    if kind == "csv":
        csv.write_csv(rides, folder / "in.csv")
        return folder / "in.csv"
    if kind == "parquet":
        pq.write_table(rides, folder / "in.parquet", row_group_size=250)
        return folder / "in.parquet"
    from deltalake import write_deltalake

    write_deltalake(folder / "in", rides)
    return folder / "in"


@pytest.mark.parametrize("kind", ["parquet", "csv", "delta"])
def test_a_file_is_scored_as_the_same_rows_in_memory(project: Project, kind: str, tmp_path: Path) -> None:
    rides = rides_of(project)
    expected = scoring.score(project, rides)
    told: list[tuple[int, int | None]] = []
    done = scoring.score_file(
        project, write(rides, kind, tmp_path), tmp_path / "out.parquet", part_rows=128, workers=2,
        say=lambda now, total: told.append((now, total)),
    )  # fmt: skip
    assert (done.rows, done.scored, done.quarantined, done.resumed) == (900, 891, 9, 0)
    found = pq.read_table(tmp_path / "out.parquet").sort_by("row")
    good = [i for i in range(900) if i % 100 != 50]
    if kind != "delta":  # the rows of a Delta table stand in the order of its files
        assert found["row"].to_pylist() == good
        assert found["score"].to_pylist() == pytest.approx(expected["score"].take(pa.array(good)).to_pylist(), abs=1e-9)
        assert found["prediction"].equals(expected["prediction"].take(pa.array(good)))
    assert set(found["version"].to_pylist()) == {done.version}
    assert set(found["revision"].to_pylist()) == {done.revision}
    assert found.column_names[: len(rides.column_names)] == rides.column_names
    aside = pq.read_table(done.quarantine)
    assert aside.num_rows == 9
    assert all("distance>10" in reason for reason in aside["reason"].to_pylist())
    assert [float(d) for d in aside["distance"].to_pylist()] == [99.0] * 9
    assert told[-1] == (900, None if kind == "csv" else 900)
    assert [now for now, _ in told] == sorted(now for now, _ in told)


def test_text_that_is_no_number_is_put_aside_and_the_rest_is_scored(project: Project, tmp_path: Path) -> None:
    lines = write(rides_of(project, 40), "csv", tmp_path).read_text().splitlines()
    place = lines[0].replace('"', "").split(",").index("distance")
    cells = lines[3].split(",")
    cells[place] = "far"
    lines[3] = ",".join(cells)
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    done = scoring.score_file(project, tmp_path / "in.csv", tmp_path / "out.csv", keep="key")
    assert (done.rows, done.scored, done.quarantined) == (40, 39, 1)
    (odd,) = csv.read_csv(done.quarantine).to_pylist()
    assert (odd["row"], odd["reason"], odd["distance"]) == (2, "distance is no number", "far")
    assert csv.read_csv(tmp_path / "out.csv").column_names == [
        "ride",
        "row",
        "prediction",
        "score",
        "version",
        "revision",
    ]


def test_a_changed_input_or_revision_or_option_is_refused(project: Project, tmp_path: Path) -> None:
    rides = rides_of(project, 60)
    path = write(rides, "parquet", tmp_path)
    first = scoring.score_file(project, path, tmp_path / "out", part_rows=20)
    again = scoring.score_file(project, path, tmp_path / "out", part_rows=20)
    assert (again.rows, again.scored, again.resumed) == (60, 59, 60), "there was nothing left to do"
    assert again.revision == first.revision
    with pytest.raises(ConflictError, match="part_rows was 20, now 30"):
        scoring.score_file(project, path, tmp_path / "out", part_rows=30)
    pq.write_table(rides.slice(1), path)
    with pytest.raises(ConflictError, match=r"input was .*in\.parquet"):
        scoring.score_file(project, path, tmp_path / "out", part_rows=20)
    anew = scoring.score_file(project, path, tmp_path / "out", part_rows=20, restart=True)
    assert anew.rows == 59


def test_columns_that_are_missing_or_would_be_there_twice_are_said_before_anything_is_written(
    project: Project, tmp_path: Path
) -> None:
    rides = rides_of(project, 10)
    pq.write_table(rides.drop_columns(["distance"]), tmp_path / "short.parquet")
    with pytest.raises(DataError, match="has no column 'distance', which the contract of 'rides' wants"):
        scoring.score_file(project, tmp_path / "short.parquet", tmp_path / "out")
    pq.write_table(rides.append_column("score", pa.array([1.0] * 10)), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="has a column 'score', which scoring adds"):
        scoring.score_file(project, tmp_path / "twice.parquet", tmp_path / "out")
    assert scoring.score_file(project, tmp_path / "twice.parquet", tmp_path / "out", keep="key").rows == 10
    pq.write_table(rides.slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="has no rows"):
        scoring.score_file(project, tmp_path / "none.parquet", tmp_path / "other")


SCORE = """
import json, resource, sys
import undrift as ud
with ud.open(sys.argv[1]) as project:
    done = ud.score_file(project, sys.argv[2], sys.argv[3], part_rows=int(sys.argv[4]), workers=2)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rows": done.rows, "scored": done.scored, "resumed": done.resumed, "peak": peak}))
"""


def start(project: Project, data: Path, out: str, part_rows: int) -> subprocess.Popen[bytes]:
    call = [sys.executable, "-c", SCORE, str(project.root), str(data), out, str(part_rows)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, start_new_session=True)


@pytest.mark.chaos
@pytest.mark.parametrize("place", ["out", "delta:out"])
def test_killed_at_random_moments_every_row_is_there_once(project: Project, place: str, tmp_path: Path) -> None:
    rides = rides_of(project)
    path = write(rides, "parquet", tmp_path)
    name = place.removeprefix("delta:")
    out = place.replace("out", str(tmp_path / "out"))
    chance, kills = random.Random(7), 0

    def parts() -> int:
        folder = tmp_path / name
        pattern = "part-*.parquet" if place == name else "_delta_log/*.json"
        return len(list(folder.glob(pattern))) if folder.exists() else 0

    while kills < 3:
        before = parts()
        process = start(project, path, out, 10)
        until = time.monotonic() + 120
        while parts() == before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.3)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        if process.returncode == 0:
            break
    assert kills > 0, "it was done before anything could be killed"
    process = start(project, path, out, 10)
    said, _ = process.communicate(timeout=150)
    assert process.returncode == 0
    last = json.loads(said)
    assert last["rows"] == 900
    assert last["resumed"] > 0
    if place == name:
        found = pq.read_table(tmp_path / name, partitioning=None)
        aside = pq.read_table(tmp_path / f"{name}.quarantine", partitioning=None)
    else:
        from deltalake import DeltaTable

        found, aside = (pa.table(DeltaTable(tmp_path / n).to_pyarrow_table()) for n in (name, f"{name}_quarantine"))
    good = [i for i in range(900) if i % 100 != 50]
    assert sorted(found["row"].to_pylist()) == good, "each once"
    assert sorted(aside["row"].to_pylist()) == [i for i in range(900) if i % 100 == 50]
    expected = scoring.score(project, rides)["score"].take(pa.array(good)).to_pylist()
    assert found.sort_by("row")["score"].to_pylist() == pytest.approx(expected, abs=1e-9)


def test_a_table_many_times_larger_takes_no_more_memory(project: Project, tmp_path: Path) -> None:
    rides = rides_of(project)
    payload = pa.array([f"{i:0300d}" for i in range(rides.num_rows)])
    wide = rides.append_column("payload", payload)
    peaks, sizes = [], []
    for times in (10, 400):  # 9,000 and 360,000 rows
        path = tmp_path / f"in{times}.parquet"
        with pq.ParquetWriter(path, wide.schema, compression="none", use_dictionary=False) as writer:
            for _ in range(times // 10):
                writer.write_table(pa.concat_tables([wide] * 10))
        process = start(project, path, str(tmp_path / f"out{times}"), 5000)
        said, _ = process.communicate(timeout=170)
        assert process.returncode == 0
        told: Any = json.loads(said)
        assert told["rows"] == 900 * times
        peaks.append(told["peak"] * 1024)
        sizes.append(wide.nbytes * times)
    assert sizes[1] > 120e6
    # the first run has all that is there whatever the size: libraries, the model, a part on each thread
    assert peaks[1] - peaks[0] < 0.3 * (sizes[1] - sizes[0]), (peaks, sizes)
