"""Whether monitoring keeps up: the lag of `undrift work` while a server beside it is asked as fast as it answers.

    python benchmarks/monitoring/lag.py [--seconds 60] [--connections 16] [--rows 1] [--ahead 10] [--keep FOLDER]

A project made by `undrift init` from a table of 16 numbers, its model trained and promoted, `undrift serve` and
`undrift work` as processes of their own, wrk as the client. Once a second the server's own /metrics are read: rows
answered, bytes that wait in the spool, and the age of the oldest record that is not in the lake. Then the client stops
and what is left is taken in; at last the rows in the lake are compared with the rows answered. `--ahead` seconds of
load come before the worker is started, and tell how fast it is alone. Needs wrk (apt).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from undrift.project import open_project

ROWS = 8_000
NUMBERS = [f"x{i}" for i in range(16)]


def table() -> pa.Table:
    """Rows to learn from."""
    rng = np.random.default_rng(0)
    made = {name: rng.normal(0, 1, ROWS).round(4) for name in NUMBERS}
    value = np.sum(list(made.values()), axis=0) / 3
    return pa.table({**made, "y": np.where(value + rng.normal(0, 1, ROWS) > 0, "yes", "no")})


def made(folder: Path) -> pa.Table:
    """The project in a folder, with a champion; what it learnt from."""
    rows = table()
    if not (folder / "bench/undrift.toml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        pyarrow.csv.write_csv(rows, folder / "rows.csv")
        init = ["init", str(folder / "bench"), "--data", str(folder / "rows.csv"), "--label", "y"]
        subprocess.run([sys.executable, "-m", "undrift.app.cli", *init], check=True, stdout=subprocess.DEVNULL)
        for word in ("train", "promote"):
            command = [sys.executable, "-m", "undrift.app.cli", word]
            done = subprocess.run(command, cwd=folder / "bench", capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"undrift {word}: {done.stdout}{done.stderr}")
    return rows


def script(rows: pa.Table, folder: Path, each: int) -> Path:
    """A wrk script that asks some of the rows in turn, so many a request."""
    some = rows.drop_columns(["y"]).slice(0, 200).to_pylist()
    bodies = [json.dumps({"instances": [some[(at + n) % len(some)] for n in range(each)]}) for at in range(len(some))]
    path = folder / "ask.lua"
    listed = ",\n".join(f"[==[{body}]==]" for body in bodies)
    path.write_text(
        f"local bodies = {{\n{listed}\n}}\nlocal asked, n = {{}}, 0\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
        "init = function() for k, v in ipairs(bodies) do "
        "asked[k] = wrk.format('POST', '/v1/models/bench:predict', nil, v) end end\n"
        "request = function() n = n % #asked + 1; return asked[n] end\n"
    )
    return path


@dataclass
class Seen:
    """The server's metrics at a moment."""

    at: float
    rows: float
    waiting: float
    lag: float


