"""Capture: what the server saw and answered, appended to files before the answer leaves.

The records, the segment format and its writer stand here. A segment is ``UNDRIFT`` and a format byte, then frames:
length and CRC-32 of the payload (two little-endian 32-bit numbers) and the payload, a MessagePack array of records.
One frame is one append, so it is there as a whole or not at all. Segments are read in spool.py.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.errors import CaptureError
from undrift.ids import new_id
from undrift.settings import ServeSettings

__all__ = [
    "EventRecord",
    "LabelRecord",
    "PredictionRecord",
    "Record",
    "Recorder",
    "SourceRecord",
    "SpoolWriter",
    "WatermarkRecord",
    "drawn",
    "place",
]

MAGIC: Final = b"UNDRIFT\x01"
HEAD: Final = struct.Struct("<II")
OFFSET_BITS: Final = 40


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="p"):
    """One answered row. Times are microseconds; ``score`` is P(positive), the value, or P(the class answered).

    ``error`` is set where a variant failed on the row; then there is no prediction from it.
    ``trace_id`` is that of the caller's W3C trace context, if there was one.
    """

    id: str
    request_id: str
    model: str
    revision: str
    version: int
    variant: str
    unit: str
    propensity: float
    event_time: int
    received_at: int
    inputs: dict[str, Any]
    features: dict[str, Any]
    feature_times: dict[str, int | None]
    score: float | None
    prediction: str | None
    scores: list[float] | None
    violations: list[str]
    latency_us: int
    error: str | None = None
    trace_id: str = ""


class LabelRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="l"):
    """The outcome of one prediction: a class as text, or a number for regression."""

    model: str
    prediction_id: str
    label: str | float
    event_time: int
    received_at: int


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="e"):
    """A business event of a unit: what it did (``name``), how much (``value``), when; ``id`` makes it count once."""

    model: str
    id: str
    unit: str
    name: str
    value: float
    event_time: int
    received_at: int


class SourceRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="s"):
    """One row of a source. ``id``: what the sender calls it, so that sent twice it counts once ('': no guard)."""

    source: str
    row: dict[str, Any]
    received_at: int
    id: str = ""


class WatermarkRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="w"):
    """The sender's promise that everything that happened before ``event_time`` has been sent."""

    event_time: int
    received_at: int


Record = PredictionRecord | LabelRecord | EventRecord | SourceRecord | WatermarkRecord

_encoder: Final = msgspec.msgpack.Encoder()


def place(seq: int, offset: int) -> int:
    """The position of a byte in a writer's segments: grows for ever, fits 63 bits."""
    return (seq << OFFSET_BITS) | offset


