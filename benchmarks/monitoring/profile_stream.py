"""Profiles of a stream of 100,000,000 rows: rate against one numpy histogram pass, and memory as rows go by.

    python benchmarks/monitoring/profile_stream.py [--rows N]

One numeric column, in batches of a quarter of a million rows that are made beforehand (64 different ones, in turn), so
that only the profile is timed. The histogram pass is `numpy.histogram` of the same batches on 20 even bins.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from undrift.data.profile import Profile

BATCH = 1 << 18


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rows", type=int, default=100_000_000)
    rows = asked.parse_args().rows
    rng = np.random.default_rng(1)
    made = [pa.record_batch({"x": rng.normal(size=BATCH)}) for _ in range(64)]
    count = -(-rows // BATCH)
    reference = Profile.of(pa.Table.from_batches(made[:1]))
    peaks: list[float] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for place in range(count):
            if place in (count // 10, count - 1):
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            yield made[place % 64]

    start = time.perf_counter()
    profile = Profile.stream(batches(), edges_from=reference)
    took = time.perf_counter() - start
    start = time.perf_counter()
    for place in range(count):
        np.histogram(made[place % 64]["x"].to_numpy(), bins=20, range=(-6, 6))
    one_pass = time.perf_counter() - start
    print(f"rows: {profile.n:,}; profile: {len(profile.to_json()) / 1024:.1f} KiB")
    print(
        f"profile: {profile.n / took / 1e6:.1f} million rows a second, {took / one_pass:.2f} times one histogram pass"
    )
    print(f"peak memory after a tenth of the rows: {peaks[0]:.0f} MiB; after all: {peaks[1]:.0f} MiB")


if __name__ == "__main__":
    main()
