"""Exact contributions of a trained model's inputs: trees and linear models, alone or behind a preprocessing pipeline.

Boosters explain themselves (TreeSHAP stands in LightGBM, XGBoost and CatBoost); scikit-learn's trees are explained by
shap's TreeExplainer. What no exact method fits, and what does not add up to the model's own answer, is refused with the
reason: explain.py then samples. No deadline and no words stand here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.develop.explanation import Scale
from undrift.develop.rows import ask
from undrift.errors import InexactError, MissingExtraError, SettingsError
from undrift.plugins import resolve_path

__all__ = ["Additive", "Attributor", "link"]

Floats = NDArray[np.float64]

_DOUBLE, _SINGLE = 1e-6, 1e-4
"""How far the sum may be from the model's own answer, relative to the larger of 1 and the answer: by float width."""

_LINEAR: Final = ("sklearn.linear_model", "sklearn.svm")
_TREES: Final = ("sklearn.ensemble", "sklearn.tree")
_MARK: Final = re.compile("\x1d(\\d+)\x1d")


class Additive(NamedTuple):
    """Contributions that add up: ``base + values.sum(axis=1)`` is the answer on the scale, within the tolerance.

    Shapes: ``base`` (k,), ``values`` (n, d, k); k is 1 for two classes (the second one's) and for regression.
    """

    base: Floats
    values: Floats
    scale: Scale
    tolerance: float