class SpoolWriter:
    """Appends records to segments of its own folder; one per process, held by a lock as long as the process lives.

    Nothing is created before the first append, and a folder or disk that is not writable now is tried again at the
    next one.

    Parameters
    ----------
    spool : the folder that all writers share.
    sync_ms : the longest time, in milliseconds, between an append and its sync to disk.
    segment_bytes, segment_seconds : size and age at which the next append begins a new segment.
    """

    def __init__(
        self, spool: Path, *, sync_ms: int = 100, segment_bytes: int = 16 << 20, segment_seconds: float = 5.0
    ) -> None:
        self.name = new_id()
        self.sync_failures = 0
        self._folder = spool / self.name
        self._sync_seconds = sync_ms / 1000
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._lock_file = -1
        self._file, self._seq, self._offset, self._opened = -1, -1, 0, 0.0
        self._retired: list[int] = []
        self._waiting: list[Future[None]] = []
        self._guard = threading.Lock()
        self._dirty, self._urgent = threading.Event(), threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def append(self, records: Sequence[Record]) -> int:
        """Write the records as one frame; returns the position after it. They outlive the process from here on.

        Raises
        ------
        CaptureError : the disk is full or not writable. Nothing of the records will ever be read.
        """
        payload = _encoder.encode(records)
        frame = HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        with self._guard:
            try:
                self._write(frame)
            except OSError as error:
                raise CaptureError(
                    f"{len(records)} records cannot be written to the spool {self._folder.parent}: {error.strerror}.",
                    hint="Free space on its disk or make it writable; appends go on by themselves when it is.",
                ) from error
            position = place(self._seq, self._offset)
        if not self._dirty.is_set():  # where it is set, the sync that clears it comes after this write
            self._dirty.set()
        return position

    def barrier(self) -> Future[None]:
        """A future that is done when everything appended so far is on disk; asks for that at once."""
        waiter: Future[None] = Future()
        with self._guard:
            if self._file < 0:
                waiter.set_result(None)
                return waiter
            self._waiting.append(waiter)
        self._dirty.set()
        self._urgent.set()
        return waiter

    def close(self) -> None:
        """Sync, close and let go of the lock: the reader may remove the folder when it has read it."""
        with self._guard:
            self._closed = True
        self._dirty.set()
        self._urgent.set()
        if self._thread is not None:
            self._thread.join()
        for file in (self._file, self._lock_file):
            if file >= 0:
                os.close(file)
        self._file = self._lock_file = -1

    def _write(self, frame: bytes) -> None:
        now = time.monotonic()
        used = self._offset > len(MAGIC)
        full = self._offset + len(frame) > self._segment_bytes or now - self._opened > self._segment_seconds
        if self._file < 0 or (used and full):
            self._rotate(now)
        try:
            self._put(frame)
        except OSError as error:
            if error.errno != errno.EFBIG or self._offset == len(MAGIC):
                raise
            self._rotate(now)  # a limit on the size of one file, not on the disk
            self._put(frame)
        self._offset += len(frame)

    def _put(self, frame: bytes) -> None:
        try:
            written = os.pwrite(self._file, frame, self._offset)
            if written < len(frame):  # the disk is nearly full: the rest says why, or fits after all
                rest = memoryview(frame)[written:]
                while rest:
                    count = os.pwrite(self._file, rest, self._offset + len(frame) - len(rest))
                    rest = rest[count:]
        except OSError:
            # a frame that is not whole is never read, so its place may be used again
            os.ftruncate(self._file, self._offset)
            raise

    def _rotate(self, now: float) -> None:
        if self._lock_file < 0:
            self._claim()
        seq = self._seq + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        path = self._folder / f"{seq:08d}.seg"
        file = os.open(path, flags, 0o640)
        try:
            if os.pwrite(file, MAGIC, 0) < len(MAGIC):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.close(file)
            path.unlink()
            raise
        if self._file >= 0:
            self._retired.append(self._file)
        self._file, self._seq, self._offset, self._opened = file, seq, len(MAGIC), now
        if self._thread is None:
            self._thread = threading.Thread(target=self._sync, name="spool-sync", daemon=True)
            self._thread.start()

    def _claim(self) -> None:
        """Make the folder and its lock appear together, so that no reader takes a new writer for a dead one."""
        hidden = self._folder.with_name(f".{self.name}")
        hidden.mkdir(parents=True, exist_ok=True)
        lock = os.open(hidden / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self._folder)
        except OSError:
            os.close(lock)
            raise
        self._lock_file = lock

    def _sync(self) -> None:
        """Sync in groups; the only place that closes segments, so none is closed while it syncs."""
        last_seq = -1
        while True:
            self._dirty.wait()
            self._urgent.wait(self._sync_seconds)
            with self._guard:
                self._dirty.clear()
                self._urgent.clear()
                retired, self._retired = self._retired, []
                waiting, self._waiting = self._waiting, []
                file, seq, closed = self._file, self._seq, self._closed
            problem: OSError | None = None
            for each in (*retired, file):
                problem = _synced(each) or problem
            if seq != last_seq:
                problem = self._sync_folder() or problem
                last_seq = seq
            for each in retired:
                os.close(each)
            self.sync_failures += problem is not None
            for waiter in waiting:
                if problem is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(CaptureError(f"the spool {self._folder} could not be synced: {problem}."))
            if closed:
                return

    def _sync_folder(self) -> OSError | None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _synced(folder)
        finally:
            os.close(folder)


def _synced(file: int) -> OSError | None:
    try:
        os.fsync(file)
    except OSError as error:
        return error
    return None


class Recorder:
    """What the settings say about capture: whose predictions, whether an answer may leave without its record, and what
    counts as written.

    Parameters
    ----------
    writer : where records go.
    settings : ``capture``, ``durability`` and ``capture_rates``.
    """

    def __init__(self, writer: SpoolWriter, settings: ServeSettings) -> None:
        self._writer = writer
        self._required = settings.capture == "required"
        self._power = settings.durability == "power"
        self._rates = settings.capture_rates
        self.lost = 0
        self.full = ""

    def sample(self, model: str, records: list[PredictionRecord]) -> list[PredictionRecord]:
        """Those of a model that are captured: all, or a share of the units, the same ones always.

        The hash is salted by the model's name and not by a rollout's, so that of every variant the same share is kept.
        """
        rate = self._rates.get(model, 1.0)
        if rate >= 1.0:
            return records
        return [record for record in records if drawn(model, record.unit, rate)]

    async def write(self, records: Sequence[Record], *, required: bool = False) -> bool:
        """Write the records; False if they could not be written and need not be.

        Raises
        ------
        CaptureError : they could not be written, or ``full`` says that the spool may not grow, and the settings or
            ``required`` say that they must.
        """
        if not records:
            return True
        try:
            if self.full:
                raise CaptureError(
                    f"{len(records)} records are not written: {self.full}.",
                    hint="Start `undrift work`, see why it is behind, or allow a larger spool.",
                )
            self._writer.append(records)
            if self._power:
                await asyncio.wrap_future(self._writer.barrier())
        except CaptureError:
            self.lost += len(records)
            if required or self._required:
                raise
            return False
        return True


def drawn(model: str, unit: str, rate: float) -> bool:
    """Whether a unit is among those whose predictions are captured, at a rate in [0, 1]: kept while the rate grows."""
    digest = hashlib.blake2b(unit.encode(), key=f"capture {model}".encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest, "big") < rate * 2**64
