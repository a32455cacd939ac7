"""Why one answer came out so: contributions of the model's inputs that add up to it, and the foremost in words.

The method is the exact one where the model as trained has one (attribution.py), else Shapley values by sampling, or
LIME where that is asked for (stats/shapley.py). Explained is the form that serves, over the model's inputs: request
fields, looked-up and computed features. Processes, deadlines on the wire and HTTP stand in inference and serving.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.develop.attribution import Additive, Attributor, link
from undrift.develop.bundle import MODEL_FILES, Input, Manifest
from undrift.develop.explanation import METHODS, Contribution, Explanation, Method, Scale
from undrift.develop.importance import Background, Columns, Raw, ask_mixtures, group_of, target_of
from undrift.develop.rows import encode, native_rows
from undrift.develop.trust import open_model
from undrift.errors import InexactError, MissingExtraError, ModelError, RequestError
from undrift.settings import TrustSettings
from undrift.stats.shapley import local_model, shapley

__all__ = ["Explainer"]

Floats = NDArray[np.float64]

_SAMPLED: Final = 1e-6
_SERVED: Final = 1e-4
_REASONS: Final = 3
_ROUNDS: Final = 2
_LIME_SAMPLES: Final = 5000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Parts(NamedTuple):
    method: Method
    scale: Scale
    base: float
    output: float
    values: Floats
    errors: Floats
    tolerance: float | None
    coarse: bool
    notes: tuple[str, ...]


class Explainer:
    """Explains answers of one bundle.

    Parameters
    ----------
    folder, manifest : the bundle.
    raw : the form that serves, as a function of encoded columns.
    trust : what may be opened, for the model as it was trained.
    """

    def __init__(self, folder: Path, manifest: Manifest, raw: Raw, trust: TrustSettings) -> None:
        self.manifest, self._raw, self._folder, self._trust = manifest, raw, folder, trust
        self._background = Background.read(folder)
        self._groups = group_of(manifest.interface)
        self._exact: Attributor | None = None
        self.inexact = ""
        """Why no exact method applies; empty if one does."""
        try:
            self._exact = self._attributor()
        except (ModelError, MissingExtraError) as error:
            self.inexact = error.message

    def explain(
        self,
        columns: Mapping[str, Sequence[Any]],
        *,
        method: str = "auto",
        label: str = "",
        seed: int = 0,
        left: Callable[[], float] = lambda: math.inf,
    ) -> list[Explanation]:
        """Explain rows given as one list per input, absent values None.

        Parameters
        ----------
        method : one of `METHODS`; ``auto`` is ``exact`` where that applies, else ``permutation``.
        label : the class to explain, where there are several; the one answered if empty.
        left : seconds that may still be taken; sampling ends when its row's share of them is used.

        Raises
        ------
        RequestError : the method is not known or does not apply, or no such class.
        PredictionError : the model refuses the row, or mixtures of it with the background.
        """
        interface = self.manifest.interface
        if method not in METHODS:
            raise RequestError(f"one of {', '.join(METHODS)} was expected, not {method[:40]!r}", path="$.method")
        if label and label not in (interface.classes if interface.task == "multiclass" else interface.classes[1:]):
            known = ", ".join(interface.classes if interface.task == "multiclass" else interface.classes[1:])
            raise RequestError(f"one of {known or 'no class'} was expected, not {label[:40]!r}", path="$.label")
        encoded: dict[str, Any] = {
            i.name: np.asarray(encode(columns[i.name], i.type), dtype=object if i.type == "string" else np.float64)
            for i in interface.inputs
        }
        served = self._raw(encoded)
        additive, why = None, self.inexact
        if method in ("auto", "exact") and self._exact is not None:
            try:
                additive = self._exact(native_rows(self.manifest, encoded))
            except InexactError as error:
                why = error.message
        if method == "exact" and additive is None:
            raise RequestError(f"no exact method applies: {why}", path="$.method", hint="Ask for `permutation`.")
        n = len(served)
        found = []
        for place in range(n):
            target = None if interface.task == "regression" else target_of(interface, served[place], label)
            if additive is not None and self._exact is not None:
                parts = self._from_additive(additive, self._exact.method, place, target)
            else:
                row = {name: values[place : place + 1] for name, values in encoded.items()}
                go_on = _until(left, n - place)
                parts = self._sampled(row, target, "lime" if method == "lime" else "permutation", seed, go_on)
                if method == "auto":
                    parts = parts._replace(notes=(f"no exact method applies: {why}", *parts.notes))
            score = float(served[place] if target is None else served[place, target])
            found.append(self._told(parts, {name: v[place] for name, v in encoded.items()}, target, score))
        return found

    def _attributor(self) -> Attributor:
        manifest = self.manifest
        name = MODEL_FILES.get(manifest.native, "")
        if manifest.native == "onnx" or name not in manifest.files:
            raise InexactError("the bundle holds no model but the compiled one")
        model = open_model(self._folder / name, manifest.native, self._trust)
        inputs = manifest.interface.inputs
        kept: Any = None if self._background is None else self._background.encoded(inputs)
        rows = None if kept is None else native_rows(manifest, kept)
        return Attributor(model, manifest.interface.task, len(inputs), rows)

    def _from_additive(
        self, additive: Additive, method: Literal["tree", "linear"], place: int, target: int | None
    ) -> _Parts:
        base, values = additive.base, additive.values[place]
        column, sign = 0, 1.0
        if target is not None and len(base) > 1:
            names = self.manifest.outputs or self.manifest.interface.classes
            column = names.index(self.manifest.interface.classes[target])
        elif target is not None and self.manifest.outputs[:1] == (self.manifest.interface.classes[target],):
            sign = -1.0  # the model's second class is the negative one here
        scale, total = additive.scale, base + values.sum(axis=0)
        start = float(base[column]) * sign
        output = float(total[column]) * sign
        if sign < 0 and scale == "probability":
            start, output = 1.0 + start, 1.0 + output
        errors = np.zeros(len(values))
        return _Parts(method, scale, start, output, sign * values[:, column], errors, additive.tolerance, False, ())

    def _sampled(
        self,
        row: Columns,
        target: int | None,
        method: Literal["permutation", "lime"],
        seed: int,
        go_on: Callable[[], bool],
    ) -> _Parts:
        interface, background = self.manifest.interface, self._background
        if background is None:
            raise RequestError(
                "the bundle keeps no background rows to compare with",
                path="$.method",
                hint="It was made by an older undrift: train or adopt the model again.",
            )
        pool = background.encoded(interface.inputs)
        answers = ask_mixtures(self._raw, pool, row, target)
        output = float(answers(np.full((1, len(row)), -1))[0])
        scale: Scale = "value" if target is None else "probability"
        notes = []
        if background.replaced:
            notes.append(f"personal inputs are compared with one typical value: {', '.join(background.replaced)}")
        rng = np.random.default_rng(seed)
        if method == "lime":
            local = local_model(answers, _alike(interface.inputs, pool, row), rng, samples=_LIME_SAMPLES, go_on=go_on)
            coarse = local.samples < _LIME_SAMPLES
            notes.append(f"a local linear model of {local.samples} samples, weighted R² {local.fit:.2f}")
            unknown = np.full(len(row), np.nan)
            return _Parts("lime", scale, local.base, output, local.values, unknown, None, coarse, tuple(notes))
        found = shapley(answers, len(row), background.rows, rng, rounds=_ROUNDS, go_on=go_on)
        coarse = found.rounds < _ROUNDS
        if coarse:
            notes.append(
                f"coarse: the time ended after {found.rows} of {background.rows} background rows"
                if found.rows < background.rows
                else f"coarse: the time ended in round {found.rounds + 1} of {_ROUNDS}"
            )
        return _Parts(
            "permutation", scale, found.base, output, found.values, found.errors, _SAMPLED, coarse, tuple(notes)
        )

    def _told(self, parts: _Parts, row: Mapping[str, Any], target: int | None, score: float) -> Explanation:
        interface = self.manifest.interface
        label = "" if target is None else interface.classes[target]
        shown = {i.name: _shown(i, row[i.name]) for i in interface.inputs}
        listed = sorted(
            (
                Contribution(
                    input=i.name,
                    value=shown[i.name],
                    contribution=float(value),
                    error=float(error) if np.isfinite(error) and parts.method == "permutation" else None,
                    group=self._groups[i.name],
                )
                for i, value, error in zip(interface.inputs, parts.values, parts.errors, strict=True)
            ),
            key=lambda each: -abs(each.contribution),
        )
        groups: dict[str, float] = {}
        for each in listed:
            groups[each.group] = groups.get(each.group, 0.0) + each.contribution
        notes = list(parts.notes)
        if parts.scale not in ("margin",):
            means = float(link(parts.scale, np.array([[parts.output]]), 0)[0])
            if abs(means - score) > _SERVED * max(1.0, abs(score)):
                notes.append(f"the model as trained answers {means:.6g} here, the form that serves {score:.6g}")
        return Explanation(
            method=parts.method,
            scale=parts.scale,
            label=label,
            base=parts.base,
            output=parts.output,
            score=score,
            residual=parts.output - parts.base - float(parts.values.sum()),
            tolerance=None if parts.tolerance is None else parts.tolerance * max(1.0, abs(parts.output)),
            contributions=tuple(listed),
            groups=groups,
            reasons=_reasons(parts, listed, f"P({label})" if label else interface.label),
            coarse=parts.coarse,
            notes=tuple(notes),
        )


def _until(left: Callable[[], float], rows: int) -> Callable[[], bool]:
    """Whether a row may go on, where so many rows share the time that is left."""
    now = left()
    stop = -math.inf if math.isinf(now) else now - now / rows
    return lambda: left() > stop


def _alike(inputs: Sequence[Input], pool: Columns, row: Columns) -> NDArray[np.bool_]:
    """Whether each background value counts as the row's: the same text, or in the same quarter of the background."""
    found = []
    for given in inputs:
        values, own = pool[given.name], row[given.name]
        if given.type == "string":
            found.append(np.asarray(values == own[0], dtype=bool))
            continue
        known = values[np.isfinite(values)]
        cuts = np.quantile(known, [0.25, 0.5, 0.75]) if known.size else np.empty(0)
        # absent is a bin of its own
        bins = [np.where(np.isnan(x), -1, np.searchsorted(cuts, x)) for x in (values, own)]
        found.append(bins[0] == bins[1])
    return np.column_stack(found)


