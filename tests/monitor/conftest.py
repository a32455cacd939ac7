"""A stream of predictions with known truth: days that differ, and faults and changes put in where a test says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

START = datetime(2013, 4, 1, tzinfo=UTC)
CARRIERS = ["UA", "DL", "AA", "HA"]

Change = Callable[[int, dict[str, Any], np.random.Generator], None]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def day_of(day: int, rng: np.random.Generator, n: int, change: Change | None) -> dict[str, Any]:
    """One day: weather is shared by its rows (so rows are alike), a calibrated model sees it with the carrier."""
    carrier = rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])
    weather = rng.normal(0, 0.5)
    temp = 60 + 8 * rng.normal() + rng.normal(0, 3, n)
    distance = rng.gamma(2, 500, n)
    logit = -1.4 + weather + np.array([0, 0.3, -0.3, 0.5])[carrier] + rng.normal(0, 0.8, n)
    row: dict[str, Any] = {
        "day": np.full(n, day),
        "second": np.sort(rng.integers(0, 86_400, n)),
        "carrier": carrier,
        "temp": temp,
        "distance": distance,
        "truth": sigmoid(logit),
        "score": sigmoid(logit + rng.normal(0, 0.2, n)),
        "version": np.full(n, 1),
        "failed": np.zeros(n, dtype=bool),
        "labelled": rng.random(n) < 0.97,
    }
    if change is not None:
        change(day, row, rng)
    row["late"] = rng.random(len(row["truth"])) < row["truth"]
    return row


def table_of(days: list[dict[str, Any]]) -> pa.Table:
    whole = {name: np.concatenate([day[name] for day in days]) for name in days[0]}
    n = len(whole["day"])
    stamp = int(START.timestamp()) * 1_000_000
    micros = stamp + (whole["day"].astype(np.int64) * 86_400 + whole["second"]) * 1_000_000
    score = np.where(whole["failed"], np.nan, whole["score"])
    return pa.table(
        {
            "prediction_id": [f"p{d}-{i}" for i, d in enumerate(whole["day"])],
            "event_time": pa.array(micros, pa.timestamp("us", "UTC")),
            "version": pa.array(whole["version"], pa.int32()),
            "score": pa.array(score, pa.float64(), from_pandas=True),
            "prediction": pa.nulls(n, pa.string()),
            "scores": pa.nulls(n, pa.list_(pa.float64())),
            "error": pa.array(["failed" if f else None for f in whole["failed"]], pa.string()),
            "inputs": pa.StructArray.from_arrays(
                [pa.array([CARRIERS[c] for c in whole["carrier"]]), pa.array(whole["distance"])],
                ["carrier", "distance"],
            ),
            "features": pa.StructArray.from_arrays([pa.array(whole["temp"], pa.float64(), from_pandas=True)], ["temp"]),
            "label": pa.array(
                [str(int(v)) if held else None for v, held in zip(whole["late"], whole["labelled"], strict=True)],
                pa.string(),
            ),
            "value": pa.nulls(n, pa.float64()),
        }
    )


@pytest.fixture(scope="session")
def stream() -> Callable[..., pa.Table]:
    """``stream(days, seed=, n=, first=, change=)``: rows of days ``first`` .. ``first + days - 1`` after 1 April."""

    def made(days: int, *, seed: int = 0, n: int = 400, first: int = 0, change: Change | None = None) -> pa.Table:
        return table_of(
            [day_of(first + k, np.random.default_rng([seed, first + k + 10_000]), n, change) for k in range(days)]
        )

    return made


def at(day: int) -> datetime:
    """Midnight after ``day`` days of the stream."""
    return START + timedelta(days=day)
