"""The loss without labels: right where only inputs move, and silent about itself where the world has changed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.deploy.traffic import values_of
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Verdict
from undrift.monitor.estimate import estimated_losses, judge_estimate
from undrift.monitor.evidence import Evidence, Expected
from undrift.monitor.monitors import Monitor

START = datetime(2013, 4, 1, tzinfo=UTC)
BINARY = Interface(
    model="flights",
    task="binary",
    contract=Contract(name="flights", fields=(Field(name="carrier", type="string"),)),
    label="late",
    classes=("0", "1"),
)
MONITOR = Monitor(name="early", kind="estimate", metric="brier", persistence=(1, 1))
Stream = Callable[..., pa.Table]


def unlabelled(rows: pa.Table, since: int) -> pa.Table:
    """The rows with the labels of days from ``since`` on taken away."""
    days = (rows["event_time"].cast("int64").to_numpy() - int(START.timestamp() * 1e6)) // 86_400_000_000
    labels = [None if d >= since else v for d, v in zip(days, rows["label"].to_pylist(), strict=True)]
    return rows.set_column(rows.column_names.index("label"), "label", pa.array(labels, pa.string()))


def harder(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
    """Calm days become uncertain ones: the model still knows, so its own scores tell."""
    if day >= 49:
        row["truth"] = np.clip(0.5 + (row["truth"] - 0.5) * 0.2, 0, 1)
        row["score"] = row["truth"]


def judged(rows: pa.Table, expected: dict[str, Expected], day: int) -> list[Finding]:
    now = START + timedelta(days=day)
    return judge_estimate(MONITOR, Evidence(interface=BINARY, rows=rows, version=1, expected=expected, now=now))


def test_an_estimate_is_near_the_loss_that_labels_show_later(stream: Stream) -> None:
    rows = stream(56, change=harder)
    days = (rows["event_time"].cast("int64").to_numpy() - int(START.timestamp() * 1e6)) // 86_400_000_000
    blind = unlabelled(rows, 49)
    said = estimated_losses(BINARY, "brier", blind, np.ones(rows.num_rows, dtype=bool))
    assert said is not None
    real = values_of(rows, BINARY, ["brier"])["brier"]
    for held in (days < 49, days >= 49):
        assert float(np.nanmean(said[held])) == pytest.approx(float(np.nanmean(real[held])), abs=0.012)


def test_a_rise_is_told_before_any_label_of_it_is_there(stream: Stream) -> None:
    rows = unlabelled(stream(56, change=harder), 49)
    expected = {"brier": Expected(0.185, 0.002)}
    found = judged(rows, expected, 56)
    assert [f.verdict for f in found] == [Verdict.FAIL]
    assert "right in 4 checks" in found[0].why
    before = judged(unlabelled(stream(49), 42), expected, 49)
    assert [f.verdict for f in before] == [Verdict.PASS]


def test_an_estimate_that_labels_contradict_is_not_trusted(stream: Stream) -> None:
    # concept drift: from day 35 on the truth turns round while the scores stay; two weeks later labels show it
    def turned(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        if day >= 35:
            row["truth"] = 1 - row["truth"]

    rows = unlabelled(stream(56, change=turned), 49)
    found = judged(rows, {"brier": Expected(0.185)}, 56)
    assert [f.verdict for f in found] == [Verdict.INCONCLUSIVE]
    assert "not trustworthy" in found[0].why
    assert found[0].measurement.detail["trusted"] is False


def test_without_labels_to_learn_from_nothing_is_said(stream: Stream) -> None:
    found = judged(unlabelled(stream(20), 0), {"brier": Expected(0.185)}, 20)
    assert [f.verdict for f in found] == [Verdict.INCONCLUSIVE]
    assert "fewer than 500 labelled rows" in found[0].why


def test_of_regression_a_model_of_the_loss_learns_where_errors_are_large() -> None:
    rng = np.random.default_rng(5)
    n = 6_000
    x = rng.uniform(0, 1, n)
    value = rng.normal(0, 0.1 + x)
    rows = pa.table(
        {
            "event_time": pa.array(np.arange(n) * 60_000_000, pa.timestamp("us", "UTC")),
            "version": pa.array(np.ones(n), pa.int32()),
            "score": np.zeros(n),
            "prediction": pa.nulls(n, pa.string()),
            "scores": pa.nulls(n, pa.list_(pa.float64())),
            "error": pa.nulls(n, pa.string()),
            "inputs": pa.StructArray.from_arrays([pa.array(x)], ["x"]),
            "label": pa.nulls(n, pa.string()),
            "value": pa.array(np.where(np.arange(n) < 5_000, value, np.nan), from_pandas=True),
        }
    )
    interface = Interface(
        model="m", task="regression", contract=Contract(name="m", fields=(Field(name="x", type="number"),)), label="y"
    )
    said = estimated_losses(interface, "absolute_error", rows, np.ones(n, dtype=bool))
    assert said is not None
    new = np.arange(n) >= 5_000
    # the mean absolute value of a normal variable is its standard deviation times root 2 / pi
    for held in (new & (x < 0.3), new & (x > 0.7)):
        assert said[held].mean() == pytest.approx(np.sqrt(2 / np.pi) * (0.1 + x[held]).mean(), rel=0.15)
