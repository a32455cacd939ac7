"""What waits in the spool is told exactly: its bytes, and the age of the oldest record that no worker has taken in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from undrift.capture.capture import MAGIC, SourceRecord, SpoolWriter
from undrift.capture.ingest import Ingest
from undrift.capture.spool import waiting
from undrift.data.contract import Contract, Field
from undrift.data.features import Source
from undrift.ids import FixedClock
from undrift.state.journal import Journal
from undrift.state.lake import DeltaLake
from undrift.state.sql import SqliteStore

NOW = 1_364_774_400.0
SOURCE = Source(
    name="a",
    contract=Contract(name="a", fields=(Field(name="k", type="string"), Field(name="at", type="timestamp"))),
    time="at",
)


def arrival(second: float) -> SourceRecord:
    row = {"k": "x", "at": datetime(2013, 4, 1, tzinfo=UTC) + timedelta(seconds=second)}
    return SourceRecord(source="a", row=row, received_at=int((NOW + second) * 1e6))


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    made = SpoolWriter(tmp_path / "spool", segment_bytes=200)
    yield made
    made.close()


def ingest(root: Path, **options: Any) -> Ingest:
    clock = FixedClock(datetime(2013, 4, 1, tzinfo=UTC))
    journal = Journal(SqliteStore(root / "undrift.db"), clock)
    given: dict[str, Any] = {"manifest_of": {}.__getitem__, "sources": {"a": SOURCE}, "clock": clock, **options}
    return Ingest(root / "spool", DeltaLake(root / "lake"), journal, **given)


def test_nothing_waits_where_nothing_was_written(tmp_path: Path) -> None:
    assert waiting(tmp_path / "spool", NOW) == (0, 0.0)


def test_the_age_is_that_of_the_oldest_record_though_its_segment_is_still_open(tmp_path: Path, writer: Any) -> None:
    writer.append([arrival(0)])
    size = (tmp_path / "spool" / writer.name / "00000000.seg").stat().st_size
    assert waiting(tmp_path / "spool", NOW + 7) == (size - len(MAGIC), 7.0)
    writer.append([arrival(5)])
    assert waiting(tmp_path / "spool", NOW + 7).seconds == 7.0


def test_what_a_worker_has_taken_in_no_longer_waits_and_what_comes_after_does(tmp_path: Path, writer: Any) -> None:
    taking = ingest(tmp_path)
    for second in range(12):  # several segments
        writer.append([arrival(second)])
    assert len(list((tmp_path / "spool" / writer.name).glob("*.seg"))) > 2
    assert waiting(tmp_path / "spool", NOW + 20).seconds == 20.0
    assert taking.cycle().sources == 12
    assert waiting(tmp_path / "spool", NOW + 20) == (0, 0.0)
    writer.append([arrival(30)])
    found = waiting(tmp_path / "spool", NOW + 31.5)
    assert found.seconds == 1.5
    assert 0 < found.size < 200
    assert ingest(tmp_path).cycle().sources == 1, "another worker goes on where this one was"
    assert waiting(tmp_path / "spool", NOW + 99) == (0, 0.0)


def test_a_read_that_was_cut_short_leaves_the_rest_waiting(tmp_path: Path, writer: Any) -> None:
    for second in range(12):
        writer.append([arrival(second)])
    taking = ingest(tmp_path, limit_bytes=150)
    first = taking.cycle()
    assert first.more
    assert waiting(tmp_path / "spool", NOW + 20).seconds == 20.0 - first.sources
    while taking.cycle().more:
        pass
    assert waiting(tmp_path / "spool", NOW + 20) == (0, 0.0)


def test_word_that_is_damaged_counts_as_none(tmp_path: Path, writer: Any) -> None:
    writer.append([arrival(0)])
    ingest(tmp_path).cycle()
    (tmp_path / "spool/.taken").write_bytes(b"{")
    assert waiting(tmp_path / "spool", NOW + 2).seconds == 2.0
