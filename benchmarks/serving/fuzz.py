"""A hundred thousand bodies that nobody meant, against a real server: `python benchmarks/serving/fuzz.py [N]`.

The generator is that of tests/serving/test_fuzz.py, begun anew with another seed after each part (it slows down with
what it remembers). It ends with the count, or with the first body whose answer is a server error or a stack trace.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parents[2] / "tests"), str(Path(__file__).parents[2] / "tests/serving")]

from test_fuzz import BODIES, PATHS, check  # noqa: E402

from servers import Server, interface, make_bundle, placed, write_table  # noqa: E402
from undrift.inference.router import Route  # noqa: E402

PART = 5_000


def main(examples: int) -> None:
    """Run it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = (("flights", interface()), ("delay", interface("regression", model="delay", key="")))
        routes = [
            Route(model=name, champion=f"r-{name}",
                  revisions=(placed(f"r-{name}", make_bundle(folder / name, declared), number),))
            for number, (name, declared) in enumerate(made, 1)
        ]  # fmt: skip
        write_table(folder / "at/.undrift/routing.json", 1, *routes)
        server = Server(folder / "at").start()
        sent, began = 0, time.monotonic()

        def run(path: str, body: bytes) -> None:
            nonlocal sent
            check(server.client, path, body)
            sent += 1

        try:
            for begun in range(0, examples, PART):
                bounds = settings(max_examples=min(PART, examples - begun), deadline=None, database=None,
                                  suppress_health_check=list(HealthCheck))  # fmt: skip
                seed(begun)(bounds(given(path=st.sampled_from(PATHS), body=BODIES)(run)))()
                print(f"{sent:,} bodies in {time.monotonic() - began:.0f} s", file=sys.stderr)
        finally:
            code = server.stop()
        died = [line for line in server.lines if line["event"] in ("fault", "worker died")]
        print(f"{sent:,} bodies in {time.monotonic() - began:.0f} s; exit code {code}; faults and deaths: {len(died)}")
        if died or server.noise or code:
            raise SystemExit(f"{died[:3]} {server.noise[:3]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
