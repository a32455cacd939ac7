"""The spool: what is acknowledged is read exactly as it was, what was not is never read."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from undrift.capture.capture import (
    HEAD,
    MAGIC,
    LabelRecord,
    PredictionRecord,
    Record,
    SourceRecord,
    SpoolWriter,
    WatermarkRecord,
    place,
)
from undrift.capture.spool import SpoolReader
from undrift.errors import CaptureError, StateError


def label(number: int) -> LabelRecord:
    return LabelRecord(model="m", prediction_id=str(number), label="1", event_time=number, received_at=number)


def read_all(reader: SpoolReader, writer: str, after: int = -1) -> list[Record]:
    return [record for frame in reader.read(writer, after).frames for record in frame.records]


def only_segment(spool: Path) -> Path:
    (path,) = spool.glob("*/*.seg")
    return path


def test_all_kinds_of_records_come_back_as_they_were(tmp_path: Path) -> None:
    records: list[Record] = [
        PredictionRecord(
            id="a", request_id="r", model="m", revision="r-1", version=3, variant="champion", unit="u", propensity=0.95,
            event_time=5, received_at=6, inputs={"when": datetime(2013, 4, 1, tzinfo=UTC), "carrier": "UA", "x": None},
            features={"late": 0.25}, feature_times={"weather": None, "carrier_late": 4}, score=0.5, prediction="1",
            scores=None, violations=["x>1"], latency_us=70,
        ),
        label(1),
        LabelRecord(model="m", prediction_id="b", label=2.5, event_time=1, received_at=2),
        SourceRecord(source="weather", row={"temp": 1.5}, received_at=9, id="w1"),
        WatermarkRecord(event_time=10, received_at=11),
    ]  # fmt: skip
    writer = SpoolWriter(tmp_path)
    writer.append(records)
    assert read_all(SpoolReader(tmp_path), writer.name) == records
    writer.close()


def test_an_open_segment_is_read_up_to_its_last_whole_frame_and_on_from_there(tmp_path: Path) -> None:
    writer, reader = SpoolWriter(tmp_path), SpoolReader(tmp_path)
    writer.append([label(1)])
    first = reader.read(writer.name)
    with only_segment(tmp_path).open("ab") as file:
        file.write(HEAD.pack(100, 1) + b"half")
    assert reader.read(writer.name, first.position).frames == []
    writer.append([label(2)])  # takes the place of the half frame
    second = reader.read(writer.name, first.position)
    assert [frame.records for frame in second.frames] == [[label(2)]]
    assert second.position > first.position
    assert not second.gone
    assert not second.spent
    writer.close()


def test_full_segments_are_closed_and_removed_once_read(tmp_path: Path) -> None:
    writer, reader = SpoolWriter(tmp_path, segment_bytes=200), SpoolReader(tmp_path)
    for number in range(50):
        writer.append([label(number)])
    chunk = reader.read(writer.name)
    assert [frame.records for frame in chunk.frames] == [[label(number)] for number in range(50)]
    assert len(chunk.spent) > 3
    assert all(path.stat().st_size <= 200 for path in chunk.spent)
    reader.discard(chunk)
    assert only_segment(tmp_path) not in chunk.spent
    writer.append([label(50)])
    assert read_all(reader, writer.name, chunk.position) == [label(50)]
    writer.close()


def test_a_read_may_be_cut_into_pieces_without_losing_or_repeating(tmp_path: Path) -> None:
    writer, reader = SpoolWriter(tmp_path, segment_bytes=200), SpoolReader(tmp_path)
    for number in range(50):
        writer.append([label(number)])
    seen, position, more = [], -1, True
    while more:
        chunk = reader.read(writer.name, position, limit=300)
        seen += [record for frame in chunk.frames for record in frame.records]
        reader.discard(chunk)
        position, more = chunk.position, chunk.more
    assert seen == [label(number) for number in range(50)]
    writer.close()


def test_the_folder_of_an_ended_writer_goes_when_all_is_read(tmp_path: Path) -> None:
    writer, reader = SpoolWriter(tmp_path), SpoolReader(tmp_path)
    writer.append([label(1)])
    live = reader.read(writer.name)
    assert not live.gone
    writer.close()
    ended = reader.read(writer.name, live.position)
    assert ended.gone
    reader.discard(ended)
    assert reader.writers() == []
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool")
    writer.barrier().result(timeout=5)
    writer.close()
    assert not (tmp_path / "spool").exists()
    assert SpoolReader(tmp_path / "spool").writers() == []


def test_positions_grow_over_segments() -> None:
    assert place(0, 8) < place(0, 2**40 - 1) < place(1, 8)
    assert place(2**22, 2**40 - 1) < 2**63


WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from undrift.capture.capture import LabelRecord, SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]))
for n in range(3):
    writer.append([LabelRecord(model="m", prediction_id=str(n), label="1", event_time=n, received_at=n)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_wrote_is_all_there_and_its_torn_tail_is_dropped(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    with only_segment(tmp_path).open("ab") as file:
        file.write(HEAD.pack(1000, 1) + b"torn")
    reader = SpoolReader(tmp_path)
    (writer,) = reader.writers()
    chunk = reader.read(writer)
    assert [record for frame in chunk.frames for record in frame.records] == [label(0), label(1), label(2)]
    assert chunk.gone
    assert chunk.damaged == []


@pytest.mark.parametrize("tail", [bytes(64), HEAD.pack(4, zlib.crc32(b"good")) + b"evil"])
def test_a_tail_mangled_by_a_power_cut_is_no_damage(tmp_path: Path, tail: bytes) -> None:
    writer, reader = SpoolWriter(tmp_path), SpoolReader(tmp_path)
    writer.append([label(1)])
    writer.close()
    with only_segment(tmp_path).open("ab") as file:
        file.write(tail)
    chunk = reader.read(writer.name)
    assert (len(chunk.frames), chunk.damaged, chunk.gone) == (1, [], True)


def test_a_damaged_segment_is_set_aside_and_said(tmp_path: Path) -> None:
    writer, reader = SpoolWriter(tmp_path), SpoolReader(tmp_path)
    ends = [writer.append([label(number)]) for number in range(3)]
    writer.close()
    path = only_segment(tmp_path)
    data = bytearray(path.read_bytes())
    data[ends[1] - 1] ^= 0xFF
    path.write_bytes(bytes(data))
    chunk = reader.read(writer.name)
    assert [frame.records for frame in chunk.frames] == [[label(0)]]
    assert chunk.damaged == [path]
    reader.discard(chunk)
    assert [p.read_bytes() for p in (tmp_path / "damaged").iterdir()] == [bytes(data)]
    assert reader.writers() == []


def test_a_segment_of_another_format_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "01ABC"
    folder.mkdir()
    (folder / "00000000.seg").write_bytes(MAGIC[:-1] + b"\x63")
    with pytest.raises(StateError, match="another version"):
        SpoolReader(tmp_path).read("01ABC")


def test_a_record_of_a_kind_not_known_here_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "01ABC"
    folder.mkdir()
    payload = b"\x91\x91\xa1z"
    (folder / "00000000.seg").write_bytes(MAGIC + HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
    with pytest.raises(StateError, match="at byte 8"):
        SpoolReader(tmp_path).read("01ABC")


def test_a_full_disk_is_an_error_and_appends_go_on_when_there_is_space(tmp_path: Path) -> None:
    writer, reader = SpoolWriter(tmp_path), SpoolReader(tmp_path)
    writer.append([label(0)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        with pytest.raises(CaptureError, match="cannot be written"):
            writer.append([label(number) for number in range(100)])
        writer.append([label(1)])  # a small one still fits
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.append([label(2)])
    assert read_all(reader, writer.name) == [label(0), label(1), label(2)]
    writer.close()


def test_a_spool_that_cannot_be_made_is_an_error_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    writer = SpoolWriter(tmp_path / "spool")
    with pytest.raises(CaptureError):
        writer.append([label(1)])
    (tmp_path / "spool").unlink()
    writer.append([label(2)])
    assert read_all(SpoolReader(tmp_path / "spool"), writer.name) == [label(2)]
    writer.close()


def test_the_barrier_is_done_when_the_files_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_size), real(file))[1])
    writer = SpoolWriter(tmp_path, sync_ms=60_000)
    writer.append([label(1)])
    writer.barrier().result(timeout=10)
    assert only_segment(tmp_path).stat().st_size in synced
    writer.close()


def test_a_sync_that_fails_fails_the_barrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_file: int) -> None:
        raise OSError(5, "Input/output error")

    writer = SpoolWriter(tmp_path, sync_ms=60_000)
    monkeypatch.setattr(os, "fsync", broken)
    writer.append([label(1)])
    with pytest.raises(CaptureError, match="could not be synced"):
        writer.barrier().result(timeout=10)
    assert writer.sync_failures == 1
    writer.close()
