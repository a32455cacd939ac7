"""Rows at a model's own thresholds: where a compiled form that rounds otherwise falls to the other side.

Found by bisection on the model itself, so that any model with jumps gives its own, behind whatever preprocessing:
between two values of an input with different answers, the half with the larger change is kept until the two are
neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from undrift.errors import PredictionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["boundary_rows"]

#: The least jump that counts, as a share of the spread of the answers: what changes less is no threshold.
JUMP: Final = 1e-5
ROWS: Final = 12
COLUMNS: Final = 24
#: Halvings: neighbouring float32 are reached from any distance within 40 (their 24 digits and some exponents); for
#: double precision 42 end at 2e-13 of the distance, a millionth of a float32 step and far above double rounding.
_HALVINGS: Final = {True: 40, False: 42}


def boundary_rows(
    predict: Callable[[Mapping[str, Any]], Floats], columns: Mapping[str, Any], names: Sequence[str], *, single: bool
) -> dict[str, Any]:
    """Pairs of rows on both sides of thresholds; empty if there are none to be found.

    Parameters
    ----------
    columns : encoded columns of rows the model answers.
    names : the inputs to look along, those with continuous values.
    single : whether values are rounded to float32 before the model sees them.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    n = len(next(iter(columns.values())))
    rows = np.unique(np.linspace(0, n - 1, min(ROWS, n)).astype(int))
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(COLUMNS, len(names))).astype(int))]
    along = np.repeat(np.arange(len(chosen)), len(rows))
    whole = {name: np.tile(np.asarray(values)[rows], len(chosen)) for name, values in columns.items()}
    if not chosen:
        return {}

    def grid(values: Any) -> Any:
        return values.astype(np.float32).astype(np.float64) if single else values

    def at(values: Any) -> dict[str, Any]:
        changed = dict(whole)
        for place, name in enumerate(chosen):
            changed[name] = np.where(along == place, values, np.asarray(whole[name], dtype=np.float64))
        return changed

    def ask(values: Any) -> Any:
        with threadpool_limits(1):  # threads for few rows wait for each other
            found = np.asarray(predict(at(values)))
        return found.reshape(len(values), -1)

    low = grid(np.concatenate([np.asarray(columns[c], dtype=np.float64)[rows] for c in chosen]))
    high = grid(np.concatenate([np.roll(np.asarray(columns[c], dtype=np.float64), 1 + n // 3)[rows] for c in chosen]))
    try:
        below, above = ask(low), ask(high)
        spread = float(np.std(np.concatenate([below, above])))
        for _ in range(_HALVINGS[single]):
            middle = grid(low + (high - low) / 2)
            between = ask(middle)
            first = np.abs(between - below).max(axis=1) >= np.abs(above - between).max(axis=1)
            low, high = np.where(first, low, middle), np.where(first, middle, high)
            below, above = np.where(first[:, None], below, between), np.where(first[:, None], between, above)
    except PredictionError:
        return {}
    kept = np.isfinite(low) & np.isfinite(high) & (np.abs(above - below).max(axis=1) > JUMP * spread)
    if not kept.any():
        return {}
    one, two = at(low), at(high)
    return {name: np.concatenate([np.asarray(one[name])[kept], np.asarray(two[name])[kept]]) for name in columns}
