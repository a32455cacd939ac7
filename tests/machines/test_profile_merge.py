"""Profiles are a monoid: in whatever order and grouping parts are added, the sum is the profile of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.data.profile import ColumnProfile, Profile

SCHEMA = pa.schema([("x", pa.float64()), ("n", pa.int64()), ("s", pa.string()), ("b", pa.bool_())])
rows = st.lists(
    st.fixed_dictionaries(
        {
            "x": st.none() | st.floats(-1e6, 1e6) | st.sampled_from([float("nan"), float("inf"), 0.0, -0.0]),
            "n": st.none() | st.integers(-5, 5),
            "s": st.none() | st.sampled_from(["a", "b", "c", ""]),
            "b": st.none() | st.booleans(),
        }
    ),
    max_size=12,
)
REFERENCE = Profile.of({"x": np.linspace(-1e6, 1e6, 50), "n": [-2, 0, 2, 0, 1] * 10, "s": ["a"] * 50, "b": [True] * 50})


def profile(part: list[dict[str, Any]]) -> Profile:
    return Profile.of(pa.Table.from_pylist(part, SCHEMA), edges_from=REFERENCE)


def same(a: Profile, b: Profile) -> None:
    """All integers, extremes and (so few values) quantiles are the same; moments within rounding."""
    assert a.n == b.n
    assert list(a.columns) == list(b.columns) or not (a.columns and b.columns)
    for name in a.columns:
        mine, theirs = a.columns[name], b.columns[name]
        for field in ColumnProfile.__struct_fields__:
            if field != "moments":
                assert getattr(mine, field) == getattr(theirs, field), (name, field)
        assert mine.moments.n == theirs.moments.n
        assert mine.moments.mean == pytest.approx(theirs.moments.mean, rel=1e-9, abs=1e-6)
        assert mine.moments.m2 == pytest.approx(theirs.moments.m2, rel=1e-9, abs=1e-3)


@given(rows, rows, rows)
def test_grouping_does_not_matter(a: Any, b: Any, c: Any) -> None:
    same((profile(a) + profile(b)) + profile(c), profile(a) + (profile(b) + profile(c)))


@given(rows, rows)
def test_order_does_not_matter(a: Any, b: Any) -> None:
    same(profile(a) + profile(b), profile(b) + profile(a))


@given(st.lists(rows, min_size=1, max_size=5))
def test_the_sum_is_the_profile_of_the_whole(parts: list[Any]) -> None:
    same(Profile.total([profile(part) for part in parts]), profile([row for part in parts for row in part]))


@given(rows)
def test_nothing_added_changes_nothing(a: Any) -> None:
    same(profile(a) + Profile(), profile(a))
    same(Profile() + profile(a), profile(a))


def test_large_parts_agree_within_the_error_of_the_sketch() -> None:
    x = np.random.default_rng(11).normal(size=40_000)
    parts = [Profile.of({"x": part}, edges_from=REFERENCE) for part in np.array_split(x, 64)]
    one_by_one = Profile.total(parts).columns["x"]
    pairs = parts
    while len(pairs) > 1:
        pairs = [a + b for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    in_pairs = pairs[0].columns["x"]
    assert one_by_one.counts == in_pairs.counts == Profile.of({"x": x}, edges_from=REFERENCE).columns["x"].counts
    for column in (one_by_one, in_pairs):
        ranks = (x[:, None] < column.quantiles([0.05, 0.5, 0.95])).mean(axis=0)
        assert np.abs(ranks - [0.05, 0.5, 0.95]).max() < 0.02
