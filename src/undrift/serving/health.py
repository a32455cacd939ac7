"""How a worker of `undrift serve` is: golden requests asked again and again, files of bundles, memory, load and cost.

Each worker asks the models it has loaded what it asked when it loaded them, through the same queue as everybody, and
leaves what it saw in ``<pid>.health`` beside its acknowledgement. What it means is judged in monitor/.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from undrift.develop.bundle import GoldenRow, read_golden, read_manifest
from undrift.errors import DeadlineError, ModelError, OverloadError, UndriftError
from undrift.inference.predictor import differing
from undrift.inference.revision import Revision
from undrift.inference.router import Placed
from undrift.serving.placement import Placement
from undrift.serving.telemetry import Meters, notice
from undrift.settings import Settings

__all__ = ["Asked", "Health", "HealthCheck", "Reading", "Spent", "read_health"]

KEPT: Final = 60
"""Readings that are kept: an hour of them at one a minute."""
FIRST_SECONDS: Final = 2.0
HASHED_EVERY: Final = 60
"""Checks after which files are hashed again though they look the same."""
SUFFIX: Final = ".health"
PATIENCE: Final = 5
"""Checks that may be missed before a worker counts as not telling any more."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the golden requests of one revision gave.

    ``rows`` were asked (0: the model was too busy, or its answers are another server's), ``differ`` of them answered
    other than on record; ``why`` says how, ``file`` which file of the bundle is not the one that was registered.
    """

    model: str
    version: int
    revision: str
    rows: int = 0
    differ: int = 0
    why: str = ""
    file: str = ""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What the predictions of one model took since the last reading: rows, CPU seconds, money."""

    rows: int
    cpu_seconds: float
    money: float


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a worker: resident memory in MB, the share of a core it used since the last one, and what it spent.

    The processes of its native models count for memory. One core is all that a worker's event loop has, so ``busy``
    near 1 is saturation; models with threads of their own may use more.
    """

    at: datetime
    memory_mb: float
    busy: float
    spent: dict[str, Spent] = {}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker tells of itself. ``every`` is the number of seconds between two checks."""

    pid: int
    worker: int
    at: datetime
    every: float
    asked: tuple[Asked, ...] = ()
    readings: tuple[Reading, ...] = ()


class HealthCheck:
    """The checks of one worker.

    Parameters
    ----------
    folder : where it leaves what it saw.
    worker : its number.
    """

    def __init__(self, settings: Settings, folder: Path, worker: int, placement: Placement, meters: Meters) -> None:
        self._settings, self._folder, self._worker = settings, folder, worker
        self._placement, self._meters = placement, meters
        self._golden: dict[Placed, list[GoldenRow]] = {}
        self._seen: dict[Placed, tuple[int, tuple[tuple[str, int, int, int], ...], str]] = {}
        self._readings: list[Reading] = []
        self._spent: dict[str, tuple[int, float]] = {}
        self._before = (time.monotonic(), time.process_time())
        self.path = folder / f"{os.getpid()}{SUFFIX}"

    async def run(self) -> None:
        """Check for ever; what goes wrong is told, and serving goes on."""
        every = self._settings.serve.check_seconds
        if not every:
            return
        await asyncio.sleep(min(FIRST_SECONDS, every))
        while True:
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001  a check must never end the server that it checks
                notice("unchecked", why=f"{type(error).__name__}: {error}")
            await asyncio.sleep(every)

    async def check(self) -> Health:
        """Ask, look and measure once, and leave what was seen."""
        asked = [await self._ask(placed, revision) for placed, revision in self._placement.loaded()]
        for each in asked:
            self._meters.golden.labels(each.model, str(each.version)).set(each.differ)
        self._golden = {p: rows for p, rows in self._golden.items() if p in dict(self._placement.loaded())}
        self._readings = [*self._readings, self._read()][-KEPT:]
        health = Health(
            pid=os.getpid(),
            worker=self._worker,
            at=datetime.now(UTC),
            every=self._settings.serve.check_seconds,
            asked=tuple(asked),
            readings=tuple(self._readings),
        )
        scratch = self.path.with_suffix(".new")
        try:
            await asyncio.to_thread(scratch.write_bytes, msgspec.json.encode(health))
            os.replace(scratch, self.path)
        except OSError as error:
            notice("untold", why=str(error))
        return health

    async def _ask(self, placed: Placed, revision: Revision) -> Asked:
        manifest = revision.manifest
        file = await asyncio.to_thread(self._changed_file, placed)
        told = Asked(model=manifest.interface.model, version=placed.version, revision=placed.revision, file=file)
        if placed not in self._golden:
            try:
                rows = await asyncio.to_thread(read_golden, Path(placed.path))
            except UndriftError as error:
                return replace(told, file=file or str(error))
            self._golden[placed] = rows
        golden = self._golden[placed]
        if not golden or manifest.format == "upstream":  # the model is another server's, and may cost a call each
            return told
        names = [given.name for given in manifest.interface.inputs]
        columns = {name: [row.inputs.get(name) for row in golden] for name in names}
        deadline = time.monotonic() + self._settings.serve.timeout_ms / 1000
        try:
            outputs = await revision.batcher.predict(columns, len(golden), deadline)
        except (OverloadError, DeadlineError):  # users come first; the next check asks again
            return told
        except ModelError as error:
            return replace(told, rows=len(golden), differ=len(golden), why=str(error))
        found = differing(manifest, outputs, golden)
        why = f"request {found[0][0]} is answered {found[0][1]:.6g}, on record is {found[0][2]:.6g}" if found else ""
        return replace(told, rows=len(golden), differ=len(found), why=why)

    def _changed_file(self, placed: Placed) -> str:
        """Why the bundle on disk is not the one that was registered; empty if it is. Hashed only where it looks new."""
        folder = Path(placed.path)
        looks = tuple(
            (path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and (stat := path.stat())
        )
        times, before, why = self._seen.get(placed, (HASHED_EVERY, (), ""))
        if looks == before and times < HASHED_EVERY:
            self._seen[placed] = (times + 1, before, why)
            return why
        try:
            read_manifest(folder)
            why = ""
        except UndriftError as error:
            why = error.message
        self._seen[placed] = (1, looks, why)
        return why

    def _read(self) -> Reading:
        wall, cpu = time.monotonic(), time.process_time()
        gone = max(wall - self._before[0], 1e-9)
        busy = (cpu - self._before[1]) / gone
        self._before = (wall, cpu)
        memory = _memory() + sum(map(_memory, self._placement.model_processes()))
        return Reading(at=datetime.now(UTC), memory_mb=memory, busy=busy, spent=self._spend())

    def _spend(self) -> dict[str, Spent]:
        """What each model's predictions took since the last reading."""
        self._meters.settle()
        total: dict[str, tuple[int, float]] = {}
        for (model, _, _), usage in self._meters.ledger.items():
            rows, cpu = total.get(model, (0, 0.0))
            total[model] = (rows + usage.rows, cpu + usage.cpu)
        price = self._settings.serve.price_per_cpu_hour / 3600.0
        found = {}
        for model, (rows, cpu) in total.items():
            old_rows, old_cpu = self._spent.get(model, (0, 0.0))
            found[model] = Spent(rows=rows - old_rows, cpu_seconds=cpu - old_cpu, money=(cpu - old_cpu) * price)
        self._spent = total
        return found


def _memory(pid: int = 0) -> float:
    """Resident memory of a process in MB (0: this one); the most there was, where the system tells no more."""
    try:
        pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, IndexError):
        if pid:  # it has just ended
            return 0.0
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def read_health(folder: Path, now: datetime) -> Sequence[Health]:
    """What the workers of this machine told lately, by their number; empty where no server runs.

    Parameters
    ----------
    now : by the wall clock; who did not tell for five checks is left out, and so is whose process is gone.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            health = msgspec.json.decode(path.read_bytes(), type=Health)
            os.kill(health.pid, 0)
        except (OSError, msgspec.MsgspecError):
            continue
        if now - health.at <= timedelta(seconds=PATIENCE * health.every + 60):
            found.append(health)
    return sorted(found, key=lambda each: each.worker)
