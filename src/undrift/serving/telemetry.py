"""What a server says of itself: one JSON line per event of its life on stderr, and metrics for Prometheus.

Workers share one port, so a scrape meets any of them. Each keeps its figures in memory, labels them with its number
and leaves a copy beside the others' every second; the one that is asked answers with its own and with those copies.
"""

from __future__ import annotations

import os
import sys
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.metrics_core import Metric

from undrift.develop.upstream import UpstreamModel
from undrift.inference.usage import BATCH_ROWS, SECONDS, STAGES, Ledger

__all__ = ["COUNTED", "Cost", "Meters", "Route", "costs", "notice"]

_ROLE: Final = ("model", "version", "variant")
_VERSION: Final = ("model", "version")
COUNTED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "undrift_requests_total": ("Requests answered, by route and status.", ("route", "code")),
    "undrift_request_seconds": ("From the whole request read to the answer handed over.", ("route",)),
    "undrift_predictions_total": ("Rows answered.", _ROLE),
    "undrift_prediction_failures_total": ("Rows a variant failed on, by reason.", (*_ROLE, "reason")),
    "undrift_prediction_seconds": ("From a whole predict request read to its answer written.", _ROLE),
    "undrift_stage_seconds_total": ("Seconds in each stage of predict requests, summed over them.", (*_ROLE, "stage")),
    "undrift_batch_rows": ("Rows of each call of the model.", _ROLE),
    "undrift_cache_hits_total": ("Rows answered from memory.", _ROLE),
    "undrift_cache_misses_total": ("Rows that were looked for in memory and not found.", _ROLE),
    "undrift_in_flight_requests": ("Predict requests being answered.", _ROLE),
    "undrift_flagged_rows_total": ("Rows accepted that break a rule of their contract.", _ROLE),
    "undrift_cpu_seconds_total": ("CPU seconds of the model and of its share of the process.", _ROLE),
    "undrift_cost_total": ("The same at serve.price_per_cpu_hour.", _ROLE),
    "undrift_upstream_calls_total": ("Calls of a model on another server, by outcome.", (*_VERSION, "outcome")),
    "undrift_upstream_retries_total": ("Requests that were sent to it again.", _VERSION),
    "undrift_upstream_circuit_opened_total": ("Times its circuit opened.", _VERSION),
    "undrift_upstream_circuit_open": ("1 while its circuit is not closed, else 0.", _VERSION),
}
"""Metrics that are counted in plain Python on the hot path: what each says, and its labels."""


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


