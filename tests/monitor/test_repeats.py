"""Rows about the same thing: what they share is measured, expected, and what is left of it is paid for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from undrift.monitor.repeats import Repeats, same_rows, same_values


def test_equal_rows_have_one_code_and_no_others() -> None:
    columns = {
        "a": pa.chunked_array([[1.0, 1.0, 2.0, None, None, 1.0]]),
        "b": pa.chunked_array([["x", "x", "x", "y", "y", None]]),
    }
    codes = same_rows(columns)
    assert codes[0] == codes[1]
    assert codes[3] == codes[4]
    assert len(set(codes.tolist())) == 4
    swapped = {"a": pa.chunked_array([["x", "y"]]), "b": pa.chunked_array([["y", "x"]])}
    assert len(set(same_rows(swapped).tolist())) == 2, "which column a value stands in counts"
    assert len(set(same_values(pa.chunked_array([["x", None, ""]])).tolist())) == 3
    assert len(same_rows({})) == 0


def test_rows_that_are_all_different_need_none_of_it() -> None:
    assert Repeats.measured(np.arange(50), np.ones(50), np.ones(50, bool)) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_the_error_of_a_difference_is_what_a_simulation_shows(share: float) -> None:
    """40 things, 20 of their rows in the past, 5 now, one half against the other: 400 worlds."""
    things, before, now = 40, 20, 5
    who = np.tile(np.arange(things), before + now)
    past = np.arange(len(who)) < things * before
    half = who[~past] < things // 2
    gaps, told = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        loss = np.sqrt(share) * rng.normal(size=things)[who] + np.sqrt(1 - share) * rng.normal(size=len(who))
        repeats = Repeats.measured(who, loss, past)
        assert repeats is not None
        rest = (loss - repeats.usual)[~past]
        gaps.append(rest[half].mean() - rest[~half].mean())
        costs = [repeats.take(~past).cost(rows) for rows in (half, ~half)]
        own = rest[half].var() / half.sum() + rest[~half].var() / (~half).sum()
        told.append(own + sum(more for more, _ in costs))
        assert all(0 < worth <= half.sum() for _, worth in costs)
    assert np.mean(told) == pytest.approx(np.var(gaps), rel=0.3)


def test_things_without_a_past_are_worth_one_row_each() -> None:
    who = np.repeat(np.arange(30), 10)
    rng = np.random.default_rng(2)
    repeats = Repeats.measured(who, rng.normal(size=30)[who], np.zeros(300, bool))
    assert repeats is not None
    assert repeats.cost(np.ones(300, bool))[1] == pytest.approx(30)
    assert repeats.cost(who < 3)[1] == pytest.approx(3)
