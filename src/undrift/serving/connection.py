"""One HTTP/1.1 connection: requests parsed by httptools, bounded in size and time, answered one after another.

What a request means stands in gateway.py; accepting, sweeping and draining connections in listener.py. A connection
never holds more than one unanswered request and what one read of the socket brought behind it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context, copy_context
from http import HTTPStatus
from typing import Any, Final, Protocol

import httptools
import msgspec
from msgspec.structs import replace

__all__ = ["Clock", "Connection", "Head", "Office", "Reply", "Request"]

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line and headers."""
DISCARD_SECONDS: Final = 2.0
"""How long a connection that is refused is still read from, so that its answer is not lost by a reset."""
JSON: Final = b"application/json"
TASKS: Final = 32
"""Answers that are begun in tasks after one had to wait: then several requests come at once, and are batched."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Head(msgspec.Struct, frozen=True):
    """A request before its body: ``target`` as it was sent, header names in lower case."""

    method: str
    target: bytes
    headers: dict[bytes, bytes]


class Request(msgspec.Struct, frozen=True):
    """A whole request."""

    method: str
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Reply(msgspec.Struct, frozen=True):
    """An answer.

    ``headers`` are those beside type and length; ``close`` ends the connection after it. ``epoch`` is that of the
    routing table it follows, where that is not the present one.
    """

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    type: bytes = JSON
    close: bool = False
    epoch: int | None = None


class Office(Protocol):
    """Who answers: the gateway, as a connection sees it."""

    draining: bool

    def refuse(self, head: Head) -> Reply | None:
        """What is wrong with a request before its body is read, or None."""
        ...

    def refuse_broken(self, status: int, message: str) -> Reply:
        """The answer to bytes that are no request, or no whole one."""
        ...

    async def answer(self, request: Request) -> Reply:
        """The answer; raises nothing."""
        ...

    def is_direct(self, request: Request) -> bool:
        """Whether `answer` may begin outside of a task: it asks for the current one not before it first waits."""
        ...

    def may_abandon(self, request: Request) -> bool:
        """Whether the work may be dropped once the caller has hung up."""
        ...


class Clock:
    """What all connections share: the loop's time as of the last sweep, the Date header that goes with it, and how many
    answers are still begun in tasks, because the last that was begun without had to wait."""

    now: float = 0.0
    date: bytes = b""
    tasks: int = 0


class Connection(asyncio.Protocol):
    """One connection of a client.

    Parameters
    ----------
    office : who answers.
    others : the set of open connections; this one is in it from its beginning to its end.
    clock : the time as of the last sweep.
    max_body : bytes a body may have.
    """

    def __init__(self, office: Office, others: set[Connection], clock: Clock, max_body: int) -> None:
        self._office, self._others, self._clock, self._max_body = office, others, clock, max_body
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._headers: dict[bytes, bytes] = {}
        self._target = b""
        self._parts: list[bytes] = []
        self._size = self._head_size = 0
        self._in_head = self._in_body = False
        self._refusal: Reply | None = None
        self._pending: deque[tuple[Request | Reply, bool, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None
        self._discarding = self._ended = self._stalled = False
        self.since = self._began = clock.now
        self.answered = 0

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._others.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; work that nobody waits for any more is dropped."""
        self._others.discard(self)
        self._pending.clear()
        self._discarding = self._ended = True
        if self._task is not None and self._request is not None and self._office.may_abandon(self._request):
            self._task.cancel()

    def eof_received(self) -> bool:
        """The client sends no more; what it has asked is still answered."""
        self._ended = True
        return self._task is not None or bool(self._pending)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._discarding:
            return
        self.since = self._clock.now
        if self._in_head or not self._in_body:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # no other protocol is spoken: answered in this one, the last time
            self._discarding = True
            if self._pending:
                asked, _, head_only = self._pending.pop()
                self._pending.append((asked, False, head_only))
        except httptools.HttpParserError:
            if not self._discarding:
                self._break(400, "this is no HTTP request.")
        else:
            if self._in_head and self._head_size > MAX_HEAD:
                self._break(431, f"the head of the request is larger than {MAX_HEAD} bytes.")
        if self._pending and self._task is None:
            self._next()

    def pause_writing(self) -> None:
        """The client does not read: nothing more is answered until it does."""
        self._stalled = True

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stalled = False
        self.since = self._clock.now
        if self._pending and self._task is None:
            self._next()

    # what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._headers, self._target, self._parts = {}, b"", []
        self._size, self._refusal = 0, None
        self._in_head, self._began = True, self._clock.now

    def on_url(self, url: bytes) -> None:
        """The target, or a part of it."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; of two of one name, the values are joined. What stands behind a body in parts is left out."""
        if self._in_body:
            return
        name = name.lower()
        known = self._headers.get(name)
        self._headers[name] = value if known is None else known + b", " + value

    def on_headers_complete(self) -> None:
        """The body may come, if the office wants it."""
        self._in_head, self._in_body, self._head_size = False, True, 0
        headers = self._headers
        head = Head(self._parser.get_method().decode("ascii"), self._target, headers)
        refusal = self._office.refuse(head)
        length = headers.get(b"content-length", b"0")
        if refusal is None and length.isdigit() and int(length) > self._max_body:
            refusal = self._too_large()
        if refusal is not None and (length != b"0" or b"transfer-encoding" in headers):
            refusal = replace(refusal, close=True)
        if refusal is not None and refusal.close:
            self._refuse(refusal)
        elif b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and refusal is None:
            self._transport.write(_CONTINUE)
        self._refusal = refusal

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._discarding:
            return
        self._size += len(body)
        if self._size > self._max_body:
            self._refuse(self._too_large())
            return
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """A whole request is there."""
        self._in_body = False
        if self._discarding:
            return
        keep = self._parser.should_keep_alive() and self._parser.get_http_version() != "1.0"
        method, parts = self._parser.get_method().decode("ascii"), self._parts
        asked: Request | Reply | None = self._refusal
        if asked is None:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            asked = Request(method, self._target, self._headers, body)
        self._pending.append((asked, keep, method == "HEAD"))

    # answering

    def _too_large(self) -> Reply:
        return self._office.refuse_broken(
            413, f"the body is larger than {self._max_body} bytes (serve.max_body_bytes)."
        )

    def _refuse(self, reply: Reply) -> None:
        """Answer after what is pending, and read no more requests: the rest of the body is thrown away."""
        self._discarding = True
        self._pending.append((reply, False, False))

    def _break(self, status: int, message: str) -> None:
        self._in_head = self._in_body = False
        self._refuse(self._office.refuse_broken(status, message))

    def _next(self) -> None:
        """Answer what is pending, until something takes time or the client does not read."""
        direct = True
        while self._pending and not self._stalled:
            asked, keep, head_only = self._pending.popleft()
            if isinstance(asked, Reply):
                self._write(asked, keep, head_only)
            elif not direct or self._clock.tasks or not self._office.is_direct(asked):
                self._clock.tasks = max(0, self._clock.tasks - 1)
                self._go_on(asked, keep)
                return
            else:
                direct = False  # one: what has come by other connections does not wait for all that came by this one
                if not self._answered_at_once(asked, keep):
                    self._clock.tasks = TASKS
                    return
        if not self._pending and not self._transport.is_reading() and not self._transport.is_closing():
            self._transport.resume_reading()

    def _answered_at_once(self, request: Request, keep: bool) -> bool:
        """Begin to answer in this turn of the loop; where nothing has to be waited for, that is all.

        A task of its own would cost two turns of the loop, each of which looks for what else there is to do.
        """
        context = copy_context()
        answering: Coroutine[Any, Any, Reply] = self._office.answer(request)
        try:
            waited = context.run(answering.send, None)
        except StopIteration as done:
            self._write(done.value, keep, request.method == "HEAD")
            return True
        self._go_on(request, keep, _Begun(answering, waited), context)
        return False

    def _go_on(
        self, request: Request, keep: bool, begun: Awaitable[Reply] | None = None, context: Context | None = None
    ) -> None:
        """Answer in a task."""
        self._request = request
        self._task = self._loop.create_task(self._answer(request, keep, begun), context=context)
        if self._pending:
            self._transport.pause_reading()

    async def _answer(self, request: Request, keep: bool, begun: Awaitable[Reply] | None) -> None:
        reply = await (self._office.answer(request) if begun is None else begun)
        self._task = self._request = None
        self._write(reply, keep, request.method == "HEAD")
        self._next()

    def _write(self, reply: Reply, keep: bool, head_only: bool) -> None:
        if self._transport.is_closing():
            return
        close = reply.close or not keep or self._office.draining or (self._ended and not self._pending)
        lines = [
            _LINES[reply.status],
            b"content-type: ", reply.type,
            b"\r\ncontent-length: ", b"%d" % len(reply.body),
            b"\r\ndate: ", self._clock.date,
        ]  # fmt: skip
        for name, value in reply.headers:
            lines += (b"\r\n", name, b": ", value)
        lines.append(b"\r\nconnection: close\r\n\r\n" if close else b"\r\n\r\n")
        if not head_only:
            lines.append(reply.body)
        self._transport.write(b"".join(lines))
        self.answered += 1
        self.since = self._clock.now
        if close:
            self._pending.clear()
            if (self._discarding or self._in_body) and not self._ended:
                self._discarding = True
                self._transport.write_eof()  # a client that still sends must see the answer, not a reset
                self._loop.call_later(DISCARD_SECONDS, self._transport.close)
            else:
                self._transport.close()

    # what the listener asks for

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or the answer is not all sent."""
        return self._task is not None or bool(self._pending) or self._stalled

    @property
    def reading(self) -> bool:
        """Whether a request has begun to come and is not all there."""
        return self._in_head or self._in_body

    def sweep(self, *, idle: float, slow: float) -> None:
        """Close the connection if it has done nothing for too long.

        Parameters
        ----------
        idle : seconds without a request.
        slow : seconds that a request may take to arrive, and in which some of an answer must have been read.
        """
        quiet = self._clock.now - self.since
        if self._stalled:
            if quiet > slow:
                self._transport.abort()
        elif self._task is not None or self._pending:
            return
        elif self.reading and not self._discarding:
            if self._clock.now - self._began > slow:
                self._break(408, "the request did not arrive in time.")
                self._next()
        elif quiet > idle and not self._discarding:
            self._transport.close()

    def close(self) -> None:
        """End it now, whatever it does."""
        self._transport.abort()


class _Begun:
    """What is left of a coroutine that has begun, and now waits for something: to be awaited in a task."""

    def __init__(self, coroutine: Coroutine[Any, Any, Reply], waited: Any) -> None:
        self._coroutine, self._waited = coroutine, waited

    def __await__(self) -> Generator[Any, Any, Reply]:
        """Go on as `await` would have, from the first thing waited for."""
        waited = self._waited
        while True:
            try:
                try:
                    told = yield waited
                except GeneratorExit:
                    self._coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001  a cancellation is the coroutine's to see
                    waited = self._coroutine.throw(error)
                else:
                    waited = self._coroutine.send(told)
            except StopIteration as done:
                reply: Reply = done.value
                return reply