class Route:
    """What was answered at one kind of path: plain counters."""

    __slots__ = ("codes", "seconds", "sum")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.seconds = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def count(self, status: int, seconds: float) -> None:
        """Count one answer."""
        self.codes[status] = self.codes.get(status, 0) + 1
        self.seconds[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds


class Meters:
    """The figures of one worker.

    Parameters
    ----------
    folder : where workers leave their copies for each other and for `undrift status`; None for none.
    worker : this one's number.
    price : of one CPU hour, in whatever currency.
    """

    def __init__(self, folder: Path | None = None, worker: int = 0, price: float = 0.0) -> None:
        self._folder, self._worker, self._price = folder, str(worker), price
        self.routes: dict[str, Route] = {}
        self.ledger = Ledger()
        self.upstreams: dict[str, tuple[str, int, UpstreamModel]] = {}
        self._cpu = 0.0
        self._registry = registry = CollectorRegistry()
        self.refused = Counter("undrift_refused", "Requests refused, by reason.", ["reason"], registry=registry)
        self.labels = Counter("undrift_labels", "Labels accepted.", ["model"], registry=registry)
        self.events = Counter("undrift_events", "Business events accepted.", ["model"], registry=registry)
        self.source_rows = Counter("undrift_source_rows", "Rows of sources accepted.", ["source"], registry=registry)
        self.uncaptured = Counter(
            "undrift_uncaptured_records", "Records that could not be written to the spool.", registry=registry
        )
        self.spool_bytes = Gauge("undrift_spool_bytes", "Bytes that wait in the spool of all.", registry=registry)
        self.spool_seconds = Gauge(
            "undrift_spool_seconds",
            "Age of the oldest record that no worker has taken in: the lag of ingest.",
            registry=registry,
        )
        self.unlogged = Counter(
            "undrift_unlogged_answers", "Lines of the access log that were dropped.", registry=registry
        )
        self.waiting = Gauge("undrift_waiting_rows", "Rows waiting for a model.", ["model"], registry=registry)
        self.golden = Gauge(
            "undrift_golden_differing_rows",
            "Golden requests answered other than on record, at the last check.",
            ["model", "version"],
            registry=registry,
        )
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

    def route(self, label: str) -> Route:
        """The counters of a kind of path."""
        found = self.routes.get(label)
        if found is None:
            found = self.routes[label] = Route()
        return found

    def settle(self) -> None:
        """Charge what the process took beside its models to the versions that answered."""
        shared = time.process_time() - sum(usage.model_cpu for usage in self.ledger.values())
        self.ledger.settle(max(0.0, shared - self._cpu))
        self._cpu = max(self._cpu, shared)

    def _counted(self) -> Iterator[_Family]:
        """The metrics of `COUNTED`."""
        self.settle()
        samples: dict[str, list[tuple[str, dict[str, str], float]]] = {name: [] for name in COUNTED}
        for label, route in self.routes.items():
            for code, n in route.codes.items():
                samples["undrift_requests_total"].append(
                    ("undrift_requests_total", {"route": label, "code": str(code)}, n)
                )
            samples["undrift_request_seconds"] += _buckets(
                "undrift_request_seconds", {"route": label}, SECONDS, route.seconds, route.sum
            )
        for (model, version, variant), usage in self.ledger.items():
            role = {"model": model, "version": str(version), "variant": variant}
            plain = {
                "undrift_predictions_total": usage.rows,
                "undrift_cache_hits_total": usage.cache_hits,
                "undrift_cache_misses_total": usage.cache_misses,
                "undrift_in_flight_requests": usage.in_flight,
                "undrift_flagged_rows_total": usage.flagged,
                "undrift_cpu_seconds_total": usage.cpu,
                "undrift_cost_total": usage.cpu * self._price / 3600.0,
            }
            for name, value in plain.items():
                samples[name].append((name, role, value))
            for reason, n in usage.failures.items():
                name = "undrift_prediction_failures_total"
                samples[name].append((name, {**role, "reason": reason}, n))
            for stage in STAGES:
                name = "undrift_stage_seconds_total"
                samples[name].append((name, {**role, "stage": stage}, getattr(usage, stage)))
            name = "undrift_prediction_seconds"
            samples[name] += _buckets(name, role, SECONDS, usage.total, usage.total_seconds)
            name = "undrift_batch_rows"
            samples[name] += _buckets(name, role, BATCH_ROWS, usage.batches, usage.batch_rows)
        for model, version, upstream in list(self.upstreams.values()):
            told, breaker = {"model": model, "version": str(version)}, upstream.breaker
            outcomes = {
                "ok": upstream.asked - upstream.failed, "failed": upstream.failed, "not_sent": breaker.refused
            }  # fmt: skip
            calls = "undrift_upstream_calls_total"
            samples[calls] += [(calls, {**told, "outcome": outcome}, n) for outcome, n in outcomes.items()]
            figures = {
                "undrift_upstream_retries_total": upstream.retried,
                "undrift_upstream_circuit_opened_total": breaker.opened,
                "undrift_upstream_circuit_open": float(breaker.state != "closed"),
            }
            for name, value in figures.items():
                samples[name].append((name, told, value))
        for name, (documentation, _) in COUNTED.items():
            gauge = name.endswith(("_in_flight_requests", "_circuit_open"))
            kind = "counter" if name.endswith("_total") else "gauge" if gauge else "histogram"
            yield _Family(name.removesuffix("_total"), documentation, kind, samples[name])

    def _own(self) -> Iterator[_Family]:
        yield from self._counted()
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


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What the predictions of one version in one role took since the server's workers began."""

    model: str
    version: int
    variant: str
    rows: int = 0
    cpu_seconds: float = 0.0
    money: float = 0.0

    @property
    def text(self) -> str:
        """In one line: CPU of each prediction, and money of a million if it has a price."""
        each = 1000.0 * self.cpu_seconds / self.rows
        price = f", {1e6 * self.money / self.rows:.3g} a million" if self.money else ""
        who = f"{self.model} version {self.version} ({self.variant})"
        return f"{who}: {each:.3g} ms CPU a prediction{price}, {self.rows} predictions"


def costs(folder: Path) -> list[Cost]:
    """What each version took, over all workers, from the copies they leave; empty where no server has run."""
    found: dict[tuple[str, int, str], dict[str, float]] = {}
    fields = {
        "undrift_predictions_total": "rows", "undrift_cpu_seconds_total": "cpu_seconds", "undrift_cost_total": "money"
    }  # fmt: skip
    for path in sorted(folder.glob("worker-*.metrics")):
        try:
            families = msgspec.msgpack.decode(path.read_bytes(), type=list[_Family])
        except (OSError, msgspec.MsgspecError):
            continue
        for family in families:
            for name, labels, value in family.samples:
                if name in fields:
                    sums = found.setdefault((labels["model"], int(labels["version"]), labels["variant"]), {})
                    sums[fields[name]] = sums.get(fields[name], 0.0) + value
    return [
        Cost(
            model=model, version=version, variant=variant, rows=int(sums.get("rows", 0)),
            cpu_seconds=sums.get("cpu_seconds", 0.0), money=sums.get("money", 0.0),
        )
        for (model, version, variant), sums in sorted(found.items()) if sums.get("rows")
    ]  # fmt: skip


def _buckets(
    name: str, labels: dict[str, str], ends: Sequence[float], counts: Sequence[int], total: float
) -> Iterator[tuple[str, dict[str, str], float]]:
    """The samples of a histogram, as Prometheus has them: each bucket counts what is at most its end."""
    for end, n in zip((*(f"{end:g}" for end in ends), "+Inf"), accumulate(counts), strict=True):
        yield f"{name}_bucket", {**labels, "le": end}, n
    yield f"{name}_count", labels, sum(counts)
    yield f"{name}_sum", labels, total


class _Collected(CollectorRegistry):
    """Families that were collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return iter(self._families)
