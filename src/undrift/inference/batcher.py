"""Micro-batches: requests that wait while the model is busy are predicted together.

An idle model starts at once, so nothing is delayed to form a batch. The queue is bounded, and work whose caller has
stopped waiting is dropped before it reaches the model. A model of microseconds runs on the event loop: while requests
come one by one, as each comes; where several come in one turn of the loop, when all that has arrived is read. Any other
runs in a thread of its own, or in as many as it says it bears (``concurrency``).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from itertools import chain
from typing import Any, Final

import msgspec

from undrift.errors import DeadlineError, ModelError, OverloadError, PredictionError
from undrift.inference.predictor import Outputs, Predictor
from undrift.inference.usage import Usage

__all__ = ["INLINE_SECONDS", "Batcher"]

Columns = Mapping[str, Sequence[Any]]

INLINE_SECONDS: Final = 0.002
"""A model whose calls take longer than this is no longer called on the event loop."""
STRIKES: Final = 5
"""Slow calls in a row after which a model is moved to a thread for good: one may be a page fault's."""
PROBED: Final = 8
"""One of so many requests that are answered as they come finds out whether another comes in the same turn."""
ALONE: Final = 32
"""Batches of one request in a row after which requests are answered as they come."""


class _Waiting(msgspec.Struct, frozen=True):
    columns: Columns
    rows: int
    deadline: float
    future: asyncio.Future[Outputs]
    usage: Usage
    since: float
    context: Context | None = None  # of the request, where the model is called from a thread


_Result = tuple[asyncio.Future[Outputs], Outputs | ModelError | OverloadError]


