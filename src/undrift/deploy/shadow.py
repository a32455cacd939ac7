"""Shadow: captured requests replayed through a candidate in a process of its own, with a limit on time and memory.

A candidate that crashes, hangs or leaks harms nobody there. The caller joins the candidate's features point in time and
gives them as columns; how both models' answers compare is judged in paired.py. The process imports what serving
imports and nothing more: ``python -m undrift.deploy.shadow JOB``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from undrift.errors import ModelError, UndriftError
from undrift.inference.predictor import Predictor, load
from undrift.settings import TrustSettings

__all__ = ["Replay", "replay"]

BATCH: Final = 256
TIMED: Final = 300
"""Rows that are asked one by one, where that is wanted."""
POLL_SECONDS: Final = 0.02

Status = Literal["done", "refused", "crashed", "timeout", "memory"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the child process is to do: a bundle, the inputs as columns, and where to put the answers.

    ``encoded`` names the columns that came as arrays, laid out for the model already.
    """

    bundle: str
    columns: dict[str, list[Any]]
    encoded: tuple[str, ...]
    rows: int
    out: str
    trust: TrustSettings
    timed: bool = False


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate's answers to captured requests, row by row (None where it failed), and how the process fared.

    ``status``: ``refused`` for a bundle that cannot be loaded. ``errors`` counts each message. ``row_ms``: median and
    99th percentile of rows asked one by one, if that was wanted. It, ``seconds`` and ``peak_mb`` are of this machine
    and differ between runs: keep them out of texts.
    """

    status: Status
    problem: str = ""
    score: list[float | None] = []
    scores: list[list[float] | None] | None = None
    label: list[str | None] | None = None
    errors: dict[str, int] = {}
    row_ms: tuple[float, float] | None = None
    seconds: float = 0.0
    peak_mb: float = 0.0


def replay(
    bundle: Path,
    columns: Mapping[str, Any],
    rows: int,
    trust: TrustSettings,
    *,
    timeout: float = 300.0,
    memory_mb: int = 4096,
    timed: bool = False,
) -> Replay:
    """Score rows with a candidate in a child process.

    Parameters
    ----------
    bundle : the candidate's folder.
    columns : one list of request values per input of the model, ``rows`` long, absent ones None; or arrays, as
        `develop.rows.table_columns` gives them.
    timeout : seconds after which the process is killed.
    memory_mb : resident megabytes beyond which it is killed.
    timed : also ask some rows one by one, for how long that takes.

    Returns
    -------
    Replay
        Never raises for what the candidate does; its status says how it ended.
    """
    with tempfile.TemporaryDirectory(prefix="undrift-shadow-") as folder:
        out, file, log = Path(folder) / "answers.json", Path(folder) / "job.json", Path(folder) / "log"
        job = Job(
            bundle=str(bundle),
            columns={
                name: [_plain(v) for v in (values.tolist() if hasattr(values, "dtype") else values)]
                for name, values in columns.items()
            },
            encoded=tuple(name for name, values in columns.items() if hasattr(values, "dtype")),
            rows=rows,
            out=str(out),
            trust=trust,
            timed=timed,
        )
        file.write_bytes(msgspec.json.encode(job))
        began = time.monotonic()
        with log.open("wb") as said:
            child = subprocess.Popen(
                [sys.executable, "-m", "undrift.deploy.shadow", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                cwd=folder,
            )
            ended, peak = _watch(child, began + timeout, memory_mb)
        seconds = time.monotonic() - began
        if ended is not None:
            what = f"{timeout:g} s" if ended == "timeout" else f"{memory_mb} MB"
            return Replay(
                status=ended, problem=f"the candidate was ended at its limit of {what}", seconds=seconds, peak_mb=peak
            )
        if child.returncode != 0 or not out.exists():
            return Replay(status="crashed", problem=_last_words(child.returncode, log), seconds=seconds, peak_mb=peak)
        answers = msgspec.json.decode(out.read_bytes(), type=Replay)
    return msgspec.structs.replace(answers, seconds=seconds, peak_mb=peak)


def _watch(
    child: subprocess.Popen[bytes], deadline: float, memory_mb: int
) -> tuple[Literal["timeout", "memory"] | None, float]:
    """Wait for the child, and kill its whole session at the limit of time or memory."""
    peak = 0.0
    try:
        while True:
            try:
                child.wait(POLL_SECONDS)
                return None, peak
            except subprocess.TimeoutExpired:
                peak = max(peak, _resident_mb(child.pid))
            if peak > memory_mb:
                return "memory", peak
            if time.monotonic() > deadline:
                return "timeout", peak
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _resident_mb(pid: int) -> float:
    """Resident memory of a process; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _last_words(code: int, log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    said = f": {lines[-1][:200]}" if lines else ""
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"the candidate's process ended with {ended}{said}"


def _plain(value: Any) -> Any:
    """A value as JSON has it; times as microseconds, the wire's form."""
    if hasattr(value, "timestamp"):
        return int(value.timestamp() * 1_000_000)
    return None if isinstance(value, float) and value != value else value


# -- the child -----------------------------------------------------------------------------------------------------


def _array(values: list[Any]) -> Any:
    """A column laid out for the model: text as objects, anything else as float64 with NaN for what is absent."""
    import numpy as np

    text = any(isinstance(value, str) for value in values)
    return np.asarray(values, dtype=object if text else np.float64)


def _answer(predictor: Predictor, columns: Mapping[str, Any], rows: int) -> Replay:
    """Answers in batches; a batch that raises is asked again row by row, so that one bad row costs itself only."""
    score: list[float | None] = []
    scores: list[list[float] | None] = []
    label: list[str | None] = []
    errors: dict[str, int] = {}

    def ask(start: int, end: int) -> None:
        found = predictor.predict({name: values[start:end] for name, values in columns.items()})
        if len(found.score) != end - start:
            raise ValueError(f"{len(found.score)} answers to {end - start} rows")
        score.extend(found.score)
        scores.extend(found.scores if found.scores is not None else [None] * (end - start))
        label.extend(found.label if found.label is not None else [None] * (end - start))

    for start in range(0, rows, BATCH):
        end = min(start + BATCH, rows)
        try:
            ask(start, end)
        except Exception:  # noqa: BLE001  whatever a model raises is counted below, row by row
            for row in range(start, end):
                try:
                    ask(row, row + 1)
                except Exception as error:  # noqa: BLE001  a row that fails is evidence, not an end
                    message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
                    errors[message] = errors.get(message, 0) + 1
                    score.append(None)
                    scores.append(None)
                    label.append(None)
    return Replay(status="done", score=score, scores=scores, label=label, errors=errors)


def _row_ms(predictor: Predictor, columns: Mapping[str, Any], rows: int) -> tuple[float, float] | None:
    """Median and 99th percentile of the milliseconds that a row alone takes, over rows that can be answered."""
    took = []
    for row in range(0, rows, max(1, rows // TIMED)):
        one = {name: values[row : row + 1] for name, values in columns.items()}
        began = time.perf_counter()
        try:
            predictor.predict(one)
        except Exception:  # noqa: BLE001  counted as a failure when all rows were answered
            continue
        took.append((time.perf_counter() - began) * 1000)
    if not took:
        return None
    took.sort()
    return took[len(took) // 2], took[min(len(took) - 1, int(0.99 * len(took)))]


def main(file: str) -> int:
    """Do the job of a file; the exit code is 0 also for a bundle that cannot be loaded, which the answers say."""
    job = msgspec.json.decode(Path(file).read_bytes(), type=Job)
    try:
        predictor = load(Path(job.bundle), job.trust)
    except (ModelError, UndriftError) as error:
        answers = Replay(status="refused", problem=error.message)
    else:
        columns = {n: _array(values) if n in job.encoded else values for n, values in job.columns.items()}
        answers = _answer(predictor, columns, job.rows)
        if job.timed:
            answers = msgspec.structs.replace(answers, row_ms=_row_ms(predictor, columns, job.rows))
    Path(job.out).write_bytes(msgspec.json.encode(answers))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
