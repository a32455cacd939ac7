"""Features, defined once: where they come from, how they are computed, how long they stay true.

A FeatureView takes values from a source of rows, as they are or aggregated over a window; a Transform computes values
from the request itself with one Python function used in training and serving. Offline computation stands in
offline.py, the store of latest values in online.py.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from undrift.data.contract import Contract, FieldType

__all__ = ["Aggregate", "Feature", "FeatureView", "Source", "Transform"]


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feed of rows that arrive as time goes: weather reports, arrivals, clicks.

    ``time`` is the column saying when it happened; ``known`` the column saying when it could be known (the same as
    ``time`` if empty). Point-in-time joins use ``known``: nothing is used before it was known.
    """

    name: str
    contract: Contract
    time: str
    known: str = ""


class Feature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One value of a view or transform, as the model sees it."""

    name: str
    type: FieldType = "number"


class Aggregate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feature aggregated over the rows of one entity known within ``window`` before the hop."""

    name: str
    function: Literal["mean", "sum", "count", "min", "max"]
    column: str = ""
    window: str = "7d"


class FeatureView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Values looked up by an entity key.

    ``entity`` is the column holding the key, in the source and in the request. Without ``aggregates`` the latest
    source row known at prediction time counts, and is pushed online as it arrives. With them, the value at time t is
    computed over the rows known in ``(h - window, h]`` where h is the last multiple of ``hop`` (UTC) at or before t;
    the worker materialises it at every hop. Older than ``ttl``, a value is absent (null), offline and online alike.
    """

    name: str
    source: str
    entity: str
    features: tuple[Feature, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    hop: str = "1d"
    ttl: str = "7d"

    @property
    def outputs(self) -> tuple[Feature, ...]:
        """What the view gives, in order: the features, or one number per aggregate."""
        return self.features or tuple(Feature(name=a.name) for a in self.aggregates)


class Transform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Values computed from the request row by one Python function, the same in training and serving.

    ``function`` is ``module:name``, the module being one file of the project that imports only the standard library;
    it travels with the bundle. It takes a mapping of the ``inputs`` and returns a mapping with the ``outputs``.
    """

    name: str
    function: str
    inputs: tuple[str, ...]
    outputs: tuple[Feature, ...]