class Attributor:
    """The exact contributions of one model.

    Parameters
    ----------
    model : as it was trained: estimator, pipeline or booster.
    task : of the interface.
    inputs : how many inputs the model has.
    background : native rows that stand for not knowing an input; linear models are compared with their mean.

    Raises
    ------
    InexactError : the model is of no kind that can be explained exactly, or a library is missing.
    """

    def __init__(self, model: Any, task: str, inputs: int, background: Any | None) -> None:
        self._model, self._task, self._inputs = model, task, inputs
        self._before, final = _split(model)
        self._owners = _owners(self._before, inputs)
        self.method: Literal["tree", "linear"]
        self.method, self._tolerance, self._contributions = _way(final, task)
        if self.method == "linear":
            if background is None:
                raise InexactError("the bundle keeps no background rows to take a mean of")
            self._mean = self._prepared(background).mean(axis=0)
            if not np.isfinite(self._mean).all():
                raise InexactError("its background rows have absent values that its preprocessing leaves in")

    def __call__(self, rows: Any) -> Additive:
        """The contributions of native rows (`develop.rows.native_rows`).

        Raises
        ------
        InexactError : they do not add up to what the model answers.
        PredictionError : the model cannot answer the rows.
        """
        wanted = ask(self._model, self._task, rows)
        ready = rows if self._before is None and self.method == "tree" else self._prepared(rows)
        try:
            if self.method == "linear":
                ready = ready - self._mean
            base, each = self._contributions(ready)
        except Exception as error:
            raise InexactError(f"{type(error).__name__} while its contributions were computed: {error}") from error
        if self.method == "linear":
            base = base + self._contributions(self._mean[None, :])[1].sum(axis=1)[0]
        values = np.zeros((each.shape[0], self._inputs, each.shape[2]))  # what is dropped contributes nothing
        for column, owner in enumerate(self._owners.tolist()):
            values[:, owner] += each[:, column]
        scale, first = _scale(base + values.sum(axis=1), wanted, self._task, self._tolerance)
        return Additive(base[first:], values[:, :, first:], scale, self._tolerance)

    def _prepared(self, rows: Any) -> Floats:
        try:
            found = rows if self._before is None else self._before.transform(rows)
            dense = found.toarray() if hasattr(found, "toarray") else found
            return np.asarray(dense, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InexactError(f"its columns are no numbers after preprocessing: {error}") from error


def link(scale: Scale, totals: Floats, k: int) -> Floats:
    """The answer that totals of shape (n, classes) mean: probabilities, or values; column ``k``."""
    if scale == "log_odds":
        return np.asarray(np.exp(-np.logaddexp(0.0, -totals[:, k])))
    if scale == "margin":
        raised = np.exp(totals - totals.max(axis=1, keepdims=True))
        return np.asarray(raised[:, k] / raised.sum(axis=1))
    return np.asarray(np.exp(totals[:, k]) if scale == "log" else totals[:, k])


def _scale(totals: Floats, wanted: Floats, task: str, tolerance: float) -> tuple[Scale, int]:
    """The scale on which totals of shape (n, k) are the model's answers, and the first column that counts."""

    def same(scale: Scale, columns: range, answers: Floats) -> bool:
        told = np.column_stack([link(scale, totals, k) for k in columns])
        return bool(np.all(np.abs(told - answers) <= tolerance * np.maximum(1.0, np.abs(answers))))

    k = totals.shape[1]
    candidates: tuple[Scale, Scale]
    with np.errstate(over="ignore"):
        if task == "regression":
            candidates, answers = ("value", "log"), wanted.reshape(-1, 1)
        elif k == 1:
            candidates, answers = ("log_odds", "probability"), wanted[:, 1:]
        else:
            candidates, answers = ("probability", "margin"), wanted
        for scale in candidates if answers.shape[1] == k else ():
            if same(scale, range(k), answers):
                return scale, 1 if k == 2 and scale == "probability" else 0
    raise InexactError("the contributions do not add up to its answer on any known scale")


def _split(model: Any) -> tuple[Any | None, Any]:
    """What prepares the rows, if anything does, and the estimator behind it."""
    steps = getattr(model, "steps", None)
    if not steps or not hasattr(model, "named_steps"):
        return None, model
    final = steps[-1][1]
    return (model[:-1] if len(steps) > 1 else None), final


def _owners(before: Any | None, inputs: int) -> NDArray[np.intp]:
    """Which input each prepared column was made of: names are sent through the preprocessing and read from its end."""
    if before is None:
        return np.arange(inputs)
    unnamed = copy.deepcopy(before)
    for part in _parts(unnamed):
        vars(part).pop("feature_names_in_", None)  # so that it takes other names than those it was fitted with
    marks = np.array([f"\x1d{place}\x1d" for place in range(inputs)], dtype=object)
    try:
        named = unnamed.get_feature_names_out(marks)
    except Exception as error:
        raise InexactError(f"its preprocessing does not tell what its columns are made of ({error})") from error
    owners = []
    for name in named:
        found = set(_MARK.findall(str(name)))
        if len(found) != 1:
            made = f"{len(found)} inputs" if found else "inputs that it does not name"
            raise InexactError(f"its preprocessing makes a column of {made}")
        owners.append(int(found.pop()))
    return np.array(owners, dtype=np.intp)


def _parts(model: Any) -> Iterator[Any]:
    if isinstance(model, list | tuple):
        for item in model:
            yield from _parts(item)
    elif hasattr(model, "get_params"):
        yield model
        for value in list(vars(model).values()):
            yield from _parts(value)


Contributions = Callable[[Any], tuple[Floats, Floats]]
"""Prepared rows to the base (k,) and the contributions (n, columns, k)."""


def _way(final: Any, task: str) -> tuple[Literal["tree", "linear"], float, Contributions]:
    module = type(final).__module__
    library = module.partition(".")[0]
    if library == "lightgbm":
        return "tree", _DOUBLE, _lightgbm(getattr(final, "booster_", final))
    if library == "xgboost":
        return "tree", _SINGLE, _xgboost(final.get_booster() if hasattr(final, "get_booster") else final)
    if library == "catboost":
        return "tree", _DOUBLE, _catboost(final)
    if module.startswith(_LINEAR) and hasattr(final, "coef_") and hasattr(final, "intercept_"):
        return "linear", _DOUBLE, _linear(final, task)
    if module.startswith(_TREES):
        return "tree", _DOUBLE, _sklearn_trees(final)
    raise InexactError(f"{type(final).__name__} is neither made of trees nor linear")


def _last_is_base(found: Any) -> tuple[Floats, Floats]:
    """From shape (n, columns + 1) or (n, k, columns + 1), the last one being the base."""
    whole = np.asarray(found, dtype=np.float64)
    whole = whole[:, None, :] if whole.ndim == 2 else whole
    return whole[0, :, -1], np.moveaxis(whole[:, :, :-1], 1, 2)


def _lightgbm(booster: Any) -> Contributions:
    k = int(booster.num_model_per_iteration())

    def contributions(rows: Any) -> tuple[Floats, Floats]:
        found = np.asarray(booster.predict(rows, pred_contrib=True))
        return _last_is_base(found.reshape(len(found), k, -1))

    return contributions


def _xgboost(booster: Any) -> Contributions:
    def contributions(rows: Any) -> tuple[Floats, Floats]:
        matrix = resolve_path("xgboost:DMatrix", wanted_for="explaining an XGBoost model", extra="xgboost")
        given = matrix(rows, feature_names=booster.feature_names, enable_categorical=True)
        return _last_is_base(booster.predict(given, pred_contribs=True))

    return contributions


def _catboost(model: Any) -> Contributions:
    def contributions(rows: Any) -> tuple[Floats, Floats]:
        pool = resolve_path("catboost:Pool", wanted_for="explaining a CatBoost model", extra="catboost")
        given = pool(rows, cat_features=model.get_cat_feature_indices())
        return _last_is_base(model.get_feature_importance(given, type="ShapValues"))

    return contributions


def _linear(model: Any, task: str) -> Contributions:
    weights = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
    start = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64).ravel(), len(weights)).copy()
    if task != "regression" and not hasattr(model, "predict_proba"):
        raise InexactError(f"{type(model).__name__} gives no probabilities")

    def contributions(rows: Any) -> tuple[Floats, Floats]:
        return start, rows[:, :, None] * weights.T[None, :, :]

    return contributions


def _sklearn_trees(model: Any) -> Contributions:
    try:
        kind = resolve_path("shap:TreeExplainer", wanted_for="explaining scikit-learn's trees exactly", extra="explain")
    except (MissingExtraError, SettingsError) as error:
        raise InexactError(str(error).replace("\n ", "")) from error
    try:
        explainer = kind(model)
    except Exception as error:
        raise InexactError(
            f"shap does not explain {type(model).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error

    def contributions(rows: Any) -> tuple[Floats, Floats]:
        # whether they add up is checked here, on the model's own answers
        found = np.asarray(explainer.shap_values(rows, check_additivity=False), dtype=np.float64)
        base = np.asarray(explainer.expected_value, dtype=np.float64).ravel()
        return base, found[:, :, None] if found.ndim == 2 else found

    return contributions
