"""The connections of one worker: accepting them, ending those that do nothing, and draining.

A drain must cut nobody off. Whoever began to connect is accepted and answered: the kernel is told to take no new
connections on the shared socket (`refuse_new`), what it has queued is accepted, and only then is the socket closed.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
import time
from email.utils import formatdate
from typing import Final

from undrift.serving.connection import Clock, Connection, Office

__all__ = ["BACKLOG", "Listener", "refuse_new"]

SWEEP_SECONDS: Final = 0.1
KEEP_ALIVE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 0.3
"""How long a drain goes on accepting, and keeps a connection that asks nothing."""
UNASKED_SECONDS: Final = 1.0
"""How long a drain keeps a connection on which nothing was asked yet: whoever connected is about to ask."""

BACKLOG: Final = 2048
"""Connections that the kernel holds until somebody accepts them."""
BREATH_SECONDS: Final = 0.5
"""How long nobody is accepted after the process or the machine had no file or memory left for one more."""

_SCARCE: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_LOST: Final = frozenset(
    (errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EOPNOTSUPP,
     errno.ENETUNREACH, errno.EPERM)
)  # fmt: skip
"""What accept(2) of Linux tells of a connection that is lost already, or that a firewall forbids."""
_SO_ATTACH_FILTER: Final = 26  # Linux; the socket module does not name it
_NO_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that holds the flags
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # then the packet is dropped,
    (0x06, 0, 0, 0xFFFFFFFF),  # else it is taken
)


def refuse_new(listening: socket.socket) -> bool:
    """Let the kernel begin no connection on a listening socket any more, while those begun are completed and queued.

    A client that tries is not refused but unheard; it asks again after a second, when the socket is closed or another
    server has it. Holds for all processes that share the socket. False where the system cannot do it.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _NO_SYN))
    program = struct.pack("HL", len(_NO_SYN), ctypes.addressof(code))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True


def _queued(listening: socket.socket) -> int:
    """Connections that the kernel holds and nobody accepted yet; 0 where that cannot be known."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    try:  # of a listening socket, the field of unacknowledged segments is the length of its queue
        return int(struct.unpack_from("I", listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0])
    except (OSError, struct.error):
        return 0


class Listener:
    """Accepts connections from a socket that other processes may share.

    One at each look at the socket, so that of clients that come together none takes all before others have looked.
    (uvloop's own server accepts until the queue is empty; then one worker had all sixteen clients and the other none.)
    Who gets how many is chance: the process that looks first.

    Parameters
    ----------
    office : who answers; told to be draining by `drain`.
    listening : a bound, listening socket.
    max_body : bytes a body may have.
    slow_seconds : how long a request may take to arrive.
    """

    def __init__(self, office: Office, listening: socket.socket, *, max_body: int, slow_seconds: float) -> None:
        self.connections: set[Connection] = set()
        self._office, self._listening, self._max_body = office, listening, max_body
        self._slow = slow_seconds
        self._clock = Clock()
        self._arriving = set[asyncio.Task[None]]()
        self._closed = False
        self._tick()

    async def start(self) -> None:
        """Accept from now on."""
        self._loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        self._listening.listen(BACKLOG)
        self._accept_more()
        self._sweeping = self._loop.create_task(self._sweep())

    def _accept_more(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listening.accept()
            accepted.setblocking(False)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client has left
        except OSError as error:
            if error.errno in _LOST:
                return
            if error.errno not in _SCARCE:
                raise
            self._loop.remove_reader(self._listening)
            self._loop.call_later(BREATH_SECONDS, self._accept_more)
            return
        task = self._loop.create_task(self._connect(accepted))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: Connection(self._office, self.connections, self._clock, self._max_body), accepted
            )
        except OSError:  # it has gone already
            accepted.close()

    def _close(self) -> None:
        """Accept nobody any more."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listening)
            self._listening.close()

    async def drain(self, patience: float) -> None:
        """Accept what is queued, answer what is asked, close what asks nothing; at most ``patience`` seconds."""
        self._office.draining = True
        began = time.monotonic()
        while time.monotonic() - began < patience:
            gone = time.monotonic() - began
            if gone > LINGER_SECONDS and not self._closed and not _queued(self._listening):
                self._close()
            if self._closed and not self.connections and not self._arriving:
                break
            for connection in [*self.connections]:
                wait = LINGER_SECONDS if connection.answered else UNASKED_SECONDS
                if gone > wait:
                    connection.sweep(idle=wait, slow=self._slow)
            await asyncio.sleep(0.02)
            self._tick()
        self._close()
        self._sweeping.cancel()
        for connection in [*self.connections]:
            connection.close()
        await asyncio.sleep(0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._tick()
            if not self._office.draining:
                for connection in [*self.connections]:
                    connection.sweep(idle=KEEP_ALIVE_SECONDS, slow=self._slow)

    def _tick(self) -> None:
        self._clock.now = time.monotonic()
        self._clock.date = formatdate(usegmt=True).encode()
