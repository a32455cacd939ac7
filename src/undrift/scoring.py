"""Batch inference: a table in memory, or one larger than it, by the decoder's rules and the predictor that serve.

A file is scored part by part on several threads, committed in order, and gone on with after a kill; rows that break the
contract are put aside with the reason. Reading stands in state/tables.py, committing in state/outputs.py.
"""

from __future__ import annotations

import itertools
import os
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from undrift.assembly import with_features
from undrift.candidates import keeping
from undrift.data.inspect import check
from undrift.develop.rows import table_columns
from undrift.errors import DataError, PredictionError
from undrift.inference.predictor import Predictor, load
from undrift.project import Project

if TYPE_CHECKING:
    import pyarrow as pa

    from undrift.state.tables import TableFile

__all__ = ["PART_ROWS", "ScoredFile", "score", "score_file"]

PART_ROWS: Final = 50_000
ADDED: Final = ("row", "prediction", "score", "scores", "version", "revision", "reason")
"""Columns that scoring adds; the input may not have them where its columns are kept."""

Keep = Literal["all", "key"]
Say = Callable[[int, "int | None"], None]


class ScoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """What scoring a file gave.

    ``rows``: of the input. ``scored``, ``quarantined``: rows of the output and of those put aside. ``resumed``: rows
    that an earlier run had done. ``seconds`` and ``rows_per_second`` are of this run.
    """

    model: str
    version: int
    revision: str
    rows: int
    scored: int
    quarantined: int
    resumed: int
    out: str
    quarantine: str
    seconds: float
    rows_per_second: float


class _Chosen(NamedTuple):
    model: str
    version: int
    revision: str
    folder: Path


