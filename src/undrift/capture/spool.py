"""Reading the spool: the frames of all writers, each after the position that is safe elsewhere already.

Open segments are read up to their last whole frame. What the format is stands in capture.py, where records go in
ingest.py.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from undrift.capture.capture import HEAD, MAGIC, OFFSET_BITS, Record, place
from undrift.errors import StateError

__all__ = ["TAKEN", "Chunk", "Frame", "SpoolReader", "Waiting", "tell_taken", "waiting"]

TAKEN: Final = ".taken"
"""The file that says how far ingest has taken each writer."""

_decoder: Final = msgspec.msgpack.Decoder(list[Record])


class Frame(NamedTuple):
    """The records of one append and the position after them."""

    position: int
    records: list[Record]


class Chunk(NamedTuple):
    """What one read of a writer gave.

    ``spent`` are segments that are read to their end and will not grow; ``gone`` says that the writer has ended and
    all of it is read; ``more`` that the limit cut the read short; ``damaged`` names segments set aside because a
    frame in their midst does not have its checksum.
    """

    writer: str
    frames: list[Frame]
    position: int
    spent: list[Path]
    gone: bool
    more: bool
    damaged: list[Path]


class Waiting(NamedTuple):
    """What no worker has taken in yet: bytes of all writers, and the age of the oldest record in seconds; 0 for none.

    This age is the lag of ingest.
    """

    size: int
    seconds: float


def tell_taken(spool: Path, reached: Mapping[str, int]) -> None:
    """Leave word for the servers how far each writer has been taken in; a disk that is full only makes it older."""
    scratch = spool / f"{TAKEN}.new"
    try:
        scratch.write_bytes(msgspec.json.encode(reached))
        scratch.replace(spool / TAKEN)
    except OSError:
        pass


def waiting(spool: Path, now: float) -> Waiting:
    """What waits in the spool of all writers, by their segments and by what a worker has left word of.

    Without word (no worker ever ran here) all that is in the segments waits.

    Parameters
    ----------
    now : the time as ``time.time()`` has it.
    """
    try:
        reached = msgspec.json.decode((spool / TAKEN).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        reached = {}
    size, oldest = 0, now
    begun: set[Path] = set()  # writers whose oldest waiting record is known
    for path in sorted(spool.glob("[!.]*/*.seg")):
        if path.parent.name == "damaged":
            continue
        position = reached.get(path.parent.name, 0)
        begin = max(len(MAGIC), position & ((1 << OFFSET_BITS) - 1) if position >> OFFSET_BITS == int(path.stem) else 0)
        try:
            left = path.stat().st_size - begin
            if left <= 0 or int(path.stem) < position >> OFFSET_BITS:
                continue
            size += left
            if path.parent not in begun and (since := _received(path, begin)) is not None:
                begun.add(path.parent)
                oldest = min(oldest, since)
        except FileNotFoundError:  # a worker has just taken it in
            pass
    return Waiting(size, now - oldest)


def _received(path: Path, begin: int) -> float | None:
    """When the record that begins there was received, in seconds; None while it is not whole."""
    with path.open("rb") as file:
        file.seek(begin)
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        length, checksum = HEAD.unpack(head)
        payload = file.read(length)
    if not length or len(payload) < length or zlib.crc32(payload) != checksum:
        return None
    try:
        records = _decoder.decode(payload)
    except msgspec.MsgspecError:  # the worker says what is wrong with it
        return None
    return records[0].received_at / 1_000_000 if records else None


class SpoolReader:
    """Reads the segments of all writers, open ones up to their last whole frame.

    Parameters
    ----------
    spool : the folder that all writers share; it need not exist yet.
    """

    def __init__(self, spool: Path) -> None:
        self.spool = spool

    def writers(self) -> list[str]:
        """The names of all writers, live and ended, oldest first."""
        try:
            with os.scandir(self.spool) as entries:
                return sorted(e.name for e in entries if not e.name.startswith((".", "damaged")) and e.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateError(f"the spool {self.spool} cannot be listed: {error.strerror}.") from error

    def read(self, writer: str, after: int = -1, limit: int = 64 << 20) -> Chunk:
        """The frames of a writer after a position, at most about ``limit`` bytes of them.

        Raises
        ------
        StateError : a segment cannot be read, or was written in a format of another version.
        """
        folder = self.spool / writer
        ended = _ended(folder)  # before looking at the segments: then nothing is written after the look
        paths = sorted(folder.glob("*.seg"))
        chunk = Chunk(writer, [], after, [], ended, False, [])
        position, budget = max(after, 0), limit
        for path in paths:
            seq = int(path.stem)
            sealed = ended or path is not paths[-1]
            if seq < position >> OFFSET_BITS:
                chunk.spent.append(path)
                continue
            offset = position & ((1 << OFFSET_BITS) - 1) if seq == position >> OFFSET_BITS else 0
            frames, end, whole = _segment(path, seq, offset, sealed)
            chunk.frames.extend(frames)
            position = place(seq, end)
            budget -= end - offset
            if not whole:
                chunk.damaged.append(path)
            elif sealed:
                chunk.spent.append(path)
            if budget <= 0 and path is not paths[-1]:
                return chunk._replace(position=position, gone=False, more=True)
        return chunk._replace(position=position)

    def discard(self, chunk: Chunk) -> None:
        """Remove what a chunk says is spent; to be called once its records are safe elsewhere."""
        for path in chunk.damaged:
            aside = self.spool / "damaged"
            aside.mkdir(exist_ok=True)
            path.rename(aside / f"{chunk.writer}-{path.name}")
        for path in chunk.spent:
            path.unlink(missing_ok=True)
        if chunk.gone:
            folder = self.spool / chunk.writer
            (folder / "lock").unlink(missing_ok=True)
            folder.rmdir()


def _ended(folder: Path) -> bool:
    """Whether the writer is gone: its lock can be had, or was removed by a reader that died while clearing up."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _segment(path: Path, seq: int, offset: int, sealed: bool) -> tuple[list[Frame], int, bool]:
    """The frames from an offset on, the offset after the last whole one, and whether the rest is as it may be.

    A tail that is no whole frame is an append that never was acknowledged, or one that is just being written.
    """
    try:
        with path.open("rb") as file:
            if offset == 0:
                magic = file.read(len(MAGIC))
                offset = len(MAGIC)
                if len(magic) == len(MAGIC) and magic != MAGIC:
                    raise StateError(
                        f"{path} begins with {magic!r}, not {MAGIC!r}: another version of undrift wrote it.",
                        hint="Read it with that version, or move it out of the spool.",
                    )
            else:
                file.seek(offset)
            data = file.read()
    except OSError as error:
        raise StateError(f"the spool segment {path} cannot be read: {error.strerror}.") from error
    frames: list[Frame] = []
    view, at = memoryview(data), 0
    while at + HEAD.size <= len(data):
        length, checksum = HEAD.unpack_from(data, at)
        end = at + HEAD.size + length
        if end > len(data):
            break
        payload = view[at + HEAD.size : end]
        if not length or zlib.crc32(payload) != checksum:
            torn = end == len(data) or not any(data[at:])  # a power cut leaves zeros or a mangled last frame
            return frames, offset + at, torn or not sealed
        try:
            records = _decoder.decode(payload)
        except msgspec.MsgspecError as error:
            raise StateError(f"{path} holds a record that cannot be read at byte {offset + at}: {error}.") from error
        frames.append(Frame(place(seq, offset + end), records))
        at = end
    return frames, offset + at, True
