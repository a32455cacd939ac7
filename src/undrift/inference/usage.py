"""What answering takes: plain counters of each version in each role, added to on the hot path, read when asked for.

Nothing here knows Prometheus; serving/telemetry.py turns these into metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

__all__ = ["BATCH_ROWS", "SECONDS", "STAGES", "Ledger", "Usage"]

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the buckets of times."""
BATCH_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper ends of the buckets of batch sizes."""
STAGES: Final = ("decode", "feature", "queue", "compute", "encode")


class Usage:
    """What one version took in one role since the process began.

    ``decode`` to ``encode`` are seconds, summed over requests: reading and checking the body, looking up and computing
    features, waiting for the model, the model, writing the answer. ``total`` counts requests by bucket of `SECONDS`
    (the last: beyond), from the whole request read to the answer written. ``model_cpu`` are CPU seconds of the model in
    this process, ``apart_cpu`` in one of its own, ``shared_cpu`` this version's share of what the process takes beside.
    """

    __slots__ = (
        "apart_cpu", "batch_rows", "batches", "cache_hits", "cache_misses", "compute", "decode", "encode", "failures",
        "feature", "flagged", "in_flight", "model_cpu", "queue", "requests", "rows", "settled_rows", "shared_cpu",
        "total", "total_seconds",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rows = self.settled_rows = self.flagged = self.requests = self.in_flight = 0
        self.decode = self.feature = self.queue = self.compute = self.encode = self.total_seconds = 0.0
        self.model_cpu = self.apart_cpu = self.shared_cpu = 0.0
        self.total = [0] * (len(SECONDS) + 1)
        self.batches = [0] * (len(BATCH_ROWS) + 1)
        self.batch_rows = 0
        self.cache_hits = self.cache_misses = 0
        self.failures: dict[str, int] = {}

    @property
    def cpu(self) -> float:
        """All CPU seconds."""
        return self.model_cpu + self.apart_cpu + self.shared_cpu

    def fail(self, reason: str, rows: int) -> None:
        """Count rows that could not be answered."""
        self.failures[reason] = self.failures.get(reason, 0) + rows

    def batch(self, rows: int) -> None:
        """Count one call of the model."""
        self.batches[bisect_left(BATCH_ROWS, rows)] += 1
        self.batch_rows += rows

    def take(self, other: Usage) -> None:
        """Add what one request took of a model, where that was counted apart."""
        self.queue += other.queue
        self.compute += other.compute
        self.model_cpu += other.model_cpu
        self.apart_cpu += other.apart_cpu
        self.cache_hits += other.cache_hits
        self.cache_misses += other.cache_misses
        self.batch_rows += other.batch_rows
        self.batches = [a + b for a, b in zip(self.batches, other.batches, strict=True)]

    def finish(self, seconds: float) -> None:
        """Count one request."""
        self.requests += 1
        self.total[bisect_left(SECONDS, seconds)] += 1
        self.total_seconds += seconds


class Ledger(dict[tuple[str, int, str], Usage]):
    """The usage of each (model, version, variant) that has been placed."""

    def __missing__(self, key: tuple[str, int, str]) -> Usage:
        usage = self[key] = Usage()
        return usage

    def settle(self, cpu: float) -> None:
        """Divide CPU seconds that no version took by itself, by the rows each answered since the last time.

        Where none was answered, they are the process's own and stay out.
        """
        rows = sum(usage.rows - usage.settled_rows for usage in self.values())
        for usage in self.values():
            if rows > 0:
                usage.shared_cpu += cpu * (usage.rows - usage.settled_rows) / rows
            usage.settled_rows = usage.rows
