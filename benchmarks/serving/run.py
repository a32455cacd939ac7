"""Requests a second and latencies of undrift and its peers, both sides in one run, wrk as the client.

    python benchmarks/serving/run.py table --model trees --rounds 2
    python benchmarks/serving/run.py tail --seconds 300

`table` starts one server after the other and asks each at 1, 16 and 64 connections, in rounds; it tells medians.
`tail` offers half the rate a server can bear, on a fixed schedule, and tells p99.9 by p50 and memory before and
after; for minutes it is a soak. Needs wrk (apt).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from contestants import BENCH, Contestant, contestants, rows_of
from schedule import offered

LINE = re.compile(r"(50|90|99)%\s+([\d.]+)(us|ms|s)\b")
UNIT = {"us": 1e-3, "ms": 1.0, "s": 1e3}
PEERS = ("fastapi", "mlflow", "bentoml", "mlserver", "litserve")


def script_of(server: Contestant, model: Path, folder: Path) -> Path:
    """A wrk script that asks the model's rows in turn."""
    rows, columns = rows_of(model)
    bodies = ",\n".join(f"[==[{json.dumps(server.body(row, columns, n))}]==]" for n, row in enumerate(rows))
    path = folder / f"{server.name}.lua"
    path.write_text(
        f"local bodies = {{\n{bodies}\n}}\nlocal asked, n = {{}}, 0\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
        "init = function() for k, v in ipairs(bodies) do "
        f"asked[k] = wrk.format('POST', '{server.path}', nil, v) end end\n"
        "request = function() n = n % #asked + 1; return asked[n] end\n"
    )
    return path


def ask(server: Contestant, script: Path, connections: int, seconds: float) -> dict[str, float]:
    """One run of wrk."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "--latency", "-s", str(script)]
    before = server.cpu()
    told = subprocess.run([*command, f"http://127.0.0.1:{server.port}"], capture_output=True, text=True, check=True)
    if "Non-2xx" in told.stdout or "Socket errors" in told.stdout:
        raise SystemExit(f"{server.name} at {connections}: {told.stdout}")
    found = {f"p{at}": float(value) * UNIT[unit] for at, value, unit in LINE.findall(told.stdout)}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told.stdout)
    answered = re.search(r"(\d+) requests in", told.stdout)
    assert rate is not None
    assert answered is not None
    return {**found, "rate": float(rate[1]), "cpu": (server.cpu() - before) / int(answered[1]) * 1e6}


def table(model: Path, names: list[str], rounds: int, seconds: float, concurrency: list[int]) -> dict[str, Any]:
    """The medians per server and number of connections."""
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    facts: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=BENCH) as scratch:
        for _ in range(rounds):
            for name in names:
                server = contestants()[name]
                server.up(model, Path(scratch) / name)
                try:
                    script = script_of(server, model, Path(scratch))
                    ask(server, script, 8, 1)
                    for connections in concurrency:
                        told = ask(server, script, connections, seconds)
                        found.setdefault(name, {}).setdefault(connections, []).append(told)
                    facts[name] = {"cold": server.cold_seconds, "memory": server.memory()}
                finally:
                    server.down()
    medians = {
        name: {c: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for c, runs in by.items()}
        for name, by in found.items()
    }
    return {"medians": medians, "facts": facts}


def show(told: dict[str, Any], concurrency: list[int]) -> str:
    """The table in Markdown, and undrift's ratios."""
    medians = told["medians"]
    head = " | ".join(f"req/s at {c} | p50 ms | p99 ms | CPU us" for c in concurrency)
    lines = [f"| server | {head} | memory MiB | first answer s |", "|---" * (4 * len(concurrency) + 3) + "|"]
    for name, by in medians.items():
        cells = " | ".join(
            f"{by[c]['rate']:,.0f} | {by[c]['p50']:.2f} | {by[c]['p99']:.2f} | {by[c]['cpu']:.0f}" for c in concurrency
        )
        lines.append(f"| {name} | {cells} | {told['facts'][name]['memory']:.0f} | {told['facts'][name]['cold']:.2f} |")
    ours = medians.get("undrift")
    peers = {name: by for name, by in medians.items() if name in PEERS}
    for c in concurrency if ours else ():
        if peers:
            rate = max(by[c]["rate"] for by in peers.values())
            p50, p99 = (min(by[c][p] for by in peers.values()) for p in ("p50", "p99"))
            lines.append(
                f"\nat {c}: {ours[c]['rate'] / rate:.1f} times the best peer's requests a second; p50 "
                f"{ours[c]['p50'] / p50:.3f} and p99 {ours[c]['p99'] / p99:.3f} of the best peer's"
            )
        if "hand" in medians:
            lines.append(f"\nat {c}: {ours[c]['rate'] / medians['hand'][c]['rate']:.2f} of the hand-made server's")
    return "\n".join(lines)


def tail(model: Path, name: str, seconds: float, load: float = 0.5) -> str:
    """p99.9 by p50 at half of what it bears at 16 connections."""
    server = contestants()[name]
    with tempfile.TemporaryDirectory(dir=BENCH) as scratch:
        server.up(model, Path(scratch) / name)
        try:
            script = script_of(server, model, Path(scratch))
            ask(server, script, 16, 2)
            bears = ask(server, script, 16, 3)["rate"]
            rows, columns = rows_of(model)
            bodies = [json.dumps(server.body(row, columns, n)).encode() for n, row in enumerate(rows)]
            began = server.memory()
            sent = offered(server.port, server.path, bodies, rate=bears * load, seconds=seconds, connections=16)
            times = sorted(sent)
            at = {p: times[min(len(times) - 1, int(len(times) * p / 100))] * 1e3 for p in (50, 99, 99.9)}
            return (
                f"{name}, {model.name}: {len(times) / seconds:,.0f} requests a second offered of {bears:,.0f}: p50 "
                f"{at[50]:.2f} ms, p99 {at[99]:.2f} ms, p99.9 {at[99.9]:.2f} ms ({at[99.9] / at[50]:.1f} times p50); "
                f"memory {began:.1f} MiB before, {server.memory():.1f} after"
            )
        finally:
            server.down()


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["table", "tail"])
    parser.add_argument("--model", default="trees", choices=["trees", "native", "logistic", "lightgbm"])
    parser.add_argument("--servers", default=",".join(["undrift", "hand", *PEERS]))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", default="1,16,64")
    options = parser.parse_args()
    models = BENCH / "models"
    subprocess.run([sys.executable, Path(__file__).with_name("models.py"), models], check=True)
    model, names = models / options.model, options.servers.split(",")
    concurrency = [int(c) for c in options.connections.split(",")]
    print(f"# {options.what} {options.model}: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}")  # fmt: skip
    if options.what == "table":
        print(show(table(model, names, options.rounds, options.seconds, concurrency), concurrency))
    else:
        for name in names:
            print(tail(model, name, options.seconds))


if __name__ == "__main__":
    main()
