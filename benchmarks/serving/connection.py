"""Our own connections against uvicorn: the same answer to the same requests, no model, no checks, no capture.

    python benchmarks/serving/connection.py [--seconds S] [--rounds N]

Both run in this interpreter's environment on uvloop with httptools, in a process of their own, and take turns; wrk is
the client. Told: requests a second at 1, 16 and 64 connections, and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from undrift.serving.connection import Head, Reply, Request
from undrift.serving.listener import Listener

ANSWER = b'{"predictions":[{"label":"1","score":0.8731}],"request_id":"01KAR3J5Z8Q5"}'
MORE = ((b"x-request-id", b"01KAR3J5Z8Q5"), (b"x-undrift-epoch", b"7"))
BODY = '{"instances": [{' + ", ".join(f'"x{n}": {n}.25' for n in range(16)) + "}]}"


class Fixed:
    """An office that always answers the same."""

    draining = False

    def refuse(self, head: Head) -> Reply | None:
        return None

    def refuse_broken(self, status: int, message: str) -> Reply:
        return Reply(status, message.encode(), close=True)

    def may_abandon(self, request: Request) -> bool:
        return False

    def is_direct(self, request: Request) -> bool:
        return True

    async def answer(self, request: Request) -> Reply:
        return Reply(200, ANSWER, MORE)


async def own(listening: socket.socket) -> None:
    listener = Listener(Fixed(), listening, max_body=1 << 20, slow_seconds=10.0)
    await listener.start()
    await asyncio.Event().wait()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The same as a raw ASGI application."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER)), *MORE]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def serve(kind: str, file: int) -> None:
    """Be one of the two servers, on an inherited socket."""
    listening = socket.socket(fileno=file)
    if kind == "own":
        uvloop.run(own(listening))
        return
    import uvicorn

    config = uvicorn.Config(application, loop="uvloop", http="httptools", access_log=False, lifespan="off",
                            log_level="warning")  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


def rate(kind: str, connections: int, seconds: float, script: str) -> float:
    """Requests a second of one server in one run."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(512)
    command = [sys.executable, __file__, "--serve", kind, "--file", str(listening.fileno())]
    process = subprocess.Popen(command, pass_fds=[listening.fileno()])
    try:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        time.sleep(1.0)
        wrk = ["wrk", "-t1", f"-c{connections}", "-s", script]
        subprocess.run([*wrk, "-d1s", address], capture_output=True, check=True)
        told = subprocess.run([*wrk, f"-d{seconds:g}s", address], capture_output=True, text=True, check=True).stdout
        found = re.search(r"Requests/sec:\s+([\d.]+)", told)
        if found is None or "Non-2xx" in told or "Socket errors" in told:
            raise SystemExit(told)
        return float(found[1])
    finally:
        process.terminate()
        process.wait()
        listening.close()


def main() -> None:
    """Measure both, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=["own", "uvicorn"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.file)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        Path(script.name).write_text(
            f"wrk.method = 'POST'\nwrk.body = [==[{BODY}]==]\nwrk.headers['Content-Type'] = 'application/json'\n"
        )
        print("| connections | own, requests a second | uvicorn | ratio |\n|---|---|---|---|")
        for connections in (1, 16, 64):
            found: dict[str, list[float]] = {"own": [], "uvicorn": []}
            for _ in range(options.rounds):
                for kind, seen in found.items():
                    seen.append(rate(kind, connections, options.seconds, script.name))
            mine, theirs = (statistics.median(seen) for seen in found.values())
            print(f"| {connections} | {mine:,.0f} | {theirs:,.0f} | {mine / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
