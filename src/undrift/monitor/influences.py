"""What the answers to a sample of captured requests rest on: the model is asked again, within a bound of rows and time.

The same contributions as in importance.json of the bundle, so that both compare. What they mean is judged in
attribution.py.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from undrift.develop.bundle import Interface, read_manifest
from undrift.develop.importance import Background, contributions_of
from undrift.develop.rows import table_columns
from undrift.errors import UndriftError
from undrift.inference.explain import raw_of
from undrift.inference.predictor import load
from undrift.monitor.attribution import Influences
from undrift.monitor.frames import columns_of, micros
from undrift.monitor.skew import sampled
from undrift.settings import TrustSettings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["influences_of"]


def influences_of(
    folder: Path, interface: Interface, trust: TrustSettings, rows: pa.Table, *, most: int, seconds: float
) -> Influences:
    """What the answers to a sample of captured requests rest on, explained as importance.json of the bundle was made.

    Parameters
    ----------
    folder, interface : of the bundle that answered the rows.
    trust : what may be opened.
    rows : captured predictions of one revision.
    most, seconds : how many are explained, those with the least hashes of their ids, and how long that may take.
    """
    import pyarrow as pa

    hidden = sorted({given.name for given in interface.inputs} & interface.personal)
    if hidden:
        return Influences(problem=f"{', '.join(hidden)} are personal and not captured: answers cannot be explained")
    background = Background.read(folder)
    manifest = read_manifest(folder, verify=False)
    if background is None or manifest.native == "upstream":
        where = "the model runs on another server" if background else "the bundle keeps no background rows"
        return Influences(problem=f"{where}: its answers are not explained")
    answered = rows.filter(rows["score"].is_valid())
    picked = answered.take(pa.array(sampled(answered["prediction_id"].to_pylist(), most)))
    names = tuple(given.name for given in interface.inputs)
    if not picked.num_rows:
        return Influences(names=names)
    found = columns_of(picked)
    table = pa.table({name: found.get(name, pa.nulls(picked.num_rows)) for name in names})
    rng, until = np.random.default_rng(0), time.monotonic() + seconds
    places = rng.permutation(picked.num_rows)  # where the time ends, those done are of all days
    try:
        columns = table_columns(interface.inputs, table)
        raw = raw_of(load(folder, trust))
        sizes = contributions_of(
            interface, raw, background, columns, places, rng, go_on=lambda: time.monotonic() < until
        )
    except UndriftError as error:
        return Influences(problem=f"the answers could not be explained: {error.message}")
    times = micros(picked, "event_time")[places[: len(sizes)]]
    return Influences(names=names, sizes=sizes, times=times, wanted=picked.num_rows)
