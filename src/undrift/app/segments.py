"""Which segments a new project watches: values of a few columns, bands of a number, rare values together.

Every rule here is a proposal that stands in the written declarations, where it can be overruled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from undrift.app.columns import is_number

__all__ = ["Segments", "segments"]

MOST_VALUES: Final = 20
RARE: Final = 0.02
"""Share of the rows below which a value is looked at together with others like it."""
CUTS: Final = (0.1, 0.5, 0.9)
"""Quantiles at which numbers are cut: both ends apart, and a median."""
ALIKE: Final = 0.7
"""Correlation of ranks from which a second number repeats the first."""


class Segments(NamedTuple):
    """Columns, the cuts of those that are numbers, and the values of others that are looked at together."""

    columns: tuple[str, ...]
    bands: dict[str, tuple[float, ...]]
    rare: dict[str, tuple[str, ...]]


def segments(table: pa.Table, inputs: Sequence[str], label: str) -> Segments:
    """Up to two columns by which a model may well be watched piece by piece.

    Text with 2 to 20 different values, with those values together that are each in less than 2 % of the rows; where
    there is none, the number that says most about the label and one unlike it, cut so that both ends are apart.
    """
    texts = [name for name in inputs if pa.types.is_string(table.schema.field(name).type)]
    texts = [name for name in texts if 2 <= len(table[name].drop_null().unique()) <= MOST_VALUES]
    if texts:
        return Segments(tuple(texts[:2]), {}, {name: found for name in texts[:2] if (found := _rare(table[name]))})
    bands = _banded(table, inputs, label) if label in table.column_names else {}
    return Segments(tuple(bands), bands, {})


def _rare(column: pa.ChunkedArray) -> tuple[str, ...]:
    """Values that are each in less than `RARE` of the rows; none where only one is."""
    counts = {each["values"]: each["counts"] for each in column.drop_null().value_counts().to_pylist()}
    found = tuple(sorted(name for name, n in counts.items() if n < RARE * len(column)))
    return found if len(found) > 1 else ()


def _banded(table: pa.Table, inputs: Sequence[str], label: str) -> dict[str, tuple[float, ...]]:
    """Cuts of the number that goes most with the label, and of the next one that does not just repeat the first."""
    ranks = {}
    for name in inputs:
        if is_number(table[name].type):
            values = np.asarray(pc.cast(table[name], pa.float64()).to_numpy(), dtype=np.float64)
            sound = values[np.isfinite(values)]
            cuts = tuple(float(f"{cut:.4g}") for cut in np.quantile(sound, CUTS)) if len(sound) else ()
            parts = np.bincount(np.searchsorted(cuts, sound, side="right"), minlength=len(CUTS) + 1) if cuts else [0]
            if len(set(cuts)) == len(CUTS) and min(parts) > RARE * len(sound):  # each band has rows of its own
                ranks[name] = (_ranked(np.where(np.isfinite(values), values, np.median(sound))), cuts)
    told = table[label]
    numbers = is_number(told.type) and not pa.types.is_decimal(told.type)
    goal = np.asarray(pc.cast(told, pa.float64()).to_numpy(), dtype=np.float64) if numbers else None
    held = np.ones(table.num_rows, bool) if goal is None else np.isfinite(goal)
    codes = [goal[held]] if goal is not None else _members(told)
    strength = {
        name: max(abs(_together(own[held], _ranked(code))) for code in codes) for name, (own, _) in ranks.items()
    }
    chosen: list[str] = []
    for name in sorted(ranks, key=lambda each: (-strength[each], each)):
        if all(abs(_together(ranks[name][0], ranks[other][0])) < ALIKE for other in chosen):
            chosen.append(name)
    return {name: ranks[name][1] for name in chosen[:2]}


def _members(labels: pa.ChunkedArray) -> list[Any]:
    """For each class, whether each row is of it."""
    codes = labels.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return [(codes == code).astype(np.float64) for code in range(int(codes.max()) + 1)]


def _ranked(values: Any) -> Any:
    """The rank of each value, equal ones alike."""
    from scipy.stats import rankdata

    return rankdata(values)


def _together(x: Any, y: Any) -> float:
    """Correlation of ranks, 0 where one does not vary."""
    spread = float(np.std(x) * np.std(y))
    return float(np.mean((x - np.mean(x)) * (y - np.mean(y)))) / spread if spread else 0.0
