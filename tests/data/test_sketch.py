"""Errors of ranks are measured on streams whose true quantiles are known, in several orders and groupings."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.data.sketch import DistinctValues, FrequentValues, QuantileSketch

RANKS = np.linspace(0.01, 0.99, 99)


def rank_error(sketch: QuantileSketch, x: np.ndarray) -> float:
    """Largest distance between a rank asked for and the ranks that the answer really has."""
    answers, ordered = sketch.quantiles(RANKS), np.sort(x)
    low, high = (np.searchsorted(ordered, answers, side=side) / x.size for side in ("left", "right"))
    return float(np.maximum(np.maximum(low - RANKS, RANKS - high), 0).max())


@pytest.mark.parametrize("pieces", [1, 10, 1000])
@pytest.mark.parametrize("order", ["shuffled", "ascending", "two halves apart"])
@pytest.mark.parametrize("values", ["normal", "heavy tail", "few values"])
def test_ranks_are_off_by_less_than_two_percent(pieces: int, order: str, values: str) -> None:
    rng = np.random.default_rng(7)
    x = {
        "normal": lambda: rng.normal(1010, 8, 60_000),
        "heavy tail": lambda: rng.pareto(1.0, 60_000),
        "few values": lambda: rng.integers(0, 5, 60_000).astype(float),
    }[values]()
    if order != "shuffled":
        x = np.sort(x)
    if order == "two halves apart":
        x = np.concatenate([x[30_000:], x[:30_000]])
    sketch = reduce(add, [QuantileSketch.of(part) for part in np.array_split(x, pieces)])
    assert sketch.n == x.size
    assert sketch.weighted()[1].sum() == x.size
    assert rank_error(sketch, x) < 0.02
    assert sum(map(len, sketch.levels)) < 6_000


def test_few_values_are_kept_as_they_are() -> None:
    sketch = QuantileSketch.of([3.0, 1.0, 2.0]) + QuantileSketch.of([4.0])
    assert sketch.quantiles([0.0, 0.25, 0.26, 0.5, 1.0]).tolist() == [1.0, 1.0, 2.0, 2.0, 4.0]
    assert sketch.below([1.0, 2.5, 9.0]).tolist() == [0.0, 2.0, 4.0]
    assert np.isnan(QuantileSketch().quantiles([0.5])).all()
    assert QuantileSketch().below([1.0]).tolist() == [0.0]


def test_equal_data_give_equal_sketches() -> None:
    x = np.random.default_rng(0).normal(size=50_000)
    assert QuantileSketch.of(x) == QuantileSketch.of(x[::-1])
    parts = [QuantileSketch.of(part) for part in np.array_split(x, 30)]
    assert reduce(add, parts) == reduce(add, parts)


counts = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 20))


@given(st.lists(counts, min_size=1, max_size=6), st.integers(1, 12))
def test_true_counts_lie_within_the_stated_bounds(parts: list[dict[str, int]], capacity: int) -> None:
    truth: dict[str, int] = {}
    for part in parts:
        for value, count in part.items():
            truth[value] = truth.get(value, 0) + count
    found = reduce(add, [FrequentValues.of(part, capacity) for part in parts])
    assert len(found.counts) <= capacity
    assert found.missed <= sum(truth.values()) / (capacity + 1)
    for value, count in truth.items():
        assert found.counts.get(value, 0) <= count <= found.counts.get(value, 0) + found.missed
    if len(truth) <= capacity:
        assert (found.counts, found.missed) == (truth, 0)


def test_few_different_values_are_counted_exactly_and_many_within_four_standard_errors() -> None:
    assert DistinctValues.of(np.arange(255.0)).estimate == 255.0
    for n in (1_000, 30_000, 400_000):
        for seed in range(3):
            x = np.random.default_rng(seed).normal(size=n)
            assert DistinctValues.of(np.concatenate([x, x])).estimate == pytest.approx(n, rel=4 * 0.063)
            texts = pa.array([f"customer {seed}/{i}" for i in range(n // 10)])
            assert DistinctValues.of_texts(texts).estimate == pytest.approx(n / 10, rel=4 * 0.063)


def test_different_values_add_up_exactly_in_any_order() -> None:
    x = np.random.default_rng(2).integers(0, 5_000, 20_000).astype(float)
    parts = [DistinctValues.of(part) for part in np.array_split(x, 7)]
    forward, backward = parts[0], parts[-1]
    for part in parts[1:]:
        forward += part
    for part in parts[-2::-1]:
        backward += part
    assert forward == backward == DistinctValues.of(x)


def test_texts_hash_by_what_they_say_and_not_where_they_stand() -> None:
    texts = pa.array(["", "a", "ab", "ba", "aa", "ä", "", "a"])
    assert DistinctValues.of_texts(texts).estimate == 6.0
    assert DistinctValues.of_texts(texts.slice(2, 3)) == DistinctValues.of_texts(pa.array(["ab", "ba", "aa"]))
