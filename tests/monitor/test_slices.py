"""The older listeners: a small part rots while the whole looks fine; and a part that was always hard is no finding."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Verdict
from undrift.monitor.evidence import Evidence, Expected
from undrift.monitor.monitors import Monitor
from undrift.monitor.repeats import Repeats, same_rows
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


def judged(rows: pa.Table, now: datetime) -> list[Finding]:
    return judge_slices(MONITOR, Evidence(interface=INTERFACE, rows=rows, version=1, expected=EXPECTED, now=now))


def rotten(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
    if day >= 28:  # one carrier of four: the truth turns round, its scores stay
        row["truth"] = np.where(row["carrier"] == 2, 1 - row["truth"], row["truth"])


def test_the_part_that_rots_is_named_and_a_sound_stream_has_none(stream: Stream) -> None:
    now = START + timedelta(days=56)
    found = judged(stream(56, change=rotten), now)
    assert found[0].verdict is Verdict.FAIL
    assert found[0].measurement.segment["carrier"] == "AA"
    sound = [judged(stream(56, seed=s), now) for s in range(2)]
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
    wide = worst_slices(columns, loss, times, practical=0.03)
    assert [each.where for each in wide] == [{"a": "x", "b": "v"}], (
        "both parts are worse too, for this pair's sake only"
    )


def test_a_part_is_told_rather_than_the_worst_of_its_parts_by_chance() -> None:
    rng = np.random.default_rng(6)
    n, named = 4_000, []
    for _ in range(12):
        a, b = rng.choice(["x", "y", "z"], n), np.where(rng.random(n) < 0.9, "u", "v")
        loss = rng.exponential(1.0, n) + 1.0 * (a == "x")
        times = np.sort(rng.integers(0, 28, n)) * 86_400_000_000
        columns = {"a": pa.chunked_array([a.tolist()]), "b": pa.chunked_array([b.tolist()])}
        named += [each.where for each in worst_slices(columns, loss, times, practical=0.2, minimum_n=100)]
    assert named == [{"a": "x"}] * 12
    only = {"a": columns["a"], "c": pa.chunked_array([np.where(a == "x", "p", "q").tolist()])}
    assert len(worst_slices(only, loss, times, practical=0.2)) == 1, "two names of the same rows"


def test_the_parts_of_a_bad_part_and_what_it_makes_look_bad_are_not_named() -> None:
    """A carrier that rots, with most of its flights from one airport; and a second, lighter fault of its own."""
    rng = np.random.default_rng(5)
    n = 40_000
    carrier = rng.choice(["ua", "aa", "dl", "b6"], n)
    airport = np.where((carrier == "ua") & (rng.random(n) < 0.7), "ewr", rng.choice(["ewr", "jfk", "lga"], n))
    visible, wind = rng.uniform(0, 10, n), rng.choice(["calm", "storm"], n, p=[0.9, 0.1])
    loss = rng.normal(0, 0.5, n) + 0.6 * (carrier == "ua") + 0.4 * (wind == "storm")
    times = np.sort(rng.integers(0, 28, n)) * 86_400_000_000
    columns: dict[str, Any] = {
        "carrier": pa.chunked_array([carrier.tolist()]),
        "airport": pa.chunked_array([airport.tolist()]),
        "visible": pa.chunked_array([visible]),
        "wind": pa.chunked_array([wind.tolist()]),
    }
    found = worst_slices(columns, loss, times, practical=0.1)
    assert [each.where for each in found] == [{"carrier": "ua"}, {"wind": "storm"}]
    only = worst_slices(columns, loss, times, practical=0.1, most=1)
    assert [each.where for each in only] == [{"carrier": "ua"}], "the one with the most evidence"


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
    found = judged(stream(40, n=5), START + timedelta(days=40))
    assert [f.verdict for f in found] == [Verdict.INCONCLUSIVE]


def named_parts(seed: int, customers: int, *, rots: bool, counted: bool = True) -> list[dict[str, str]]:
    """The slices named in the second four weeks of customers scored again and again (0: each once), who do not change.

    With ``rots`` three in ten outcomes of region b turn in the last four weeks.
    """
    rng = np.random.default_rng([seed, customers])
    n = 56 * 300
    many = customers or n
    who = rng.integers(0, customers, n) if customers else np.arange(n)
    x, region = rng.normal(size=(many, 4)), rng.choice(list("abcd"), many)
    chance = 1 / (1 + np.exp(1 - 1.5 * x[:, 0]))
    truth = (rng.random(many) < chance)[who].astype(float)
    day = np.repeat(np.arange(56), 300)
    if rots:
        truth = np.where((region[who] == "b") & (day >= 28) & (rng.random(n) < 0.3), 1 - truth, truth)
    excess = (truth - chance[who]) ** 2 - (chance * (1 - chance))[who]  # the model knows the chances
    columns: dict[str, Any] = {f"x{i}": pa.chunked_array([x[who, i]]) for i in range(4)}
    columns["region"] = pa.chunked_array([region[who].tolist()])
    fresh, repeats = day >= 28, Repeats.measured(same_rows(columns), excess, day < 28) if counted else None
    found = worst_slices(
        {name: values.filter(pa.array(fresh)) for name, values in columns.items()},
        (excess - (0 if repeats is None else repeats.usual))[fresh],
        day[fresh] * 86_400_000_000,
        repeats=[] if repeats is None else [repeats.take(fresh)],
        practical=0.03,
        level=1 / 30,
    )
    return [each.where for each in found]


@pytest.mark.parametrize("customers", [60, 300])
def test_customers_who_come_every_day_are_no_slice_though_they_look_like_many(customers: int) -> None:
    false = sum(bool(named_parts(seed, customers, rots=False)) for seed in range(30))
    assert false <= 3, "1 in 30 looks may be false; of 30, 4 or more come with a chance below 2 %"
    blind = sum(bool(named_parts(seed, customers, rots=False, counted=False)) for seed in range(6))
    assert blind == 6, "what the count of rows alone would say"


@pytest.mark.parametrize("customers", [0, 60, 300])
def test_a_part_that_rots_is_found_among_customers_old_and_new(customers: int) -> None:
    found = [named_parts(seed, customers, rots=True) for seed in range(6)]
    assert all(any(where.get("region") == "b" for where in parts) for parts in found)