class Batcher:
    """Feeds one predictor from one event loop.

    Parameters
    ----------
    predictor : what runs the model; called from one thread at a time.
    max_batch : rows that waiting requests are gathered to. One request of more rows is not split.
    max_queue : rows that may wait. A request that finds the queue empty may always wait.
    inline : whether the model may run on the event loop, as long as its calls take less than `INLINE_SECONDS` of CPU
        (a busy machine is no reason to move it). Only for models whose time is bounded by their size: nothing is
        answered while one runs.
    """

    def __init__(
        self, predictor: Predictor, *, max_batch: int = 64, max_queue: int = 1024, inline: bool = False
    ) -> None:
        self.predictor = predictor
        self.inline = inline
        self._max_batch, self._max_queue = max_batch, max_queue
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._strikes = 0
        self._scheduled = False
        self._one_by_one, self._in_turn = True, False
        self._alone = 0  # requests answered as they came, or batches of one, in a row
        self._changed = threading.Condition()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._most: int = max(1, getattr(predictor, "concurrency", 1))
        self._apart = hasattr(predictor, "apart_cpu")

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._rows

    async def predict(self, columns: Columns, rows: int, deadline: float, usage: Usage | None = None) -> Outputs:
        """Predict rows given as columns.

        Parameters
        ----------
        rows : how many there are; every column has that many values.
        deadline : the ``time.monotonic()`` after which nobody waits for the answer.
        usage : what the call is charged to.

        Raises
        ------
        OverloadError : the queue is full.
        DeadlineError : the deadline passed before the answer was there.
        PredictionError : the model failed on these rows.
        """
        if self._closed:
            raise OverloadError("the revision was just replaced.", retry_after=0.1)
        if self._queue and self._rows + rows > self._max_queue:
            raise OverloadError(f"{self._rows} rows wait for the model; at most {self._max_queue} may.")
        charged = usage or Usage()
        if not self.inline:
            return await self._by_thread(
                _Waiting(columns, rows, deadline, self._future(), charged, time.monotonic(), copy_context())
            )
        if rows > self._max_batch:
            return await self._in_parts(columns, rows, deadline, charged)
        if self._one_by_one and not self._queue and deadline > time.monotonic():
            if not self._in_turn:
                return self._as_it_comes(columns, rows, charged)
            self._one_by_one, self._alone = False, 0
        return await self._by_loop(columns, rows, deadline, charged)

    def _as_it_comes(self, columns: Columns, rows: int, usage: Usage) -> Outputs:
        """The answer now, in the caller's turn of the loop: without a future, a task and two turns more."""
        self._alone += 1
        if self._alone >= PROBED:
            self._alone, self._in_turn = 0, True
            self._loop.call_soon(self._end_turn)
        began, cpu = time.monotonic(), self._cpu()
        found = self._predict(columns, rows, None)
        cpu = self._cpu() - cpu
        usage.batch(rows)
        self._charge(usage, time.monotonic() - began, cpu)
        self._judge(cpu)
        if isinstance(found, (ModelError, OverloadError)):
            raise found
        return found

    def _end_turn(self) -> None:
        self._in_turn = False

    def _judge(self, cpu: float) -> None:
        """Whether the model may stay on the event loop, by the CPU seconds of a call."""
        self._strikes = self._strikes + 1 if cpu > INLINE_SECONDS else 0
        self.inline = self._strikes < STRIKES

    def _charge(self, usage: Usage, seconds: float, cpu: float) -> None:
        usage.compute += seconds
        if self._apart:
            usage.apart_cpu += cpu
        else:
            usage.model_cpu += cpu

    def _future(self) -> asyncio.Future[Outputs]:
        return self._loop.create_future()

    def _by_loop(self, columns: Columns, rows: int, deadline: float, usage: Usage) -> asyncio.Future[Outputs]:
        future = self._future()
        self._queue.append(_Waiting(columns, rows, deadline, future, usage, time.monotonic()))
        self._rows += rows
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run_here)
        return future

    async def _in_parts(self, columns: Columns, rows: int, deadline: float, usage: Usage) -> Outputs:
        """A request larger than a batch, so that others come in between."""
        waits = []
        for start in range(0, rows, self._max_batch):
            end = min(start + self._max_batch, rows)
            part = {name: values[start:end] for name, values in columns.items()}
            waits.append(self._by_loop(part, end - start, deadline, usage))
        try:
            parts = [await wait for wait in waits]
        except BaseException:
            for wait in waits:
                wait.cancel()
                if wait.done() and not wait.cancelled():
                    wait.exception()  # one is raised already
            raise
        return Outputs(
            score=[value for part in parts for value in part.score],
            scores=None if parts[0].scores is None else [row for part in parts for row in part.scores or ()],
            label=None if parts[0].label is None else [label for part in parts for label in part.label or ()],
        )

    async def _by_thread(self, item: _Waiting) -> Outputs:
        with self._changed:
            self._queue.append(item)
            self._rows += item.rows
            self._begin_thread()
        timer = self._loop.call_at(self._loop.time() + item.deadline - time.monotonic(), _expire, item.future)
        try:
            return await item.future
        finally:
            timer.cancel()

    def _begin_thread(self) -> None:
        """Start a thread if all are busy and one more may be, or tell one that waits; with the lock held."""
        if not self._idle and len(self._threads) < self._most:
            self._threads.append(threading.Thread(target=self._run, name="batcher", daemon=True))
            self._threads[-1].start()
        self._changed.notify()

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run_here(self) -> None:
        """One batch, on the event loop."""
        self._scheduled = False
        if (
            not self.inline
        ):  # not any more: what waits is the thread's, for the model is called from one place at a time
            with self._changed:
                self._begin_thread()
            return
        batch = self._pop()
        if batch:
            _deliver(self._answer(batch))
            self._alone = self._alone + 1 if len(batch) == 1 else 0
            self._one_by_one = self._alone >= ALONE
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run_here)

    def _run(self) -> None:
        while batch := self._take():
            results = self._answer(batch)
            try:
                self._loop.call_soon_threadsafe(_deliver, results)
            except RuntimeError:  # the loop was closed: nobody waits any more
                return

    def _take(self) -> list[_Waiting]:
        """The next requests to run together; waits for one, and is empty only when closed."""
        while True:
            with self._changed:
                while not self._queue:
                    if self._closed:
                        return []
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                batch = self._pop()
            if batch:
                return batch

    def _pop(self) -> list[_Waiting]:
        """What is next in the queue, up to a batch, without what nobody waits for."""
        batch, rows, now = list[_Waiting](), 0, time.monotonic()
        while self._queue and (not batch or rows + self._queue[0].rows <= self._max_batch):
            item = self._queue.popleft()
            self._rows -= item.rows
            if item.future.done():
                continue
            if item.deadline > now:
                batch.append(item)
                rows += item.rows
                item.usage.queue += now - item.since
            else:
                self._loop.call_soon_threadsafe(_expire, item.future)
        return batch

    def _answer(self, batch: list[_Waiting]) -> list[_Result]:
        began, cpu = time.monotonic(), self._cpu()
        try:
            return self._answers(batch)
        finally:
            took, cpu = time.monotonic() - began, self._cpu() - cpu
            rows = sum(item.rows for item in batch)
            batch[0].usage.batch(rows)
            if self.inline:
                self._judge(cpu)
            for item in batch:
                self._charge(item.usage, took * item.rows / rows, cpu * item.rows / rows)

    def _cpu(self) -> float:
        """CPU seconds of the model so far, in another process or in this thread."""
        return float(getattr(self.predictor, "apart_cpu", 0.0)) if self._apart else time.thread_time()

    def _answers(self, batch: list[_Waiting]) -> list[_Result]:
        if len(batch) == 1:
            return [(batch[0].future, self._predict(batch[0].columns, batch[0].rows, batch[0].context))]
        # all are columns of one model, so they stand in one order
        columns = zip(*(item.columns.values() for item in batch), strict=True)
        merged = dict(zip(batch[0].columns, map(list, map(chain.from_iterable, columns)), strict=True))
        together = self._predict(merged, sum(item.rows for item in batch), batch[0].context)
        if isinstance(together, OverloadError):  # nothing is known of the rows
            return [(item.future, together) for item in batch]
        if isinstance(together, ModelError):  # one bad row must not fail the others' requests
            return [(item.future, self._predict(item.columns, item.rows, item.context)) for item in batch]
        results: list[_Result] = []
        start = 0
        for item in batch:
            end = start + item.rows
            part = Outputs(
                score=together.score[start:end],
                scores=None if together.scores is None else together.scores[start:end],
                label=None if together.label is None else together.label[start:end],
            )
            results.append((item.future, part))
            start = end
        return results

    def _predict(self, columns: Columns, rows: int, context: Context | None) -> Outputs | ModelError | OverloadError:
        ask = self.predictor.predict
        try:
            outputs = ask(columns) if context is None else context.run(ask, columns)
        except (ModelError, OverloadError) as error:
            return error
        except Exception as error:  # noqa: BLE001  whatever a model or a wrapper raises is the model's failure
            return PredictionError(f"the model raised while predicting: {type(error).__name__}: {error}.")
        if len(outputs.score) != rows:
            return PredictionError(f"the model answered {len(outputs.score)} rows for {rows}.")
        return outputs


def _deliver(results: list[_Result]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, (ModelError, OverloadError)):
            future.set_exception(result)
        else:
            future.set_result(result)


def _expire(future: asyncio.Future[Outputs]) -> None:
    if not future.done():
        future.set_exception(DeadlineError("the time allowed for the answer has passed; the work was dropped."))
