"""Scored rows whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.develop.performance import Scored

CONTRACT = Contract(
    name="c", fields=(Field(name="x", type="number"), Field(name="carrier", type="string", nullable=True))
)


def make_interface(task: str = "binary", **changes: Any) -> Interface:
    classes = {"binary": ("0", "1"), "multiclass": ("a", "b", "c"), "regression": ()}[task]
    values: dict[str, Any] = {
        "model": "m", "task": task, "contract": CONTRACT, "label": "y", "classes": classes, "segments": ("carrier",),
        **changes,
    }  # fmt: skip
    return Interface(**values)


def make_scored(
    n: int = 3000, *, noise: float = 0.5, seed: int = 0, broken: str = "", task: str = "binary", days: int = 30
) -> Scored:
    """Rows over some days; the same seed gives the same rows and labels, ``noise`` is that of the model's log-odds.

    ``broken`` names a carrier whose probabilities are turned round.
    """
    rows, model = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    carrier = rows.choice(["AA", "UA", "DL", "HA"], n, p=[0.45, 0.3, 0.2, 0.05])
    signal = rows.normal(size=n)
    time = np.datetime64("2013-01-01", "us") + (np.arange(n) * (days * 86_400_000_000 // n)).astype("timedelta64[us]")
    table = pa.table({"carrier": carrier.tolist()})
    guess = signal + noise * model.normal(size=n)
    if task == "regression":
        return Scored(make_interface(task), table, signal + 0.1 * rows.normal(size=n), guess, time)
    p = 1 / (1 + np.exp(-2 * guess))
    p = np.where(carrier == broken, 1 - p, p)
    label = (rows.random(n) < 1 / (1 + np.exp(-2 * signal))).astype(np.int64)
    return Scored(make_interface(task), table, label, np.column_stack([1 - p, p]), time)


@pytest.fixture(scope="session")
def interface_of() -> Any:
    return make_interface


@pytest.fixture(scope="session")
def scored_of() -> Any:
    return make_scored
