"""A revision that is loaded: what decodes its requests, looks up and computes its features, and runs its model.

Which revision answers whom stands in endpoint.py, how its model is loaded in predictor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from undrift.data.decoder import Decoder
from undrift.data.features import compute, entity_key
from undrift.develop.bundle import Interface, Manifest
from undrift.errors import PredictionError, RequestError, StateError
from undrift.inference.batcher import Batcher
from undrift.inference.cache import AnswerCache
from undrift.inference.router import Placed
from undrift.state.ports import Online

__all__ = ["Prepared", "Revision"]

Values = dict[str, Any]


class Prepared(msgspec.Struct, frozen=True):
    """Rows on their way to the model: its inputs by column, features by row, and the views that did not answer."""

    columns: Mapping[str, Sequence[Any]]
    features: list[Values]
    times: list[dict[str, int | None]]
    absent: list[str]


class Revision:
    """A revision that is loaded and ready: what decodes its requests, computes its features and runs its model.

    ``predict`` asks the model, or remembers what it answered to equal inputs: the last ``cache_rows`` rows, 0 for none.
    """

    def __init__(
        self,
        placed: Placed,
        manifest: Manifest,
        functions: Mapping[str, Callable[..., Any]],
        batcher: Batcher,
        cache_rows: int = 0,
    ) -> None:
        self.placed, self.manifest, self.batcher = placed, manifest, batcher
        self.interface: Interface = manifest.interface
        self.decoder = Decoder(self.interface.contract)
        self.personal = self.interface.personal
        self.predict = AnswerCache(cache_rows, batcher.predict).predict if cache_rows else batcher.predict
        self._inputs = [given.name for given in self.interface.inputs]
        self._of_row = itemgetter(*self._inputs) if self._inputs else lambda row: ()
        self._functions = [(t, functions[t.name]) for t in self.interface.transforms]

    def prepare(self, rows: Sequence[Values], at: Sequence[int], online: Online | None) -> Prepared:
        """Features of the rows, as columns for the model and by row for the record.

        Raises
        ------
        PredictionError : a transform failed.
        """
        features: list[Values] = [{} for _ in rows]
        times: list[dict[str, int | None]] = [{} for _ in rows]
        if self._inputs and not self.interface.views and not self._functions:
            return Prepared(self._columns(rows), features, times, [])
        absent = self._look_up(rows, at, online, features, times)
        for transform, function in self._functions:
            for row, found in zip(rows, features, strict=True):
                found.update(compute(transform, function, {**row, **found}))
        pairs = list(zip(rows, features, strict=True))
        columns = {name: [f[name] if name in f else r.get(name) for r, f in pairs] for name in self._inputs}
        return Prepared(columns, features, times, absent)

    def _columns(self, rows: Sequence[Values]) -> dict[str, Sequence[Any]]:
        """The inputs, where all are fields of the contract: a decoded row has every one of them."""
        if len(rows) == 1:
            row = rows[0]
            return {name: (row[name],) for name in self._inputs}
        if len(self._inputs) == 1:
            return {self._inputs[0]: [row[self._inputs[0]] for row in rows]}
        return dict(zip(self._inputs, zip(*map(self._of_row, rows), strict=True), strict=True))

    def _look_up(
        self,
        rows: Sequence[Values],
        at: Sequence[int],
        online: Online | None,
        features: list[Values],
        times: list[dict[str, int | None]],
    ) -> list[str]:
        """Fill in the values of views, absent where there is none or it is older than its time to live."""
        absent: list[str] = []
        for view in self.interface.views:
            names = [output.name for output in view.outputs]
            keys = [entity_key(row.get(view.entity)) for row in rows]
            entities = [key for key in dict.fromkeys(keys) if key is not None]
            stored: dict[str, tuple[int, Values] | None] = {}
            try:
                if online is None:
                    raise StateError("there is no online store")
                stored = dict(zip(entities, online.get(view.key, entities), strict=True))
            except StateError:  # the answer without the features beats no answer; the record says so
                absent.append(f"view {view.name} unavailable")
            for key, moment, found, known in zip(keys, at, features, times, strict=True):
                held = stored.get(key) if key is not None else None
                if held is None or not view.fresh(held[0], moment):
                    found.update(dict.fromkeys(names))
                    known[view.name] = None
                else:
                    found.update((name, held[1].get(name)) for name in names)
                    known[view.name] = held[0]
        return absent

    def decode_again(self, rows: Sequence[Values]) -> list[Values]:
        """Rows decoded by one contract, checked by this one; what breaks it is this revision's failure.

        Raises
        ------
        PredictionError : they do not meet its contract.
        """
        wanted = {f.name for f in self.interface.contract.fields}
        try:
            return [
                self.decoder.row(msgspec.to_builtins({k: v for k, v in row.items() if k in wanted})) for row in rows
            ]
        except RequestError as error:
            name = self.placed.revision
            raise PredictionError(f"the request does not meet the contract of {name}: {error}") from error