def score(project: Project, table: pa.Table, model: str = "", version: int | None = None) -> pa.Table:
    """Batch inference in memory: the rows with ``score``, ``prediction`` and, for many classes, ``scores``.

    The champion answers unless a version is named. Rows that break the contract are not scored: they come back with
    nulls and the reason in ``reason``. `score_file` takes tables that are larger than memory.

    Raises
    ------
    ContractError : no row keeps the contract.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = _choose(project, model, version)
    predictor = load(chosen.folder, project.settings.trust)
    interface = predictor.manifest.interface
    numbered = table.append_column("__row", pa.array(range(table.num_rows), pa.int64()))
    checked = keeping(numbered, interface.contract)
    full = with_features(project, interface, checked.accepted, bundle=chosen.folder)
    given, refused = full["__row"].combine_chunks(), checked.quarantined["__row"].combine_chunks()
    for name, values in _answers(predictor, full).items():
        table = table.append_column(name, values.take(pc.index_in(numbered["__row"], value_set=given)))
    reasons = checked.quarantined["reason"].take(pc.index_in(numbered["__row"], value_set=refused))
    return table.append_column("reason", reasons)


def score_file(
    project: Project,
    data: str | Path,
    out: str | Path,
    model: str = "",
    version: int | None = None,
    *,
    keep: Keep = "all",
    part_rows: int = PART_ROWS,
    workers: int = 0,
    restart: bool = False,
    say: Say = lambda done, total: None,
) -> ScoredFile:
    """Batch inference from file to file, in constant memory. Called again after a kill it goes on where it was.

    Each row of the output has its place in the input (``row``, from 0), ``prediction``, ``score`` (and ``scores``),
    ``version`` and ``revision``. Rows that break the contract are put aside as they came, with ``row`` and ``reason``.

    Parameters
    ----------
    data : a CSV or Parquet file, a folder of Parquet files, or a Delta table.
    out : a file (.parquet, .csv), a folder, or ``delta:PATH``.
    version : the champion answers if none is named.
    keep : ``all`` columns of the input, or the model's ``key`` alone.
    part_rows : rows that are committed together; what is in memory is a few times as many.
    workers : threads, one per core (at most 8) if 0.
    restart : begin anew where another job was begun.
    say : takes rows done and rows in all (None where only reading tells), for progress.

    Raises
    ------
    ConflictError : the output is of another job: a changed input, another revision, other options.
    DataError : the input cannot be read, has no rows, lacks a column or has one that scoring adds.
    PredictionError : the model raised; what was committed stays, and the same call goes on after it.
    """
    from undrift.state.outputs import open_output
    from undrift.state.tables import open_table

    begun = time.monotonic()
    if part_rows < 1:
        raise DataError(f"part_rows must be 1 or more, got {part_rows}.")
    source = open_table(Path(data))
    chosen = _choose(project, model, version)
    threads = workers or min(os.cpu_count() or 1, 8)
    parts = _Parts(project, chosen, source, keep, threads)
    told = {
        "input": source.identity,
        "model": chosen.model,
        "version": chosen.version,
        "revision": chosen.revision,
        "keep": keep,
        "part_rows": part_rows,
    }
    with open_output(str(out)) as output, ThreadPoolExecutor(threads) as pool:
        job = output.begin(told, restart=restart)
        if job.done:
            return _told(chosen, output, job.counts, job.counts.get("rows_in", 0), begun)
        first = next(number for number in itertools.count() if output.missing(number))
        seen = resumed = first * part_rows
        waiting: deque[tuple[int, int, Future[tuple[pa.Table, pa.Table]]]] = deque()

        def commit() -> int:
            number, count, work = waiting.popleft()
            output.commit(number, *work.result())
            return count

        done = seen
        try:
            for number, table in enumerate(source.parts(part_rows, first=first), first):
                seen += table.num_rows
                if output.missing(number):
                    waiting.append((number, table.num_rows, pool.submit(parts, table, number * part_rows)))
                else:
                    resumed += table.num_rows
                    done += table.num_rows
                if len(waiting) > threads:
                    done += commit()
                say(done, source.rows)
            while waiting:
                done += commit()
                say(done, source.rows)
        finally:
            for _, _, work in waiting:
                work.cancel()
        if seen == 0:
            raise DataError(f"{data} has no rows.")
        if source.rows is not None:
            seen, resumed = source.rows, min(resumed, source.rows)
        counts = output.finish(seen)
    return _told(chosen, output, counts, resumed, begun)


def _told(chosen: _Chosen, output: Any, counts: dict[str, int], resumed: int, begun: float) -> ScoredFile:
    seconds = time.monotonic() - begun
    rows = counts["rows_in"]
    return ScoredFile(
        model=chosen.model,
        version=chosen.version,
        revision=chosen.revision,
        rows=rows,
        scored=counts["rows"],
        quarantined=counts["quarantined"],
        resumed=resumed,
        out=str(output.path),
        quarantine=str(output.quarantine) if counts["quarantined"] else "",
        seconds=seconds,
        rows_per_second=(rows - resumed) / seconds if seconds > 0 else 0.0,
    )


def _choose(project: Project, model: str, version: int | None) -> _Chosen:
    declared = project.model(model)
    route = project.route(declared.name)
    champion = route["champion"] if version is None and route is not None else ""
    row = project.version(declared.name, version, revision=champion)
    return _Chosen(declared.name, row["version"], row["revision"], project.artifacts.get(row["bundle"]))


def _answers(predictor: Predictor, full: pa.Table) -> dict[str, Any]:
    import pyarrow as pa

    interface = predictor.manifest.interface
    kind = pa.float64() if interface.task == "regression" else pa.string()
    scores: Any = pa.list_(pa.float64())
    if not full.num_rows:
        empty = {"score": pa.array([], pa.float64()), "prediction": pa.array([], kind)}
        return {**empty, "scores": pa.array([], scores)} if interface.task == "multiclass" else empty
    out = predictor.predict(table_columns(interface.inputs, full))
    answers = {
        "score": pa.array(out.score, pa.float64()),
        "prediction": pa.array(out.label if out.label is not None else out.score, kind),
    }
    if out.scores is not None:
        answers["scores"] = pa.array(out.scores, scores)
    return answers


class _Parts:
    """What is done with one part, on any thread: each thread has a predictor of its own."""

    def __init__(self, project: Project, chosen: _Chosen, source: TableFile, keep: Keep, threads: int) -> None:
        self._project, self._chosen, self._text = project, chosen, source.text
        self._predictors: queue.SimpleQueue[Predictor] = queue.SimpleQueue()
        opened = [load(chosen.folder, project.settings.trust) for _ in range(threads)]
        for predictor in opened:
            self._predictors.put(predictor)
        self._interface = interface = opened[0].manifest.interface
        self._contract = msgspec.structs.replace(interface.contract, unknown="ignore")
        had = source.schema.names
        lacking = [f.name for f in interface.contract.fields if not f.nullable and f.name not in had]
        if lacking:
            raise DataError(
                f"{source.identity['path']} has no column {', '.join(map(repr, lacking))}, which the contract of "
                f"{chosen.model!r} wants; it has {', '.join(had)}."
            )
        self._kept = list(had) if keep == "all" else [name for name in had if name == interface.key]
        taken = [name for name in self._kept if name in ADDED]
        if taken:
            raise DataError(
                f"{source.identity['path']} has a column {taken[0]!r}, which scoring adds.",
                hint="Rename it, or keep the key alone (--keep key).",
            )

    def __call__(self, table: pa.Table, first: int) -> tuple[pa.Table, pa.Table]:
        """The scored rows, and those put aside."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        n, chosen = table.num_rows, self._chosen
        place = pa.array(np.arange(n))
        given, wrong = table, None
        if self._text:
            from undrift.data.typed import typed

            given, wrong = typed(table, self._contract)
        contract_names = {f.name for f in self._contract.fields}
        given = given.select([name for name in given.column_names if name in contract_names or name in self._kept])
        given = given.append_column("__place", place)
        if wrong is not None:
            given = given.filter(pc.equal(wrong, ""))
        checked = check(given, self._contract)
        accepted = checked.accepted
        full = (
            with_features(self._project, self._interface, accepted, bundle=chosen.folder)
            if accepted.num_rows
            else accepted
        )
        predictor = self._predictors.get()
        try:
            answers = _answers(predictor, full)
        except PredictionError as error:
            raise PredictionError(f"rows {first} to {first + n - 1}: {error.message}") from error
        finally:
            self._predictors.put(predictor)
        here = full["__place"].combine_chunks()
        result = full.select(self._kept).append_column("row", pc.add(here, first))
        for name in ("prediction", "score", "scores"):
            if name in answers:
                result = result.append_column(name, answers[name])
        result = result.append_column("version", pa.repeat(pa.scalar(chosen.version, pa.int32()), len(here)))
        result = result.append_column("revision", pa.repeat(chosen.revision, len(here)))
        return result, self._aside(table, first, checked.quarantined, wrong)

    @staticmethod
    def _aside(table: pa.Table, first: int, quarantined: pa.Table, wrong: Any) -> pa.Table:
        """Rows that break the contract, as they came, in their order, with the reason."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        places, reasons = quarantined["__place"].to_numpy(), quarantined["reason"].to_pylist()
        if wrong is not None:
            odd = np.flatnonzero(pc.not_equal(wrong, "").to_numpy(zero_copy_only=False))
            places = np.concatenate([places, odd])
            reasons += wrong.take(pa.array(odd)).to_pylist()
        order = np.argsort(places, kind="stable")
        aside = table.take(pa.array(places[order]))
        for name, values in (
            ("row", pa.array(places[order] + first, pa.int64())),
            ("reason", pa.array([reasons[i] for i in order], pa.string())),
        ):
            known = name in aside.column_names
            aside = (
                aside.set_column(aside.column_names.index(name), name, values)
                if known
                else aside.append_column(name, values)
            )
        return aside
