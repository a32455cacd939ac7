"""How far two profiles are apart, column by column, in the distance that is asked for.

Numbers are compared on the reference's histogram edges (exact there) or by their quantile sketches, texts and booleans
by the reference's frequent values. Whether a distance matters is judged in monitor/, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from undrift.data.profile import ColumnProfile, Profile, each_column
from undrift.data.tally import count_cells, tally
from undrift.stats import distance as distances
from undrift.stats.distance import Distance

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "MEASURES",
    "MOST_CELLS",
    "Measure",
    "between",
    "cell_counts",
    "difference",
    "differences",
    "parquet_differences",
    "usual_measure",
]

Floats = NDArray[np.float64]
Measure = Literal[
    "kolmogorov_smirnov", "wasserstein", "psi", "jensen_shannon", "total_variation", "l_infinity", "chi_square"
]
MEASURES: Final[tuple[str, ...]] = get_args(Measure)
MOST_CELLS: Final = 20
"""Categories that are told apart; all others count as one."""

_OF_CELLS: Final[Mapping[str, Callable[..., Distance]]] = {
    "psi": distances.psi,
    "jensen_shannon": distances.jensen_shannon,
    "total_variation": distances.total_variation,
    "l_infinity": distances.l_infinity,
    "chi_square": distances.chi_square,
}


def usual_measure(column: ColumnProfile) -> Measure:
    """Kolmogorov-Smirnov where values have an order, total variation else: both are shares of rows in [0, 1]."""
    return "total_variation" if column.kind in ("string", "boolean") else "kolmogorov_smirnov"


def cell_counts(reference: ColumnProfile, current: ColumnProfile) -> tuple[Floats, Floats]:
    """The rows of both in the cells of the reference: its histogram bins, or its frequent values and all others."""
    if reference.kind in ("string", "boolean"):
        names = sorted(name for name, _ in reference.top[:MOST_CELLS])
        return reference.shares(names), current.shares(names)
    return reference.histogram(), current.histogram(reference.edges)


def between(
    reference: Floats, current: Floats, measure: str, *, level: float = 0.95, design_effect: float = 1.0
) -> Distance:
    """The distance of two counts on common cells; ``design_effect`` is how many rows count as one."""
    before, now = reference / design_effect, current / design_effect
    if measure in _OF_CELLS:
        return _OF_CELLS[measure](before, now, level=level)
    places = np.arange(len(before), dtype=np.float64)
    if measure == "wasserstein":
        return distances.wasserstein(places, places, before, now, level=level)
    return distances.kolmogorov_smirnov(places, places, before, now, level=level)


def difference(
    reference: ColumnProfile, current: ColumnProfile, measure: str = "", *, level: float = 0.95
) -> Distance | None:
    """The distance of one column, or None where either side has no values.

    Parameters
    ----------
    measure : one of `MEASURES`; the usual one of the column's kind if empty. ``wasserstein`` of numbers is taken
        between quantile sketches and has the column's unit; of texts it has no meaning and the usual one is taken.

    >>> import numpy as np
    >>> before = Profile.of({"x": np.arange(1000.0)})
    >>> now = Profile.of({"x": np.arange(1000.0) + 100}, edges_from=before)
    >>> round(difference(before.columns["x"], now.columns["x"]).value, 12)
    0.1
    """
    if not reference.values or not current.values or reference.kind != current.kind:
        return None
    asked = measure or usual_measure(reference)
    ordered = reference.kind not in ("string", "boolean")
    if asked == "wasserstein" and ordered:
        before, weights = reference.sketch.weighted()
        now, others = current.sketch.weighted()
        return distances.wasserstein(before, now, weights, others, level=level)
    if asked in ("wasserstein", "kolmogorov_smirnov") and not ordered:
        asked = "total_variation"
    return between(*cell_counts(reference, current), asked, level=level)


def differences(
    reference: Profile, current: Profile, measure: str = "", *, level: float = 0.95
) -> dict[str, Distance | None]:
    """`difference` of each column that both have."""
    shared = [name for name in reference.columns if name in current.columns]
    return {name: difference(reference.columns[name], current.columns[name], measure, level=level) for name in shared}


def parquet_differences(
    reference: Profile, path: str | Path, measure: str = "", *, level: float = 0.95
) -> dict[str, Distance | None]:
    """`differences` of a Parquet file from a reference, without making the profile of the file.

    Columns that both have are read side by side, each by itself, a quarter of a million rows at a time, and counted in
    the cells of the reference; the distances are those that profiles give. ``wasserstein`` of numbers needs their order
    and takes the time of a profile.

    Raises
    ------
    DataError : a column that is no plain value, or a file that is no Parquet.
    """

    def one(name: str, parts: Iterator[pa.ChunkedArray]) -> Distance | None:
        known = reference.columns[name]
        total: ColumnProfile | None = None
        for part in parts:
            plain = (measure or usual_measure(known)) != "wasserstein"
            found = count_cells(name, part, known.edges) if plain else tally(name, part, known.edges)
            total = found if total is None else total + found
        return None if total is None else difference(known, total, measure, level=level)

    return each_column(path, one, reference.columns)[1]
