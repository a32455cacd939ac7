"""The older listeners: a small part rots while the whole looks fine; and a part that was always hard is no finding."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.finding import Verdict
from undrift.monitor.monitors import Monitor
from undrift.monitor.performance import Expected
from undrift.monitor.slices import judge_slices, worst_slices

START = datetime(2013, 4, 1, tzinfo=UTC)
INTERFACE = Interface(
    model="flights",
    task="binary",
    contract=Contract(name="flights", fields=(Field(name="carrier", type="string"),)),
    label="late",
    classes=("0", "1"),
)
MONITOR = Monitor(name="parts", kind="slices", metric="brier")
EXPECTED = {"brier": Expected(0.185, 0.002)}
Stream = Callable[..., pa.Table]


def rotten(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
    if day >= 28:  # one carrier of four: the truth turns round, its scores stay
        row["truth"] = np.where(row["carrier"] == 2, 1 - row["truth"], row["truth"])


def test_the_part_that_rots_is_named_and_a_sound_stream_has_none(stream: Stream) -> None:
    now = START + timedelta(days=56)
    found = judge_slices(MONITOR, INTERFACE, stream(56, change=rotten), 1, EXPECTED, now)
    assert found[0].verdict is Verdict.FAIL
    assert found[0].measurement.segment["carrier"] == "AA"
    sound = [judge_slices(MONITOR, INTERFACE, stream(56, seed=s), 1, EXPECTED, now) for s in range(2)]
    assert [f.verdict for part in sound for f in part] == [Verdict.PASS] * 2


def test_pairs_are_found_where_neither_part_alone_is_worst() -> None:
    rng = np.random.default_rng(4)
    n = 20_000
    a, b = rng.choice(["x", "y", "z"], n), rng.choice(["u", "v", "w"], n)
    loss = rng.normal(0, 0.2, n) + np.where((a == "x") & (b == "v"), 0.3, 0.0)
    times = np.sort(rng.integers(0, 28, n)) * 86_400_000_000
    columns = {"a": pa.chunked_array([a.tolist()]), "b": pa.chunked_array([b.tolist()])}
    found = worst_slices(columns, loss, times, practical=0.15)
    assert [each.where for each in found] == [{"a": "x", "b": "v"}]
    assert abs(found[0].excess - 0.3) < 0.03


def test_among_many_parts_without_a_difference_hardly_any_is_named() -> None:
    named = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        n = 6_000
        times = np.sort(rng.integers(0, 28, n)) * 86_400_000_000
        day = rng.normal(0, 0.1, 28)[times // 86_400_000_000]
        columns = {f"c{i}": pa.chunked_array([rng.choice(list("abcd"), n).tolist()]) for i in range(5)}
        named += bool(worst_slices(columns, day + rng.exponential(1.0, n), times))
    assert named <= 2  # a false discovery rate of 5 % over 8 streams: 0.4 is expected


def test_few_labels_say_nothing(stream: Stream) -> None:
    found = judge_slices(MONITOR, INTERFACE, stream(40, n=5), 1, EXPECTED, START + timedelta(days=40))
    assert [f.verdict for f in found] == [Verdict.INCONCLUSIVE]
