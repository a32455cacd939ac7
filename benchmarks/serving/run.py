"""Requests a second and latencies of undrift and its peers, both sides in one run, wrk as the client.

    python benchmarks/serving/run.py table --model trees --seconds 5
    python benchmarks/serving/run.py workers
    python benchmarks/serving/run.py tail --seconds 300
    python benchmarks/serving/run.py show

`table` starts one server after the other and asks each at 1, 16 and 64 connections. `workers` asks one and two workers
with requests of 64 rows, so that the client takes little of the cores. `tail` offers half the rate a server can bear,
on a fixed schedule, and tells p99.9 by p50 and memory before, on the way and after; for minutes it is a soak. What was
measured is appended to a file (`--into`), cell by cell; `show` tells the medians and ratios of all that is in it, so a
run may be divided into calls and repeated. Needs wrk (apt).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
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
PARTS = 6
"""Parts of a soak, after each of which memory is read."""
PEERS = ("fastapi", "mlflow", "bentoml", "mlserver", "litserve")


def bodies_of(server: Contestant, model: Path, each: int = 1) -> list[str]:
    """Bodies of so many rows each, the model's rows in turn."""
    rows, columns = rows_of(model)
    singles = [server.body(row, columns, n) for n, row in enumerate(rows)]
    if each == 1:
        return [json.dumps(body) for body in singles]
    return [
        json.dumps({"instances": [singles[(start + n) % len(rows)]["instances"][0] for n in range(each)]})
        for start in range(len(rows))
    ]


def script_of(server: Contestant, model: Path, folder: Path, each: int = 1) -> Path:
    """A wrk script that asks the model's rows in turn."""
    bodies = ",\n".join(f"[==[{body}]==]" for body in bodies_of(server, model, each))
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


def measure(model: Path, names: list[str], seconds: float, concurrency: list[int], into: Path, each: int = 1) -> None:
    """Ask each server at each number of connections, and append what was seen."""
    what = {"model": model.name, "rows": each, "at": time.strftime("%Y-%m-%dT%H:%M:%S"), "cores": os.cpu_count(),
            "load": os.getloadavg()[0], "seconds": seconds}  # fmt: skip
    with tempfile.TemporaryDirectory(dir=BENCH) as scratch:
        for name in names:
            server = contestants()[name]
            server.up(model, Path(scratch) / name)
            try:
                script = script_of(server, model, Path(scratch), each)
                ask(server, script, 8, 1)
                for connections in concurrency:
                    told = ask(server, script, connections, seconds)
                    cell = {**what, "server": name, "connections": connections, **told, "cold": server.cold_seconds,
                            "memory": server.memory()}  # fmt: skip
                    with into.open("a") as file:
                        file.write(json.dumps(cell) + "\n")
                    print(f"{name} at {connections}: {told['rate']:,.0f} requests a second", file=sys.stderr)
            finally:
                server.down()


