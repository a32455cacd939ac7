"""What init proposes to watch: columns of few texts with their rare values, else bands of the numbers that matter."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from undrift.app.segments import segments


def test_texts_of_few_values_come_first_and_rare_ones_are_kept_together() -> None:
    zone = ["north"] * 60 + ["south"] * 37 + ["isle"] * 2 + ["rock"]
    table = pa.table(
        {"zone": zone * 2, "name": [f"n{i}" for i in range(200)], "km": list(range(200)), "y": [0, 1] * 100}
    )
    found = segments(table, ["zone", "name", "km"], "y")
    assert found.columns == ("zone",)
    assert found.bands == {}
    assert found.rare == {}, "isle has its 2 %, and one rare value alone is no company"
    more = pa.table({"zone": ["a"] * 196 + ["b", "c", "d", "d"], "y": [0, 1] * 100})
    assert segments(more, ["zone"], "y").rare == {"zone": ("b", "c", "d")}


def test_of_numbers_alone_the_one_that_tells_most_and_one_unlike_it_are_cut_at_both_ends() -> None:
    rng = np.random.default_rng(3)
    size = rng.normal(size=1000)
    table = pa.table(
        {
            "noise": rng.normal(size=1000),
            "size": size,
            "size_again": size + rng.normal(0, 0.1, 1000),
            "age": np.where(rng.random(1000) < 0.02, np.nan, rng.normal(size=1000)),
            "flag": rng.integers(0, 2, 1000),
            "y": (size + 0.5 * rng.normal(size=1000) > 0).astype(int),
        }
    )
    found = segments(table, ["noise", "size", "size_again", "age", "flag"], "y")
    assert found.columns[0] == "size"
    assert found.columns[1] in ("noise", "age"), "neither its double, nor what has no ends"
    low, middle, high = found.bands["size"]
    assert (low, middle, high) == tuple(float(f"{cut:.4g}") for cut in np.quantile(size, [0.1, 0.5, 0.9]))
    texts = table.set_column(5, "y", pa.array(["yes" if y else "no" for y in table["y"].to_pylist()]))
    assert segments(texts, ["noise", "size"], "y") == segments(table, ["noise", "size"], "y")


def test_where_nothing_can_be_cut_nothing_is_proposed() -> None:
    table = pa.table({"flag": [0, 1] * 50, "gone": pa.nulls(100, pa.float64()), "y": [0, 1] * 50})
    assert segments(table, ["flag", "gone"], "y").columns == ()
