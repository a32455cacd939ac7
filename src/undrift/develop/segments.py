"""Segments of rows as texts: a value of a field, a band of a number, rare values together, or of two fields at once.

The one place that says which segment a row is in, for gates, rollouts, shadows, monitors and profiles alike.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from undrift.develop.bundle import Interface

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["AND", "TOGETHER", "band_names", "fields_of", "segment_texts"]

TOGETHER: Final = "together"
"""The value of the segment ``rare carrier``, which holds all rows with a rare carrier."""
AND: Final = " & "
"""Between the fields of a segment of several, and between their values: ``carrier & origin`` is ``UA & EWR``."""


def fields_of(segments: Iterable[str], known: Container[str] = ()) -> tuple[str, ...]:
    """The fields that segments are made of, each once.

    Parameters
    ----------
    known : names of fields, of which one may look like a segment of several.

    Examples
    --------
    >>> fields_of(("carrier", "carrier & origin"))
    ('carrier', 'origin')
    """
    parts = [part for name in segments for part in ((name,) if name in known else name.split(AND))]
    return tuple(dict.fromkeys(parts))


def segment_texts(interface: Interface, columns: dict[str, Any], only: Sequence[str] | None = None) -> Iterator[
    tuple[str, pa.Array]
]:  # fmt: skip
    """Each segment's name, and the text of each row in it; null where a row has no value, or is not rare.

    Parameters
    ----------
    columns : Arrow columns by name; segments of fields that are not among them are left out.
    only : names of segments; those that the interface declares if None.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from undrift.data.contract import Contract, Field
    >>> contract = Contract(name="m", fields=(Field(name="age", type="number"), Field(name="town", type="string")))
    >>> asked = Interface(
    ...     model="m", task="binary", contract=contract, label="y", segments=("age", "town", "age & town"),
    ...     bands={"age": (18.0, 65.0)}, rare={"town": ("Uig",)},
    ... )
    >>> rows = {"age": pa.array([7, 18, 80]), "town": pa.array(["Uig", "York", None])}
    >>> for name, texts in segment_texts(asked, rows):
    ...     print(name, texts.to_pylist())
    age ['..18', '18..65', '65..']
    town ['Uig', 'York', None]
    rare town ['together', None, None]
    age & town ['..18 & Uig', '18..65 & York', None]
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in interface.segments if only is None else only:
        fields = fields_of((name,), columns)
        if any(field not in columns for field in fields):
            continue
        each = [_texts(interface, field, columns[field]) for field in fields]
        texts = each[0] if len(each) == 1 else pc.binary_join_element_wise(*each, AND)
        yield name, texts
        if name in interface.rare:
            rare = pc.is_in(texts, value_set=pa.array(interface.rare[name], pa.string()))
            yield f"rare {name}", pc.if_else(rare, pa.scalar(TOGETHER), pa.scalar(None, pa.string()))


def _texts(interface: Interface, field: str, values: Any) -> pa.Array:
    """Values of a field as texts, numbers with bands as the band they are in."""
    import pyarrow as pa

    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if field not in interface.bands:
        return values.cast(pa.string())
    cuts = interface.bands[field]
    numbers = np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    known = np.isfinite(numbers)
    places = np.searchsorted(np.asarray(cuts), np.where(known, numbers, 0.0), side="right")
    return pa.array(band_names(cuts)).take(pa.array(places, mask=~known))


def band_names(cuts: Sequence[float]) -> list[str]:
    """The bands between ascending cuts as texts; a cut belongs to the band above it.

    >>> band_names([0.5, 20])
    ['..0.5', '0.5..20', '20..']
    """
    return [f"{a}..{b}" for a, b in pairwise(["", *(f"{cut:.6g}" for cut in cuts), ""])]
