"""Each kind of model explained exactly: what adds up, to what, and which ways of explaining are refused as wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from undrift.develop.attribution import Attributor, link
from undrift.errors import InexactError

N, SEED = 400, 3


def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a number with gaps, a number, a text and a number nobody needs, and two labels."""
    rng = np.random.default_rng(SEED)
    a, b, unused = rng.normal(size=(3, N))
    text = rng.choice(["red", "green", "blue"], N)
    value = np.where(a > 0.3, 2.0, 0.0) + b + (text == "red")
    rows = np.empty((N, 4), dtype=object)
    rows[:, 0] = np.where(rng.random(N) < 0.1, np.nan, a)
    rows[:, 1], rows[:, 2], rows[:, 3] = b, text, unused
    return rows, value, np.digitize(value, [0.0, 2.0])


def _piped(final: Any, *, drop: bool = False) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = [("text", OneHotEncoder(), [2]), ("numbers", numbers, [0, 1] if drop else [0, 1, 3])]
    return make_pipeline(ColumnTransformer(columns), final)


def _made(kind: str) -> tuple[Any, str]:
    from sklearn import ensemble, linear_model
    from sklearn.ensemble import HistGradientBoostingClassifier as Hist
    from sklearn.ensemble import HistGradientBoostingRegressor as HistValue

    small = {"max_iter": 15, "max_leaf_nodes": 6, "random_state": 0}
    found = {
        "hist, two classes": (Hist(**small), "binary"),
        "hist, three classes": (Hist(**small), "multiclass"),
        "hist, a value": (HistValue(**small), "regression"),
        "hist, a count": (HistValue(loss="poisson", **small), "count"),
        "forest, two classes": (ensemble.RandomForestClassifier(10, max_depth=4, random_state=0), "binary"),
        "forest, a value": (ensemble.RandomForestRegressor(10, max_depth=4, random_state=0), "regression"),
        "boosted, two classes": (ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0), "binary"),
        "logistic, two classes": (linear_model.LogisticRegression(), "binary"),
        "logistic, three classes": (linear_model.LogisticRegression(), "multiclass"),
        "ridge, a value": (linear_model.Ridge(), "regression"),
    }
    return found[kind]


def _label(task: str, value: np.ndarray, band: np.ndarray) -> np.ndarray:
    return {"binary": (value > 1).astype(int), "multiclass": band, "regression": value, "count": np.exp(value)}[task]


@pytest.mark.parametrize(
    ("kind", "method", "scale"),
    [
        ("hist, two classes", "tree", "log_odds"),
        ("hist, three classes", "tree", "margin"),
        ("hist, a value", "tree", "value"),
        ("hist, a count", "tree", "log"),
        ("forest, two classes", "tree", "probability"),
        ("forest, a value", "tree", "value"),
        ("boosted, two classes", "tree", "log_odds"),
        ("logistic, two classes", "linear", "log_odds"),
        ("logistic, three classes", "linear", "margin"),
        ("ridge, a value", "linear", "value"),
    ],
)
def test_contributions_add_up_to_the_models_own_answer_on_the_stated_scale(kind: str, method: str, scale: str) -> None:
    rows, value, band = _table()
    final, task = _made(kind)
    model = _piped(final)
    with threadpool_limits(1):
        model.fit(rows, _label(task, value, band))
    attributor = Attributor(model, "regression" if task == "count" else task, 4, rows[:100])
    found = attributor(rows[:50])
    assert (attributor.method, found.scale) == (method, scale)
    totals = found.base + found.values.sum(axis=1)
    answers = model.predict_proba(rows[:50]) if hasattr(final, "predict_proba") else model.predict(rows[:50])[:, None]
    answers = answers[:, 1:] if totals.shape[1] == 1 and answers.shape[1] == 2 else answers
    told = np.column_stack([link(found.scale, totals, k) for k in range(totals.shape[1])])
    assert told == pytest.approx(answers, abs=1e-6)
    # what the label is made of moves the answer more than what it is not
    size = np.abs(found.values).mean(axis=(0, 2))
    assert size[3] < size[:3].min()


