"""What a server says of itself: one JSON line per event of its life on stderr, and metrics for Prometheus.

Workers share one port, so a scrape meets any of them. Each keeps its figures in memory, labels them with its number
and leaves a copy beside the others' every second; the one that is asked answers with its own and with those copies.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

__all__ = ["Meters", "notice"]

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def notice(event: str, **fields: Any) -> None:
    """Write one JSON line to stderr: time, process, event and what belongs to it."""
    line = {"at": datetime.now(UTC), "event": event, "pid": os.getpid(), **fields}
    try:
        sys.stderr.write(msgspec.json.encode(line).decode() + "\n")
        sys.stderr.flush()
    except OSError:  # whoever read them is gone; serving goes on
        pass


class _Family(msgspec.Struct, array_like=True):
    """A metric and its samples, as they are left for the other workers."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


class Meters:
    """The figures of one worker.

    Parameters
    ----------
    folder : where workers leave their copies for each other; None for a server without others.
    worker : this one's number.
    """

    def __init__(self, folder: Path | None = None, worker: int = 0) -> None:
        self._folder, self._worker = folder, str(worker)
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "undrift_requests", "Requests answered, by route and status.", ["route", "code"], registry=registry
        )
        self.seconds = Histogram(
            "undrift_request_seconds",
            "From the whole request read to the answer handed over.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.predictions = Counter(
            "undrift_predictions", "Rows answered.", ["model", "version", "variant"], registry=registry
        )
        self.failures = Counter(
            "undrift_prediction_failures",
            "Rows a variant failed on, by reason.",
            ["model", "version", "variant", "reason"],
            registry=registry,
        )
        self.flagged = Counter(
            "undrift_flagged_rows", "Rows accepted that break a rule of their contract.", ["model"], registry=registry
        )
        self.refused = Counter("undrift_refused", "Requests refused, by reason.", ["reason"], registry=registry)
        self.labels = Counter("undrift_labels", "Labels accepted.", ["model"], registry=registry)
        self.events = Counter("undrift_events", "Business events accepted.", ["model"], registry=registry)
        self.source_rows = Counter("undrift_source_rows", "Rows of sources accepted.", ["source"], registry=registry)
        self.uncaptured = Counter(
            "undrift_uncaptured_records", "Records that could not be written to the spool.", registry=registry
        )
        self.waiting = Gauge("undrift_waiting_rows", "Rows waiting for a model.", ["model"], registry=registry)
        self.epoch = Gauge("undrift_routing_epoch", "Epoch of the routing table in use.", registry=registry)
        self.problems = Gauge("undrift_routing_problems", "Models that cannot follow the table.", registry=registry)

    def leave(self) -> None:
        """Write the copy for the other workers; a disk that is full only makes it older."""
        if self._folder is None:
            return
        path = self._folder / f"worker-{self._worker}.metrics"
        scratch = path.with_suffix(".new")
        try:
            scratch.write_bytes(msgspec.msgpack.encode(list(self._own())))
            os.replace(scratch, path)
        except OSError:
            return

    def exposition(self) -> bytes:
        """All workers' figures in Prometheus' text format."""
        families: dict[str, Metric] = {}
        for worker, found in self._all():
            for family in found:
                metric = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for name, labels, value in family.samples:
                    metric.add_sample(name, {**labels, "worker": worker}, value)
        return generate_latest(_Collected(families.values()))

    def _own(self) -> Iterator[_Family]:
        for metric in self._registry.collect():
            samples = [(s.name, s.labels, s.value) for s in metric.samples if not s.name.endswith("_created")]
            yield _Family(metric.name, metric.documentation, metric.type, samples)

    def _all(self) -> Iterator[tuple[str, Iterable[_Family]]]:
        yield self._worker, self._own()
        for path in sorted(self._folder.glob("worker-*.metrics")) if self._folder is not None else ():
            worker = path.stem.removeprefix("worker-")
            if worker == self._worker:
                continue
            try:
                yield worker, msgspec.msgpack.decode(path.read_bytes(), type=list[_Family])
            except (OSError, msgspec.MsgspecError):
                continue


class _Collected(CollectorRegistry):
    """Families that were collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return iter(self._families)
