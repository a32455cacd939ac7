"""Micro-batches: nothing waits for a batch to fill, every caller gets its own rows, and every bound holds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from undrift.errors import DeadlineError, OverloadError, PredictionError
from undrift.inference.batcher import ALONE, PROBED, Batcher
from undrift.inference.predictor import Outputs
from undrift.inference.usage import Usage


class Doubling:
    """Answers twice the input; can be held up, and refuses negative inputs."""

    manifest: Any = None

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> Outputs:
        self.busy.set()
        assert self.free.wait(30)
        self.sizes.append(len(columns["x"]))
        if min(columns["x"]) < 0:
            raise ValueError("negative")
        if 13 in columns["x"]:
            return Outputs(score=[0.0], scores=None, label=None)
        return Outputs(score=[2.0 * x for x in columns["x"]], scores=None, label=[str(x) for x in columns["x"]])


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def ask(batcher: Batcher, *values: float, deadline: float | None = None) -> Awaitable[Outputs]:
    return asyncio.ensure_future(batcher.predict({"x": list(values)}, len(values), deadline or soon()))


def run(scenario: Callable[[Batcher, Doubling], Awaitable[None]], **bounds: int) -> None:
    async def main() -> None:
        model = Doubling()
        batcher = Batcher(model, **bounds)
        try:
            await scenario(batcher, model)
        finally:
            model.free.set()
            batcher.close()

    asyncio.run(main())


async def hold(batcher: Batcher, model: Doubling) -> Awaitable[Outputs]:
    """Keep the model busy with a first request."""
    model.free.clear()
    first = ask(batcher, 1)
    await asyncio.to_thread(model.busy.wait, 30)
    return first


def test_an_idle_model_starts_at_once_and_a_busy_one_gathers() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        first = await hold(batcher, model)
        others = [ask(batcher, n, n + 0.5) for n in range(2, 6)]
        await asyncio.sleep(0)
        assert batcher.waiting == 8
        model.free.set()
        assert (await first).score == [2.0]
        assert [(await other).score for other in others] == [[2.0 * n, 2.0 * n + 1] for n in range(2, 6)]
        assert (await others[0]).label == ["2", "2.5"]
        assert model.sizes == [1, 8]

    run(scenario)


def test_a_batch_is_bounded_but_one_request_is_never_split() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        first = await hold(batcher, model)
        others = [ask(batcher, 1, 1, 1), ask(batcher, 2, 2), ask(batcher, *[3.0] * 9)]
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, *others)
        assert model.sizes == [1, 3, 2, 9]

    run(scenario, max_batch=4)


def test_a_full_queue_refuses_and_a_large_request_alone_does_not() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        first = await hold(batcher, model)
        large = ask(batcher, *[1.0] * 20)
        await asyncio.sleep(0)
        with pytest.raises(OverloadError, match="20 rows wait"):
            await ask(batcher, 2)
        model.free.set()
        assert len((await large).score) == 20
        await first
        assert (await ask(batcher, 2)).score == [4.0]

    run(scenario, max_queue=10)


def test_one_bad_row_fails_its_own_request_only() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        first = await hold(batcher, model)
        good, bad, short = ask(batcher, 2), ask(batcher, 3, -1), ask(batcher, 5, 13)
        await asyncio.sleep(0)
        model.free.set()
        assert (await good).score == [4.0]
        with pytest.raises(PredictionError, match="ValueError: negative"):
            await bad
        with pytest.raises(PredictionError, match="1 rows for 2"):
            await short
        await first

    run(scenario)


def test_work_that_nobody_waits_for_is_dropped_before_the_model_sees_it() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        first = await hold(batcher, model)
        with pytest.raises(DeadlineError):
            await ask(batcher, 7, deadline=soon(0.01))
        model.free.set()
        await first
        await ask(batcher, 2)
        assert model.sizes == [1, 1]

    run(scenario)


def test_a_closed_batcher_answers_what_waits_and_takes_no_more() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        first = await hold(batcher, model)
        second = ask(batcher, 2)
        await asyncio.sleep(0)
        batcher.close()
        with pytest.raises(OverloadError):
            await ask(batcher, 3)
        model.free.set()
        assert [(await first).score, (await second).score] == [[2.0], [4.0]]

    run(scenario)


def test_a_model_that_bears_several_calls_at_once_gets_them() -> None:
    async def main() -> None:
        model = Doubling()
        model.concurrency = 3  # type: ignore[attr-defined]
        batcher = Batcher(model)
        try:
            model.free.clear()
            together = []
            for number in range(1, 6):
                model.busy.clear()
                together.append(ask(batcher, float(number)))
                if number <= 3:
                    await asyncio.to_thread(model.busy.wait, 30)  # each of the first three is at work before the next
            await asyncio.sleep(0)
            assert batcher.waiting == 2
            model.free.set()
            assert [(await one).score for one in together] == [[2.0 * number] for number in range(1, 6)]
            assert sorted(model.sizes) in ([1, 1, 1, 1, 1], [1, 1, 1, 2])
        finally:
            model.free.set()
            batcher.close()

    asyncio.run(main())


def inline(scenario: Callable[[Batcher, Doubling], Awaitable[None]], **bounds: int) -> None:
    async def main() -> None:
        model = Doubling()
        batcher = Batcher(model, inline=True, **bounds)
        try:
            await scenario(batcher, model)
        finally:
            model.free.set()
            batcher.close()

    asyncio.run(main())


async def several_at_once(batcher: Batcher, model: Doubling) -> None:
    """Have requests gathered: so many come in one turn that it is noticed."""
    await asyncio.gather(*(ask(batcher, 1.0) for _ in range(PROBED + 2)))
    model.sizes.clear()


def answered_as_it_comes(batcher: Batcher) -> bool:
    """Whether a request is answered, rightly, without another turn of the loop."""
    asked = batcher.predict({"x": [1.0]}, 1, soon())
    try:
        asked.send(None)
    except StopIteration as done:
        return bool(done.value.score == [2.0])
    asked.close()
    return False


def test_on_the_loop_requests_are_answered_as_they_come_until_several_come_at_once_and_then_in_batches() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        assert answered_as_it_comes(batcher)
        burst = PROBED + 12
        answers = await asyncio.gather(*(ask(batcher, n, n + 0.5) for n in range(20, 20 + burst)))
        assert [answer.score for answer in answers] == [[2.0 * n, 2.0 * n + 1] for n in range(20, 20 + burst)]
        assert model.sizes[0] == 1
        assert model.sizes[-1] >= 2 * 12  # once one has seen that another came with it, all that come are one batch
        assert sum(model.sizes) == 1 + 2 * burst
        answers = await asyncio.gather(*(ask(batcher, n, n + 0.5) for n in range(2, 6)))
        assert [answer.score for answer in answers] == [[2.0 * n, 2.0 * n + 1] for n in range(2, 6)]
        assert model.sizes[-1] == 8
        assert not answered_as_it_comes(batcher)
        for n in range(20, 20 + ALONE):
            assert (await ask(batcher, float(n))).score == [2.0 * n]
        assert answered_as_it_comes(batcher)
        assert batcher.inline
        assert threading.active_count() == before

    before = threading.active_count()
    inline(scenario)


def test_what_an_answer_as_it_comes_took_is_charged_and_a_failure_is_the_callers() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        usage = Usage()
        assert (await batcher.predict({"x": [4.0, 5.0]}, 2, soon(), usage)).score == [8.0, 10.0]
        assert usage.compute > 0
        assert (sum(usage.batches), usage.batch_rows) == (1, 2)
        with pytest.raises(PredictionError):
            await ask(batcher, -1.0)
        with pytest.raises(DeadlineError):
            await ask(batcher, 2.0, deadline=time.monotonic() - 1.0)
        assert model.sizes[0] == 2

    inline(scenario)


def test_on_the_loop_a_large_request_goes_in_parts_and_comes_back_whole() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        large, small = await asyncio.gather(ask(batcher, *map(float, range(20, 30))), ask(batcher, 1.0))
        assert large.score == [2.0 * n for n in range(20, 30)]
        assert large.label == [str(float(n)) for n in range(20, 30)]
        assert small.score == [2.0]
        assert max(model.sizes) <= 4
        with pytest.raises(PredictionError):
            await ask(batcher, *map(float, range(20, 29)), -1.0)
        assert batcher.waiting == 0

    inline(scenario, max_batch=4)


def test_on_the_loop_the_queue_is_bounded_and_what_nobody_waits_for_is_dropped() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        await several_at_once(batcher, model)
        late, gone = ask(batcher, 1.0, deadline=time.monotonic() - 1.0), ask(batcher, 2.0)
        kept, refused = ask(batcher, 3.0), ask(batcher, 4.0)
        await asyncio.sleep(0)  # all are in the queue, and the model has not been called
        asyncio.ensure_future(gone).cancel()
        with pytest.raises(DeadlineError):
            await late
        assert (await kept).score == [6.0]
        with pytest.raises(OverloadError):
            await refused
        assert model.sizes == [1]

    inline(scenario, max_queue=3)


def test_a_model_that_turns_out_slow_is_moved_to_a_thread_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undrift.inference.batcher.INLINE_SECONDS", -1.0)  # every call is slow

    async def scenario(batcher: Batcher, model: Doubling) -> None:
        answers = await asyncio.gather(*(ask(batcher, float(n)) for n in range(1, 40) if n != 13))
        assert sorted(answer.score[0] for answer in answers) == sorted(2.0 * n for n in range(1, 40) if n != 13)
        assert not batcher.inline
        assert sum(model.sizes) == 38
        late = ask(batcher, 1.0, deadline=soon(0.01))
        model.free.clear()
        with pytest.raises(DeadlineError):
            await late

    inline(scenario, max_batch=3)


def test_calls_are_charged_to_whom_they_served_by_rows() -> None:
    async def scenario(batcher: Batcher, model: Doubling) -> None:
        await several_at_once(batcher, model)
        one, three = Usage(), Usage()
        await asyncio.gather(
            batcher.predict({"x": [1.0]}, 1, soon(), one), batcher.predict({"x": [2.0, 3.0, 4.0]}, 3, soon(), three)
        )
        assert three.compute == pytest.approx(3 * one.compute)
        assert (sum(one.batches), one.batch_rows, sum(three.batches)) == (1, 4, 0)

    inline(scenario)
