"""A small population of late flights, and models as a user would write them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from threadpoolctl import threadpool_limits

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.develop.folds import TrainingData
from undrift.develop.training import Trained, finish, fit
from undrift.state.artifacts import DirectoryArtifacts

START = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)
CARRIERS = ("AA", "DL", "UA")


def make_flights(n: int = 2000, seed: int = 0) -> pa.Table:
    """``n`` flights, one every 40 minutes; late by carrier, wind and hour; the wind is unknown for one in ten."""
    rng = np.random.default_rng(seed)
    carrier = rng.choice(CARRIERS, n)
    wind = rng.gamma(2.0, 5.0, n)
    hour = rng.integers(5, 23, n)
    night = rng.random(n) < 0.3
    logit = 0.15 * (wind - 10) + 0.1 * (hour - 14) + 1.2 * (carrier == "UA") - 0.8
    late = rng.random(n) < 1 / (1 + np.exp(-logit))
    time = [START + dt.timedelta(minutes=40 * i) for i in range(n)]
    known = rng.random(n) > 0.1
    return pa.table(
        {
            "flight": [f"f{i}" for i in range(n)],
            "time": pa.array(time, pa.timestamp("us", "UTC")),
            "carrier": carrier.tolist(),
            "hour": pa.array(hour),
            "night": pa.array(night),
            "wind": pa.array([w if k else None for w, k in zip(wind.tolist(), known, strict=True)], pa.float64()),
            "late": pa.array(late.astype(int)),
            "band": np.where(wind > 15, "high", np.where(wind > 7, "middle", "low")).tolist(),
            "delay": pa.array(20 * logit + rng.normal(0, 5, n)),
        }
    )


def make_interface(task: str = "binary", **changes: Any) -> Interface:
    label, classes = {
        "binary": ("late", ("0", "1")),
        "multiclass": ("band", ("low", "middle", "high")),
        "regression": ("delay", ()),
    }[task]
    contract = Contract(
        name="flights",
        fields=(
            Field(name="flight", type="string", role="context"),
            Field(name="time", type="timestamp", role="context"),
            Field(name="carrier", type="string"),
            Field(name="hour", type="integer"),
            Field(name="night", type="boolean"),
            Field(name="wind", type="number", nullable=True),
        ),
    )
    values: dict[str, Any] = {
        "model": "flights", "task": task, "contract": contract, "label": label, "classes": classes,
        "key": "flight", "time": "time", "segments": ("carrier",), **changes,
    }  # fmt: skip
    return Interface(**values)


def train(
    interface: Interface, function: Any, table: pa.Table, *, artifacts: DirectoryArtifacts, **how: Any
) -> Trained:
    """Fit and finish, as a project does it."""
    learnt = {name: how.pop(name) for name in ("baseline", "folds", "holdout", "gap", "seed") if name in how}
    return finish(fit(interface, function, table, **learnt), interface, artifacts=artifacts, **how)


def _pipeline(data: TrainingData, last: Any, *, impute: bool) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(), StandardScaler()) if impute else "passthrough"
    columns = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), data.categorical),
            ("numbers", numbers, data.numeric),
        ],
        sparse_threshold=0,
    )
    with threadpool_limits(1):  # threads of a small fit that wait for each other's cores take seconds on a busy machine
        return make_pipeline(columns, last).fit(data.X, data.y)


def linear(data: TrainingData) -> Any:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    regression = data.interface.task == "regression"
    return _pipeline(data, LinearRegression() if regression else LogisticRegression(max_iter=500), impute=True)


def trees(data: TrainingData) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if data.interface.task == "regression" else HistGradientBoostingClassifier
    return _pipeline(data, kind(max_iter=20, max_leaf_nodes=8, random_state=data.seed), impute=False)


@pytest.fixture
def artifacts(tmp_path: Path) -> DirectoryArtifacts:
    return DirectoryArtifacts(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def flights() -> pa.Table:
    return make_flights()


@pytest.fixture(scope="session")
def interface_of() -> Any:
    return make_interface


@pytest.fixture(scope="session")
def models() -> Any:
    """Train functions by name."""
    return {"linear": linear, "trees": trees}
