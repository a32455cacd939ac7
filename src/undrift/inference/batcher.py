"""Micro-batches: requests that wait while the model is busy are predicted together.

An idle model starts at once, so nothing is delayed to form a batch. The queue is bounded, and work whose caller has
stopped waiting is dropped before it reaches the model. One batcher runs one model in one thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from undrift.errors import DeadlineError, ModelError, OverloadError, PredictionError
from undrift.inference.predictor import Outputs, Predictor

__all__ = ["Batcher"]

Columns = Mapping[str, Sequence[Any]]


class _Waiting(NamedTuple):
    columns: Columns
    rows: int
    deadline: float
    future: asyncio.Future[Outputs]


class Batcher:
    """Feeds one predictor from one event loop.

    Parameters
    ----------
    predictor : what runs the model; called from one thread.
    max_batch : rows that waiting requests are gathered to. One request of more rows is not split.
    max_queue : rows that may wait. A request that finds the queue empty may always wait.
    """

    def __init__(self, predictor: Predictor, *, max_batch: int = 64, max_queue: int = 1024) -> None:
        self.predictor = predictor
        self._max_batch, self._max_queue = max_batch, max_queue
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._rows

    async def predict(self, columns: Columns, rows: int, deadline: float) -> Outputs:
        """Predict rows given as columns.

        Parameters
        ----------
        rows : how many there are; every column has that many values.
        deadline : the ``time.monotonic()`` after which nobody waits for the answer.

        Raises
        ------
        OverloadError : the queue is full.
        DeadlineError : the deadline passed before the answer was there.
        PredictionError : the model failed on these rows.
        """
        future: asyncio.Future[Outputs] = self._loop.create_future()
        with self._changed:
            if self._closed:
                raise OverloadError("the revision was just replaced.", retry_after=0.1)
            if self._queue and self._rows + rows > self._max_queue:
                raise OverloadError(f"{self._rows} rows wait for the model; at most {self._max_queue} may.")
            self._queue.append(_Waiting(columns, rows, deadline, future))
            self._rows += rows
            self._changed.notify()
        timer = self._loop.call_at(self._loop.time() + deadline - time.monotonic(), _expire, future)
        try:
            return await future
        finally:
            timer.cancel()

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

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
                    self._changed.wait()
                batch, rows, now = list[_Waiting](), 0, time.monotonic()
                while self._queue and (not batch or rows + self._queue[0].rows <= self._max_batch):
                    item = self._queue.popleft()
                    self._rows -= item.rows
                    if item.deadline > now and not item.future.cancelled():
                        batch.append(item)
                        rows += item.rows
            if batch:
                return batch

    def _answer(self, batch: list[_Waiting]) -> list[tuple[asyncio.Future[Outputs], Outputs | ModelError]]:
        if len(batch) == 1:
            return [(batch[0].future, self._predict(batch[0].columns, batch[0].rows))]
        names = batch[0].columns
        merged = {name: [value for item in batch for value in item.columns[name]] for name in names}
        together = self._predict(merged, sum(item.rows for item in batch))
        if isinstance(together, ModelError):  # one bad row must not fail the others' requests
            return [(item.future, self._predict(item.columns, item.rows)) for item in batch]
        results: list[tuple[asyncio.Future[Outputs], Outputs | ModelError]] = []
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

    def _predict(self, columns: Columns, rows: int) -> Outputs | ModelError:
        try:
            outputs = self.predictor.predict(columns)
        except ModelError as error:
            return error
        except Exception as error:  # noqa: BLE001  whatever a model or a wrapper raises is the model's failure
            return PredictionError(f"the model raised while predicting: {type(error).__name__}: {error}.")
        if len(outputs.score) != rows:
            return PredictionError(f"the model answered {len(outputs.score)} rows for {rows}.")
        return outputs


def _deliver(results: list[tuple[asyncio.Future[Outputs], Outputs | ModelError]]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, ModelError):
            future.set_exception(result)
        else:
            future.set_result(result)


def _expire(future: asyncio.Future[Outputs]) -> None:
    if not future.done():
        future.set_exception(DeadlineError("the time allowed for the answer has passed; the work was dropped."))
