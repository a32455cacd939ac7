"""An answer is begun in the turn of the loop in which its request came; what has to wait goes on in a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from undrift.serving.connection import TASKS, Clock, Connection, Head, Reply, Request

ASKED = b"POST /%d HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\n{}"
WHO: ContextVar[bytes] = ContextVar("who", default=b"")


class Office:
    """Answers the target, after ``wait`` if there is one; fails what it waits for with it."""

    draining = False

    def __init__(self, wait: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.wait, self.cancelled, self.in_task = wait, 0, list[bool]()

    def refuse(self, head: Head) -> Reply | None:
        return None

    def refuse_broken(self, status: int, message: str) -> Reply:
        return Reply(status, message.encode(), close=True)

    def may_abandon(self, request: Request) -> bool:
        return True

    def is_direct(self, request: Request) -> bool:
        return True

    async def answer(self, request: Request) -> Reply:
        WHO.set(request.target)
        self.in_task.append(asyncio.current_task() is not None)
        try:
            if self.wait is not None:
                await self.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except OSError as error:
            return Reply(503, str(error).encode())
        return Reply(200, WHO.get())


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reading = True

    def get_extra_info(self, name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written.append(data)

    @property
    def bodies(self) -> list[bytes]:
        return [each.partition(b"\r\n\r\n")[2] for each in self.written]


def played(office: Office, scenario: Callable[[Connection, Transport, Clock], Awaitable[None]]) -> None:
    """Play a scenario from within a callback's surroundings: no task is the current one while bytes come in."""

    async def main() -> None:
        clock, transport = Clock(), Transport()
        connection = Connection(office, set(), clock, 1000)
        connection.connection_made(transport)  # type: ignore[arg-type]
        await scenario(connection, transport, clock)

    asyncio.run(main())


async def fed(connection: Connection, data: bytes) -> None:
    """Bytes come, in a callback of the loop."""
    asyncio.get_running_loop().call_soon(connection.data_received, data)
    await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("did not come true")


def test_an_answer_that_waits_for_nothing_needs_no_task_and_no_turn_more() -> None:
    async def scenario(connection: Connection, transport: Transport, clock: Clock) -> None:
        await fed(connection, ASKED % 1)
        assert transport.bodies == [b"/1"]
        assert office.in_task == [False]
        assert WHO.get() == b""  # it ran in a context of its own

    office = Office()
    played(office, scenario)


def test_of_requests_that_came_in_one_piece_one_is_answered_in_this_turn_and_all_in_order() -> None:
    async def scenario(connection: Connection, transport: Transport, clock: Clock) -> None:
        await fed(connection, b"".join(ASKED % n for n in range(5)))
        assert transport.bodies == [b"/0"]
        await until(lambda: len(transport.written) == 5)
        assert transport.bodies == [b"/0", b"/1", b"/2", b"/3", b"/4"]
        assert not connection.busy
        assert transport.reading

    played(Office(), scenario)


def test_an_answer_that_has_to_wait_goes_on_in_a_task_and_the_next_begin_in_tasks() -> None:
    async def wait() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    async def scenario(connection: Connection, transport: Transport, clock: Clock) -> None:
        await fed(connection, ASKED % 1)
        assert transport.written == []
        assert connection.busy
        while not transport.written:
            await asyncio.sleep(0.001)
        assert transport.bodies == [b"/1"]  # in the context it began in
        assert clock.tasks == TASKS
        office.wait = None
        for n in range(TASKS):
            await fed(connection, ASKED % n)
            await until(lambda wanted=n + 2: len(transport.written) == wanted)  # type: ignore[misc]
        await fed(connection, ASKED % 99)
        assert transport.bodies[-1] == b"/99"
        assert office.in_task == [False, *[True] * TASKS, False]

    office = Office(wait)
    played(office, scenario)


def test_what_fails_and_who_hangs_up_while_it_waits_is_seen_by_the_answer() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("the disk is full")

    async def scenario(connection: Connection, transport: Transport, clock: Clock) -> None:
        await fed(connection, ASKED % 1)
        await until(lambda: transport.bodies == [b"the disk is full"])
        assert transport.written[0].startswith(b"HTTP/1.1 503")
        clock.tasks = 0
        office.wait = asyncio.Event().wait
        await fed(connection, ASKED % 2)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        await until(lambda: office.cancelled == 1)
        assert len(transport.written) == 1

    office = Office(fail)
    played(office, scenario)
