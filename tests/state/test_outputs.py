"""Outputs that are committed part by part: nothing twice, nothing lost, nothing mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from undrift.errors import ConflictError, DataError
from undrift.state import outputs
from undrift.state.outputs import open_output

TOLD = {"input": {"path": "in.parquet", "version": 3}, "revision": "r-1"}
KINDS = ["out.parquet", "out.csv", "out", "delta:out"]


def rows(part: int, n: int = 3) -> pa.Table:
    return pa.table({"row": pa.array(range(part * 10, part * 10 + n), pa.int64()), "score": [0.5] * n})


def aside(part: int, n: int = 1) -> pa.Table:
    return pa.table({"row": pa.array([part * 10 + 9] * n, pa.int64()), "reason": ["far"] * n})


def written(place: str, folder: Path, *, quarantine: bool = False) -> list[int]:
    """The rows an output holds, as a reader that knows nothing of jobs finds them."""
    name = place.removeprefix("delta:")
    if place.startswith("delta:"):
        from deltalake import DeltaTable

        path = folder / (f"{name}_quarantine" if quarantine else name)
        return sorted(pa.table(DeltaTable(path).to_pyarrow_table())["row"].to_pylist()) if path.exists() else []
    if quarantine:
        name = f"{Path(name).stem}.quarantine{Path(name).suffix}"
    path = folder / name
    if not path.exists():
        return []
    return csv.read_csv(path)["row"].to_pylist() if path.suffix == ".csv" else pq.read_table(path)["row"].to_pylist()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", KINDS)
def test_parts_make_the_output_and_what_was_put_aside_stands_beside_it(place: str, here: Path) -> None:
    with open_output(place) as output:
        assert not output.begin(TOLD).done
        for part in range(3):
            assert output.missing(part)
            output.commit(part, rows(part), aside(part, n=part % 2))
        counts = output.finish(10)
    assert counts == {"rows_in": 10, "rows": 9, "quarantined": 1}
    assert written(place, here) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert written(place, here, quarantine=True) == [19]
    left = {f.name for f in here.iterdir()}
    assert not any("parts" in name or name.endswith(".new") for name in left), left


@pytest.mark.parametrize("place", KINDS)
@pytest.mark.parametrize("dies", ["before", "aside", "rows"])
def test_a_part_that_was_cut_off_is_done_once_when_it_is_done_again(
    place: str, dies: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOffError(BaseException):
        pass

    with open_output(place) as output:
        output.begin(TOLD)
        output.commit(0, rows(0), aside(0))
        if dies != "before":
            target = outputs.DeltaLake if place.startswith("delta:") else outputs
            name = "append" if place.startswith("delta:") else "_write_parquet"
            real, left = getattr(target, name), [2 if dies == "rows" else 1]

            def cut(*args: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    raise CutOffError  # as a kill would, before the call that makes it last
                return real(*args, **options)

            with monkeypatch.context() as patched:
                patched.setattr(target, name, cut)
                with pytest.raises(CutOffError):
                    output.commit(1, rows(1), aside(1))
    with open_output(place) as output:
        assert not output.begin(TOLD).done
        assert [output.missing(part) for part in range(3)] == [False, True, True]
        for part in (1, 2):
            output.commit(part, rows(part), aside(part))
        assert output.finish(12) == {"rows_in": 12, "rows": 9, "quarantined": 3}
    assert written(place, here) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert written(place, here, quarantine=True) == [9, 19, 29]


@pytest.mark.parametrize("place", KINDS)
def test_another_job_is_refused_and_told_what_differs(place: str, here: Path) -> None:
    with open_output(place) as output:
        output.begin(TOLD)
        output.commit(0, rows(0), aside(0, n=0))
    with open_output(place) as output, pytest.raises(ConflictError, match=r"half-way .* revision was r-1, now r-2"):
        output.begin({**TOLD, "revision": "r-2"})


@pytest.mark.parametrize("place", ["out", "out.parquet"])
def test_a_job_can_be_begun_anew(place: str, here: Path) -> None:
    with open_output(place) as output:
        output.begin(TOLD)
        output.commit(0, rows(0), aside(0))
        output.commit(1, rows(1), aside(1))
    with open_output(place) as output:
        assert not output.begin({**TOLD, "revision": "r-2"}, restart=True).done
        assert output.missing(0)
        output.commit(0, rows(5), aside(5, n=0))
        output.finish(3)
    assert written(place, here) == [50, 51, 52]
    assert written(place, here, quarantine=True) == []


def test_a_finished_folder_knows_that_it_is_and_another_job_does_not_write_into_it(here: Path) -> None:
    with open_output("out") as output:
        output.begin(TOLD)
        output.commit(0, rows(0), aside(0, n=0))
        output.finish(3)
    with open_output("out") as output:
        assert output.begin(TOLD).done
        with pytest.raises(ConflictError, match="holds the finished output of another job"):
            output.begin({**TOLD, "revision": "r-2"})


def test_the_next_job_appends_to_a_delta_table(here: Path) -> None:
    for number, revision in enumerate(("r-1", "r-2")):
        with open_output("delta:out") as output:
            assert not output.begin({**TOLD, "revision": revision}).done
            output.commit(0, rows(number), aside(number))
            assert output.finish(4) == {"rows_in": 4, "rows": 3, "quarantined": 1}
    assert written("delta:out", here) == [0, 1, 2, 10, 11, 12]
    with open_output("out") as output:  # known by what is there
        assert output.begin({**TOLD, "revision": "r-2"}).done
        with pytest.raises(ConflictError, match="parts that are committed stay"):
            output.begin({**TOLD, "revision": "r-2"}, restart=True)


def test_two_at_once_are_kept_apart(here: Path) -> None:
    with open_output("out"), pytest.raises(ConflictError, match="another process writes"), open_output("out"):
        pass


def test_a_folder_with_other_things_in_it_is_left_alone(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "letters.txt").write_text("dear")
    with open_output("out") as output, pytest.raises(ConflictError, match=r"'letters\.txt', which no job"):
        output.begin(TOLD)
    with open_output("out") as output, pytest.raises(ConflictError, match=r"'letters\.txt', which no job"):
        output.begin(TOLD, restart=True)


@pytest.mark.parametrize(
    ("place", "said"), [("gone/out.parquet", "does not exist"), ("out.xlsx", "is not known"), ("file", "is a file")]
)
def test_a_place_that_cannot_be_written_is_said_before_anything_is_done(place: str, said: str, here: Path) -> None:
    (here / "file").write_text("x")
    with pytest.raises(DataError, match=said):
        open_output(place)
