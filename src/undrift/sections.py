"""The sections of undrift.toml: what can be set in each room, with its default. No value is read or checked here.

How they are read, from where, and what is refused, stands in settings.py, which hands these types on.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "AlertSettings",
    "ExplainSettings",
    "ObserveSettings",
    "ProjectSettings",
    "ServeSettings",
    "SinkSettings",
    "StoreSettings",
    "TimeSettings",
    "TrustSettings",
    "UiSettings",
    "WorkSettings",
]


class ProjectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this project is and where its declarations stand (a Python file beside undrift.toml)."""

    name: str = "project"
    declarations: str = "declarations.py"


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where state is kept, as URLs; relative paths start at undrift.toml."""

    journal: str = "sqlite:.undrift/undrift.db"
    lake: str = "file:.undrift/lake"
    artifacts: str = "file:.undrift/artifacts"
    online: str = "sqlite:.undrift/online.db"
    tracking: str = "sqlite:.undrift/mlflow.db"
    spool: str = ".undrift/spool"
    routing: str = ".undrift/routing.json"


class TimeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which clock judges: the wall clock, or the watermark of the events themselves (replays, demos, backfills)."""

    mode: Literal["wall", "event"] = "wall"
    tick: str = "1h"
    lateness: str = "0s"


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data plane: address, bounds and durability."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    max_body_bytes: int = 8 * 1024 * 1024
    max_queue: int = 1024
    max_batch: int = 64
    inline: bool = True
    model_process: bool = True
    threads: int = 1
    cache_rows: int = 0
    price_per_cpu_hour: float = 0.0
    check_seconds: float = 60.0
    timeout_ms: int = 10_000
    drain_seconds: float = 10.0
    poll_seconds: float = 0.1
    capture: Literal["required", "best_effort"] = "required"
    durability: Literal["process", "power"] = "process"
    sync_ms: int = 100
    segment_bytes: int = 16 * 1024 * 1024
    segment_seconds: float = 5.0
    capture_rates: dict[str, float] = {}
    spool_bytes: int = 0
    spool_seconds: float = 0.0
    wrapper: str = ""
    model: str = ""
    predict_route: str = ""
    health_route: str = ""
    grpc_port: int = -1


class ObserveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What servers tell of single requests: a line each, and spans of those that are sampled."""

    access_log: bool = False
    traces: str = ""
    trace_ratio: float = 0.01


class WorkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worker: how often it looks, how long a few records may wait for more, how long a claim on a job holds.

    ``threads``: of numeric libraries while a challenger is trained; 0 for half of the cores, so that ingest, ticks and
    servers on the same machine keep the rest.
    """

    poll_seconds: float = 0.5
    linger_seconds: float = 1.0
    lease_seconds: float = 15.0
    attempts: int = 3
    threads: int = 0


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One receiver of alerts. ``kind`` is a name at the port "sink"; ``url`` and ``secret`` may be references."""

    kind: str
    url: str = ""
    secret: str = ""
    user: str = ""
    sender: str = ""
    to: tuple[str, ...] = ()
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    ca_file: str = ""
    severities: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    monitors: tuple[str, ...] = ()
    resolved: bool = True
    timeout_seconds: float = 10.0


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told of incidents, and how long delivery is tried."""

    sinks: dict[str, SinkSettings] = {}
    link: str = ""
    give_up: str = "3d"


class UiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control API: its address, and who may ask: ``name=reference`` of a secret, as ``ann=env:ANN_TOKEN``."""

    host: str = "127.0.0.1"
    port: int = 8090
    tokens: tuple[str, ...] = ()


class ExplainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Explanations over HTTP: how long one may take, how many rows it may have, how many wait, when memory is freed."""

    timeout_ms: int = 10_000
    max_rows: int = 64
    max_queue: int = 16
    idle_seconds: float = 600.0


class TrustSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the loader may open. The policy stands here, with the loader, never in the artifact."""

    formats: tuple[str, ...] = ("onnx", "skops", "lightgbm", "xgboost", "catboost")
    skops_types: tuple[str, ...] = ()
