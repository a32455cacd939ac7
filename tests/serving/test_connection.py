"""Connections as clients of all kinds use and misuse them, on a real server: bytes in, bytes out."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from servers import Routed, Server, flights, write_table  # isort: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, routed: Routed) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("connections")
    write_table(folder / ".undrift/routing.json", 1, routed("r-one"))
    server = Server(folder, "max_body_bytes = 50000\ntimeout_ms = 2000\n")
    server.start()
    yield server
    assert server.try_get("/healthz") == 200, "whatever was sent, it still answers"
    assert server.stop() == 0
    assert server.noise == []
    assert [line for line in server.lines if line["event"] == "fault"] == []


def talk(server: Server, *sent: bytes, end: bool = False) -> bytes:
    """Send bytes and read until the server closes, or says no more for a while after an answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        for part in sent:
            sock.sendall(part)
        if end:
            sock.shutdown(socket.SHUT_WR)
        got = b""
        while True:
            try:
                part = sock.recv(65536)
            except TimeoutError:
                return got
            if not part:
                return got
            got += part
            sock.settimeout(1.0)


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/models/flights:predict") -> bytes:
    lines = [b"POST %s HTTP/1.1" % path, b"Host: x", b"Content-Type: application/json", *headers]
    if not any(line.lower().startswith(b"transfer-encoding") for line in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def predict(n: int = 1, start: int = 0) -> bytes:
    return json.dumps({"instances": flights(n, start)}).encode()


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def test_requests_sent_at_once_are_answered_in_their_order(live: Server) -> None:
    health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = talk(live, post(predict(), b"X-Request-Id: first") + health + post(predict(1, 5), b"X-Request-Id: third"))
    assert statuses(answer) == [200, 200, 200]
    assert answer.index(b"x-request-id: first") < answer.index(b'"live"') < answer.index(b"x-request-id: third")


def test_a_request_in_single_bytes_is_a_request(live: Server) -> None:
    whole = post(predict())
    assert statuses(talk(live, *(whole[i : i + 1] for i in range(len(whole))))) == [200]


def test_a_body_in_parts_is_put_together_and_what_stands_behind_it_is_no_header(live: Server) -> None:
    body = predict()
    parts = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\nX-Request-Timeout-Ms: 0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])
    assert statuses(talk(live, post(b"", b"Transfer-Encoding: chunked") + parts)) == [200]


def test_a_client_that_has_said_all_still_gets_its_answer(live: Server) -> None:
    assert statuses(talk(live, post(predict()), end=True)) == [200]


def test_a_client_that_asks_before_it_sends_is_told_to_go_on_or_why_not(live: Server) -> None:
    head, _, body = post(predict(), b"Expect: 100-continue").partition(b"\r\n\r\n")
    assert statuses(talk(live, head + b"\r\n\r\n", body)) == [100, 200]
    large = (
        b"POST /v1/models/flights:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\nExpect: 100-continue\r\n\r\n"
    )
    assert statuses(talk(live, large)) == [413]


def test_old_clients_get_one_answer_and_the_end_of_the_connection(live: Server) -> None:
    answer = talk(live, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert statuses(answer) == [200]
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (post(b"{}", b"Transfer-Encoding: chunked", b"Content-Length: 2"), 400),
        (b"POST /v1/models/flights:predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 200_000 + b"\r\n\r\n", 431),
        (post(b"x" * 60_000), 413),
        (post(b"", b"Transfer-Encoding: chunked") + b"ffff\r\n" + b"x" * 65535 + b"\r\n0\r\n\r\n", 413),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET http://elsewhere/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"DELETE /v1/models/flights:predict HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    ],
)
def test_what_is_no_request_or_asks_for_nothing_here_has_its_status(live: Server, sent: bytes, status: int) -> None:
    answer = talk(live, sent)
    assert statuses(answer) == [status], answer[:300]
    assert b"Traceback" not in answer


def test_a_head_that_is_asked_for_has_no_body(live: Server) -> None:
    for path, status in ((b"/healthz", 200), (b"/nowhere", 404)):
        answer = talk(live, b"HEAD %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        assert statuses(answer) == [status]
        assert answer.endswith(b"\r\n\r\n")


def test_a_client_that_dawdles_is_told_and_let_go_and_others_are_answered_meanwhile(live: Server) -> None:
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as slow:
        slow.sendall(post(predict())[:-5])
        assert live.predict(flights(1)).status_code == 200
        assert statuses(slow.recv(65536)) == [408]
        assert slow.recv(65536) == b""


def pour(into: socket.socket, part: bytes, size: int) -> None:
    """Send a part over and over; the socket's timeout is for each."""
    for _ in range(size // len(part)):
        into.sendall(part)


def test_clients_that_only_connect_or_never_read_hold_nobody_up(live: Server) -> None:
    with ExitStack() as open_ones:
        for _ in range(50):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", live.port)))
        deaf = open_ones.enter_context(socket.create_connection(("127.0.0.1", live.port)))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(1)
        unread = post(predict(20)) * 1000
        with pytest.raises((TimeoutError, ConnectionError)):  # the server stops reading when its answers are not read
            pour(deaf, unread, 128 * 2**20)  # more than the kernel keeps for both sides
        assert live.predict(flights(1)).status_code == 200


def test_a_thousand_connections_are_answered_each(live: Server, tmp_path: Path) -> None:
    with ExitStack() as open_ones:
        socks = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=30)) for _ in range(1000)
        ]
        for number, sock in enumerate(socks):
            sock.sendall(post(predict(1, number)))
        answers = [sock.recv(65536) for sock in socks]
    assert {statuses(answer)[0] for answer in answers} <= {200, 503}
    assert sum(statuses(answer) == [200] for answer in answers) >= 900