def test_one_hot_columns_are_summed_back_to_the_input_they_were_made_of() -> None:
    from sklearn.linear_model import LinearRegression

    rows, _, _ = _table()
    effect = {"red": 5.0, "green": -1.0, "blue": 0.0}
    model = _piped(LinearRegression()).fit(rows, np.array([effect[t] for t in rows[:, 2]]))
    found = Attributor(model, "regression", 4, rows)(rows[:20])
    # the label depends on the text alone, so the text has all of it: its effect less the mean effect
    mean = np.mean([effect[t] for t in rows[:, 2]])
    assert found.values[:, 2, 0] == pytest.approx(np.array([effect[t] for t in rows[:20, 2]]) - mean)
    assert found.values[:, [0, 1, 3], 0] == pytest.approx(np.zeros((20, 3)), abs=1e-9)


def test_an_input_that_the_preprocessing_drops_contributes_nothing() -> None:
    from sklearn.linear_model import LinearRegression

    rows, value, _ = _table()
    found = Attributor(_piped(LinearRegression(), drop=True).fit(rows, value), "regression", 4, rows)(rows[:5])
    assert found.values.shape == (5, 4, 1)
    assert found.values[:, 3, 0].tolist() == [0.0] * 5


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_boosters_explain_themselves(library: str, task: str) -> None:
    module = pytest.importorskip(library)
    rows, value, band = _table()
    numbers = rows[:, [0, 1, 3]].astype(float)
    kind = {"lightgbm": "LGBM", "xgboost": "XGB"}[library] + ("Regressor" if task == "regression" else "Classifier")
    options = {"n_estimators": 10, "n_jobs": 1, **({"verbose": -1} if library == "lightgbm" else {})}
    model = getattr(module, kind)(**options).fit(numbers, _label(task, value, band))
    booster = model.booster_ if library == "lightgbm" else model.get_booster()
    for form in (model, booster):  # as a project trains it, and as it comes out of its own file
        found = Attributor(form, task, 3, None)(numbers[:30])
        scale = {"binary": "log_odds", "multiclass": "margin", "regression": "value"}[task]
        assert found.scale == scale
        totals = found.base + found.values.sum(axis=1)
        answers = model.predict(numbers[:30])[:, None] if task == "regression" else model.predict_proba(numbers[:30])
        answers = answers[:, 1:] if task == "binary" else answers
        told = np.column_stack([link(found.scale, totals, k) for k in range(totals.shape[1])])
        assert told == pytest.approx(answers, abs=found.tolerance * max(1.0, float(np.abs(answers).max())))


def test_trees_that_the_library_explains_wrongly_are_not_explained_by_it() -> None:
    # shap reads native categories of histogram trees as numbers, without a word
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=N), rng.integers(0, 6, N)]).astype(float)
    model = HistGradientBoostingClassifier(max_iter=20, categorical_features=[1]).fit(rows, rows[:, 1].astype(int) % 2)
    with pytest.raises(InexactError, match="do not add up to its answer"):
        Attributor(model, "binary", 2, rows[:50])(rows[:50])


def test_columns_made_of_several_inputs_are_not_given_to_one_of_them() -> None:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    rows = np.random.default_rng(0).normal(size=(50, 3))
    for before, said in ((PCA(2), "inputs that it does not name"), (PolynomialFeatures(2), "0 inputs|2 inputs|name")):
        model = make_pipeline(before, Ridge()).fit(rows, rows[:, 0])
        with pytest.raises(InexactError, match=said):
            Attributor(model, "regression", 3, rows)


def test_a_model_without_structure_is_said_to_have_none() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rows = np.random.default_rng(0).normal(size=(50, 3))
    model = KNeighborsClassifier().fit(rows, rows[:, 0] > 0)
    with pytest.raises(InexactError, match="KNeighborsClassifier is neither made of trees nor linear"):
        Attributor(model, "binary", 3, rows)


def test_a_linear_model_needs_rows_to_be_compared_with() -> None:
    from sklearn.linear_model import Ridge

    rows = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(InexactError, match="keeps no background rows"):
        Attributor(Ridge().fit(rows, rows[:, 0]), "regression", 3, None)