class Served:
    """`undrift serve` and, from a moment on, `undrift work` of one project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        address = folder / ".undrift/serve/address.json"
        address.unlink(missing_ok=True)
        self.start("serve", "--port", "0")
        deadline = time.monotonic() + 180
        while True:
            try:
                self.url = "http://{host}:{port}".format(**json.loads(address.read_text()))
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return
            except (OSError, ValueError, KeyError):
                if time.monotonic() > deadline or self.processes[0].poll() is not None:
                    self.stop()
                    raise SystemExit(f"the server did not start; see {folder / 'serve.log'}") from None
                time.sleep(0.05)

    def start(self, word: str, *options: str) -> None:
        with (self.folder / f"{word}.log").open("wb") as log:
            command = [sys.executable, "-m", "undrift.app.cli", word, *options]
            self.processes.append(
                subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
            )

    def cpu(self, which: int) -> float:
        """CPU seconds of a process and all in its session so far."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if os.getsid(int(stat.parent.name)) == self.processes[which].pid:
                    fields = stat.read_text().rpartition(")")[2].split()
                    ticks += int(fields[11]) + int(fields[12])
            except OSError:
                continue
        return ticks / os.sysconf("SC_CLK_TCK")

    def seen(self) -> Seen:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            text = answer.read().decode()

        def value(name: str) -> list[float]:
            return [float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]

        rows = sum(value("undrift_predictions_total"))
        return Seen(time.monotonic(), rows, max(value("undrift_spool_bytes")), max(value("undrift_spool_seconds")))

    def stop(self) -> None:
        for process in reversed(self.processes):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def load(served: Served, ask: Path, connections: int, seconds: float) -> list[Seen]:
    """Ask as fast as answers come, and look once a second."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(ask), served.url]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    seen = [served.seen()]
    while client.poll() is None:
        time.sleep(1)
        seen.append(served.seen())
    told = client.communicate()[0]
    if "Non-2xx" in told or "Socket errors" in told or client.returncode:
        raise SystemExit(f"not all was answered:\n{told}")
    return seen


def drained(served: Served, limit: float = 300) -> list[Seen]:
    """Wait until nothing waits."""
    seen = [served.seen()]
    while seen[-1].waiting > 0:
        if seen[-1].at - seen[0].at > limit:
            raise SystemExit(f"{seen[-1].waiting:,.0f} bytes still wait after {limit:.0f} s")
        time.sleep(0.5)
        seen.append(served.seen())
    return seen


def measure(folder: Path, seconds: float, connections: int, each: int, ahead: float) -> None:
    rows = made(folder)
    project = folder / "bench"
    ask = script(rows, folder, each)
    where = f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}"
    print(f"{each} rows a request, {connections} connections, {where}")
    served = Served(project)
    try:
        if ahead > 0:
            before = load(served, ask, connections, ahead)
            time.sleep(1.5)  # the server looks at its spool once a second
            full = served.seen()
            served.start("work")
            after = drained(served)
            began = next((s for s in after if s.waiting < full.waiting), after[-1])
            took = after[-1].at - after[0].at
            print(
                f"alone: {full.rows - before[0].rows:,.0f} rows ({full.waiting / 1e6:.1f} MB) were taken in within "
                f"{took:.1f} s of the start of `undrift work` (imports and lease included; the first were in after "
                f"{began.at - after[0].at:.1f} s), {served.cpu(1):.1f} CPU s"
            )
        else:
            served.start("work")
            time.sleep(5)
        start, spent = served.seen(), [served.cpu(0), served.cpu(1)]
        seen = load(served, ask, connections, seconds)
        end, used = served.seen(), [served.cpu(0), served.cpu(1)]
        print("second   rows/s answered   MB waiting   lag s")
        every = max(1, len(seen) // 20)
        for a, b in zip(seen[::every], seen[every::every], strict=False):
            rate = (b.rows - a.rows) / (b.at - a.at)
            print(f"{b.at - start.at:6.0f}   {rate:15,.0f}   {b.waiting / 1e6:10.1f}   {b.lag:5.1f}")
        after = drained(served)
        answered, took = end.rows - start.rows, end.at - start.at
        caught = after[-1].at - start.at
        half = [s for s in seen if s.at - start.at > took / 2]
        print(
            f"captured {answered / took:,.0f} rows a second for {took:.0f} s; all in the lake {caught - took:.1f} s "
            f"later: taken in {answered / caught:,.0f} a second ({took / caught:.2f} of the capture)"
        )
        print(
            f"lag: {np.mean([s.lag for s in seen]):.1f} s on average, {max(s.lag for s in seen):.1f} at most, "
            f"{np.mean([s.lag for s in half]):.1f} in the second half; CPU of serve {used[0] - spent[0]:.1f} s, of "
            f"work {used[1] - spent[1]:.1f} s ({(used[1] - spent[1]) / answered * 1e6:.0f} us a row)"
        )
        total = after[-1].rows
    finally:
        served.stop()
    with open_project(project) as opened:
        stored = opened.lake.scan("predictions_bench", columns=["prediction_id"])
    kept = 0 if stored is None else stored.num_rows
    print(f"answered since the server started: {total:,.0f} rows; in the lake: {kept:,} rows")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--connections", type=int, default=16)
    options.add_argument("--rows", type=int, default=1, help="in a request")
    options.add_argument("--ahead", type=float, default=10.0, help="seconds of load before the worker starts")
    options.add_argument("--keep", type=Path, help="make the project here, and use it again")
    given = options.parse_args()
    if given.keep:
        measure(given.keep.resolve(), given.seconds, given.connections, given.rows, given.ahead)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), given.seconds, given.connections, given.rows, given.ahead)


if __name__ == "__main__":
    main()