def _shown(given: Input, value: Any) -> Any:
    """An encoded value as a reader knows it."""
    if given.type == "string":
        return value or None
    number = float(value)
    if not math.isfinite(number):
        return None
    if given.type == "timestamp":
        return (_EPOCH + timedelta(days=number)).isoformat()
    if given.type == "boolean":
        return bool(number)
    return int(number) if given.type == "integer" and number.is_integer() else number


def _reasons(parts: _Parts, listed: Sequence[Contribution], what: str) -> tuple[str, ...]:
    told = []
    total = parts.base + float(parts.values.sum())
    for each in listed[:_REASONS]:
        size = each.contribution
        if size == 0.0:
            break
        said = "is absent" if each.value is None else f"= {_text(each.value)}"
        verb = "raises" if size > 0 else "lowers"
        if parts.scale == "log_odds":
            now, without = (1 / (1 + math.exp(-min(max(x, -700.0), 700.0))) for x in (total, total - size))
            amount = f"{what} from {without:.3g} to {now:.3g} ({size:+.3g} log odds)"
        elif parts.scale == "margin":
            amount = f"the margin of {what} by {abs(size):.3g}"
        elif parts.scale == "log":
            amount = f"{what} by a factor of {math.exp(size):.3g}"
        else:
            amount = f"{what} by {abs(size):.3g}"
        told.append(f"{each.input} {said} {verb} {amount}")
    return tuple(told)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
