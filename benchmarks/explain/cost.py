"""What explaining costs predictions: latency of a server that explains all the time, against the same server at rest.

    python benchmarks/explain/cost.py [--seconds S] [--rounds N]

One worker, one model (one-hot categoricals, numbers, 100 histogram trees). A client asks for predictions one after the
other and is timed; in every second round another client asks for explanations without pause: exact ones (trees) in one
series, sampled ones (all the computing that the process can get) in the other. Rounds take turns, so both sides see the
same machine. Also told: how long one explanation takes. Written to results.md beside this file.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "batch"))

from score import TRAIN, table, undrift  # noqa: E402  the same model and rows as there

EXPLAIN = """
import http.client, json, sys, time
port, seconds, method = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
rows = json.loads(sys.stdin.read())
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
until, took, number = time.perf_counter() + seconds, [], 0
while time.perf_counter() < until:
    body = json.dumps({"instances": [rows[number % len(rows)]], "method": method})
    start = time.perf_counter()
    connection.request("POST", "/v1/models/p:explain", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    took.append(time.perf_counter() - start)
    number += 1
print(json.dumps(took))
"""


def predictions(port: int, rows: list[dict[str, Any]], seconds: float) -> list[float]:
    """Seconds that each of the predictions took which one client could ask for in a row."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    bodies = [json.dumps({"instances": [row]}) for row in rows]
    took, number, until = [], 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        connection.request(
            "POST", "/v1/models/p:predict", bodies[number % len(bodies)], {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        took.append(time.perf_counter() - start)
        number += 1
    connection.close()
    return took


def explaining(port: int, rows: list[dict[str, Any]], seconds: float, method: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", EXPLAIN, str(port), str(seconds), method]
    process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(rows))
    process.stdin.close()
    process.stdin = None  # else `communicate` would use it once more
    return process


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(table(6000, 1), folder / "train.parquet")
        undrift("init", "p", "--data", "train.parquet", "--label", "late", "--key", "id", cwd=folder)
        project = folder / "p"
        (project / "train.py").write_text(TRAIN)
        undrift("train", cwd=project)
        undrift("promote", "--force", "--why", "a benchmark", cwd=project)
        rows = table(200, 3).drop_columns(["late"]).to_pylist()
        environment = {**os.environ, "UNDRIFT_SERVE__PORT": "0"}
        server = subprocess.Popen(
            [sys.executable, "-m", "undrift.app.cli", "serve"],
            cwd=project,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.stderr is not None
        port = next(json.loads(line)["port"] for line in server.stderr if '"listening"' in line)
        ready = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(600):
            ready.request("GET", "/readyz")
            answer = ready.getresponse()
            answer.read()
            if answer.status == 200:
                break
            time.sleep(0.05)
        found: dict[str, list[float]] = {"at rest": [], "exact": [], "permutation": []}
        spent: dict[str, list[float]] = {"exact": [], "permutation": []}
        try:
            first = time.perf_counter()
            explaining(port, rows, 0.0, "exact").communicate()
            warm = explaining(port, rows, 0.01, "exact")
            warm.communicate(timeout=120)
            first = time.perf_counter() - first
            predictions(port, rows, 1.0)
            for _ in range(options.rounds):
                for kind in ("exact", "permutation"):
                    found["at rest"] += predictions(port, rows, options.seconds / 2)
                    other = explaining(port, rows, options.seconds + 0.5, kind)
                    time.sleep(0.4)
                    found[kind] += predictions(port, rows, options.seconds)
                    told, _ = other.communicate(timeout=120)
                    spent[kind] += json.loads(told)
        finally:
            server.terminate()
            server.wait(timeout=30)
    rest = found["at rest"]
    lines = [
        "# What explaining costs predictions",
        "",
        f"Written by `python benchmarks/explain/cost.py --seconds {options.seconds:g} --rounds {options.rounds}` on",
        f"{os.cpu_count()} cores, Python {platform.python_version()}: one worker, a client that predicts row by row,",
        "and one that explains without pause.",
        "",
        "| the server | predictions/s | p50 ms | p99 ms | p50 by at rest | p99 by at rest | explained | p50 of one |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, took in found.items():
        p50, p99 = (float(np.quantile(took, q)) for q in (0.5, 0.99))
        base50, base99 = (float(np.quantile(rest, q)) for q in (0.5, 0.99))
        many = spent.get(kind, [])
        one = f"{1e3 * float(np.median(many)):.1f}" if many else "-"
        name = kind if kind == "at rest" else f"explains ({kind})"
        lines.append(
            f"| {name} | {1 / float(np.mean(took)):,.0f} | {1e3 * p50:.2f} | {1e3 * p99:.2f} | {p50 / base50:.2f} "
            f"| {p99 / base99:.2f} | {len(many)} | {one} |"
        )
    lines += ["", f"The first explanation, which starts the process and loads what it needs, took {first:.1f} s."]
    (HERE / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