def medians(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians per server and number of connections, and each server's memory and first answer."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for cell in cells:
        found.setdefault(cell["server"], {}).setdefault(cell["connections"], []).append(cell)
    figures = ("rate", "p50", "p99", "cpu")
    told = {n: {c: {k: statistics.median(r[k] for r in runs) for k in figures} for c, runs in by.items()}
            for n, by in found.items()}  # fmt: skip
    facts = {n: {k: statistics.median(r[k] for runs in by.values() for r in runs) for k in ("cold", "memory")}
             for n, by in found.items()}  # fmt: skip
    return {"medians": told, "facts": facts}


def show_all(file: Path) -> None:
    """Every table of a file of cells."""
    cells = [json.loads(line) for line in file.read_text().splitlines()]
    for model, rows in dict.fromkeys((cell["model"], cell["rows"]) for cell in cells):
        some = [cell for cell in cells if (cell["model"], cell["rows"]) == (model, rows)]
        loads = [cell["load"] for cell in some]
        print(f"\n## {model}, {rows} row{'s' * (rows > 1)} a request\n\n{some[0]['at']} to {some[-1]['at']}, "
              f"load before {min(loads):.1f} to {max(loads):.1f}\n")  # fmt: skip
        print(show(medians(some), sorted({cell["connections"] for cell in some})))


def show(told: dict[str, Any], concurrency: list[int]) -> str:
    """The table in Markdown, and undrift's ratios."""
    found = told["medians"]
    head = " | ".join(f"req/s at {c} | p50 ms | p99 ms | CPU us" for c in concurrency)
    lines = [f"| server | {head} | memory MiB | first answer s |", "|---" * (4 * len(concurrency) + 3) + "|"]
    for name, by in found.items():
        cells = " | ".join(
            f"{by[c]['rate']:,.0f} | {by[c]['p50']:.2f} | {by[c]['p99']:.2f} | {by[c]['cpu']:.0f}" if c in by
            else " | | | " for c in concurrency
        )  # fmt: skip
        lines.append(f"| {name} | {cells} | {told['facts'][name]['memory']:.0f} | {told['facts'][name]['cold']:.2f} |")
    ours = found.get("undrift", {})
    for c in [c for c in concurrency if c in ours]:
        peers = {name: by for name, by in found.items() if name in PEERS and c in by}
        if peers:
            rate = max(by[c]["rate"] for by in peers.values())
            p50, p99 = (min(by[c][p] for by in peers.values()) for p in ("p50", "p99"))
            lines.append(
                f"\nat {c}: {ours[c]['rate'] / rate:.1f} times the best peer's requests a second; p50 "
                f"{ours[c]['p50'] / p50:.3f} and p99 {ours[c]['p99'] / p99:.3f} of the best peer's"
            )
        if c in found.get("hand", {}):
            lines.append(f"\nat {c}: {ours[c]['rate'] / found['hand'][c]['rate']:.2f} of the hand-made server's")
        if c in found.get("undrift-2", {}):
            lines.append(f"\nat {c}: two workers {found['undrift-2'][c]['rate'] / ours[c]['rate']:.2f} times one")
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
            bodies = [body.encode() for body in bodies_of(server, model)]
            began, memory, times = server.memory(), [], []
            for _ in range(PARTS):  # memory in between shows whether it grows for ever
                more = offered(
                    server.port, server.path, bodies, rate=bears * load, seconds=seconds / PARTS, connections=16
                )
                times += more
                memory.append(server.memory())
            times.sort()
            at = {p: times[min(len(times) - 1, int(len(times) * p / 100))] * 1e3 for p in (50, 99, 99.9)}
            return (
                f"{name}, {model.name}: {len(times) / seconds:,.0f} requests a second offered of {bears:,.0f}: p50 "
                f"{at[50]:.2f} ms, p99 {at[99]:.2f} ms, p99.9 {at[99.9]:.2f} ms ({at[99.9] / at[50]:.1f} times p50); "
                f"memory {began:.1f} MiB before, then {', '.join(f'{each:.1f}' for each in memory)}"
            )
        finally:
            server.down()


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["table", "workers", "tail", "show"])
    parser.add_argument("--model", default="trees", choices=["trees", "native", "logistic", "lightgbm"])
    parser.add_argument("--servers", default="")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--into", type=Path, default=BENCH / "serving.jsonl")
    options = parser.parse_args()
    if options.what == "show":
        show_all(options.into)
        return
    if shutil.which("wrk") is None:
        raise SystemExit("wrk, the client, is not installed: apt-get install wrk (or brew install wrk).")
    models = BENCH / "models"
    subprocess.run([sys.executable, Path(__file__).with_name("models.py"), models], check=True)
    model, names = models / options.model, [name for name in options.servers.split(",") if name]
    concurrency = [int(c) for c in options.connections.split(",")]
    print(f"# {options.what} {options.model}: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}")  # fmt: skip
    if options.what == "tail":
        for name in names or ["undrift"]:
            print(tail(model, name, options.seconds or 60.0))
        return
    if options.what == "workers":
        measure(model, ["undrift", "undrift-2", "undrift", "undrift-2"], options.seconds or 8.0, [16], options.into, 64)
    else:
        measure(model, names or ["undrift", "hand", *PEERS], options.seconds or 3.0, concurrency, options.into)
    show_all(options.into)


if __name__ == "__main__":
    main()
