"""The connections of one worker: accepting them, ending those that do nothing, and draining.

A drain must cut nobody off. Whoever began to connect is accepted and answered: the kernel is told to take no new
connections on the shared socket (`refuse_new`), what it has queued is accepted, and only then is the socket closed.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import time
from email.utils import formatdate
from typing import Final

from undrift.serving.connection import Clock, Connection, Office

__all__ = ["Listener", "refuse_new"]

SWEEP_SECONDS: Final = 0.1
KEEP_ALIVE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 0.3
"""How long a drain goes on accepting, and keeps a connection that asks nothing."""
UNASKED_SECONDS: Final = 1.0
"""How long a drain keeps a connection on which nothing was asked yet: whoever connected is about to ask."""

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
        self._tick()

    async def start(self) -> None:
        """Accept from now on."""
        loop = asyncio.get_running_loop()
        make = lambda: Connection(self._office, self.connections, self._clock, self._max_body)  # noqa: E731
        self._server = await loop.create_server(make, sock=self._listening, backlog=2048)
        self._sweeping = loop.create_task(self._sweep())

    async def drain(self, patience: float) -> None:
        """Accept what is queued, answer what is asked, close what asks nothing; at most ``patience`` seconds."""
        self._office.draining = True
        began = time.monotonic()
        while time.monotonic() - began < patience:
            gone = time.monotonic() - began
            if gone > LINGER_SECONDS and self._server.is_serving() and not _queued(self._listening):
                self._server.close()
            if not self._server.is_serving() and not self.connections:
                break
            for connection in [*self.connections]:
                wait = LINGER_SECONDS if connection.answered else UNASKED_SECONDS
                if gone > wait:
                    connection.sweep(idle=wait, slow=self._slow)
            await asyncio.sleep(0.02)
            self._tick()
        self._server.close()
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
