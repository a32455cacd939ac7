from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.develop.conftest import train

from undrift.develop.explain import Explainer
from undrift.develop.explanation import Explanation
from undrift.develop.folds import TrainingData
from undrift.develop.importance import BACKGROUND_FILE, Background
from undrift.errors import RequestError
from undrift.inference.explain import open_explainer
from undrift.settings import TrustSettings

TRUST = TrustSettings()


def nearest(data: TrainingData) -> Any:
    """A model of no structure, on the numbers it gets."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    numbers = make_column_transformer((SimpleImputer(), data.numeric))
    return make_pipeline(numbers, KNeighborsClassifier(15)).fit(data.X, data.y)


@pytest.fixture(scope="module")
def explainers(tmp_path_factory: pytest.TempPathFactory, flights: Any, interface_of: Any, models: Any) -> Any:
    """Explainers of trained bundles by the name of the model and the task, each trained once."""
    from undrift.state.artifacts import DirectoryArtifacts

    artifacts = DirectoryArtifacts(tmp_path_factory.mktemp("artifacts"))
    known: dict[tuple[str, str], Explainer] = {}

    def explainer(name: str, task: str = "binary") -> Explainer:
        if (name, task) not in known:
            function = {**models, "nearest": nearest}[name]
            done = train(interface_of(task), function, flights, artifacts=artifacts, folds=2)
            known[name, task] = open_explainer(artifacts.get(done.bundle), TRUST)
        return known[name, task]

    return explainer


@pytest.fixture(scope="module")
def rows(flights: Any) -> dict[str, list[Any]]:
    some = flights.slice(1700, 6)
    return {name: some[name].to_pylist() for name in ("carrier", "hour", "night", "wind")}


def adds_up(found: Explanation) -> None:
    total = found.base + sum(c.contribution for c in found.contributions)
    assert found.tolerance is not None
    assert abs(found.output - total) <= found.tolerance
    assert found.residual == pytest.approx(found.output - total, abs=1e-12)
    assert sum(found.groups.values()) == pytest.approx(total - found.base)


@pytest.mark.parametrize(
    ("name", "task", "method", "scale"),
    [
        ("linear", "binary", "linear", "log_odds"),
        ("trees", "binary", "tree", "log_odds"),
        ("trees", "multiclass", "tree", "margin"),
        ("linear", "regression", "linear", "value"),
        ("nearest", "binary", "permutation", "probability"),
    ],
)
def test_an_explanation_adds_up_to_the_answer(
    explainers: Any, rows: Any, name: str, task: str, method: str, scale: str
) -> None:
    explainer = explainers(name, task)
    found = explainer.explain(rows)
    assert len(found) == 6
    for each in found:
        adds_up(each)
        assert (each.method, each.scale, each.coarse) == (method, scale, False)
        assert {c.input for c in each.contributions} == {"carrier", "hour", "night", "wind"}
        sizes = [abs(c.contribution) for c in each.contributions]
        assert sizes == sorted(sizes, reverse=True)
        if scale == "log_odds":
            assert 1 / (1 + math.exp(-each.output)) == pytest.approx(each.score, abs=1e-4)
        elif scale != "margin":
            assert each.output == pytest.approx(each.score, abs=1e-4 * max(1.0, abs(each.score)))
    # the night says nothing about delays in this population, the wind does
    assert np.mean([[abs(c.contribution) for c in e.contributions if c.input == "night"] for e in found]) < np.mean(
        [[abs(c.contribution) for c in e.contributions if c.input == "wind"] for e in found]
    )


@pytest.mark.parametrize("name", ["linear", "trees"])
def test_sampling_agrees_with_the_exact_way_about_what_matters(explainers: Any, rows: Any, name: str) -> None:
    explainer = explainers(name)
    exact, sampled = explainer.explain(rows), explainer.explain(rows, method="permutation")
    for one, other in zip(exact, sampled, strict=True):
        adds_up(other)
        assert other.scale == "probability"
        signs = {c.input: np.sign(c.contribution) for c in one.contributions}
        foremost = other.contributions[0]
        assert foremost.error is not None
        if abs(foremost.contribution) > 0.1:
            assert np.sign(foremost.contribution) == signs[foremost.input]


def test_lime_is_a_fit_and_says_how_good(explainers: Any, rows: Any) -> None:
    found = explainers("linear").explain(rows, method="lime")[0]
    assert (found.method, found.tolerance) == ("lime", None)
    assert "weighted R²" in found.notes[0]
    assert found.base + sum(c.contribution for c in found.contributions) == pytest.approx(found.output - found.residual)


def test_the_same_row_is_explained_the_same_way_again(explainers: Any, rows: Any) -> None:
    explainer = explainers("nearest")
    assert explainer.explain(rows) == explainer.explain(rows)


def test_out_of_time_it_is_coarse_says_so_and_still_adds_up(explainers: Any, rows: Any) -> None:
    (found,) = explainers("nearest").explain({n: v[:1] for n, v in rows.items()}, left=lambda: 0.0)
    assert found.coarse
    assert any("coarse: the time ended after 1 of 100 background rows" in note for note in found.notes)
    adds_up(found)


def test_rows_share_the_time_there_is(explainers: Any, rows: Any) -> None:
    clock = iter(np.arange(1000.0, -10000.0, -1.0).tolist())
    found = explainers("nearest").explain(rows, left=lambda: next(clock))
    assert not any(each.coarse for each in found)
    quick = iter(np.arange(30.0, -10000.0, -1.0).tolist())
    found = explainers("nearest").explain(rows, left=lambda: next(quick))
    assert all(each.coarse for each in found)


def test_reasons_are_sentences_about_the_row(explainers: Any, rows: Any) -> None:
    found = explainers("trees").explain({**rows, "wind": [None] * 6})[0]
    assert 1 <= len(found.reasons) <= 3
    assert all(("raises" in reason) != ("lowers" in reason) for reason in found.reasons)
    assert all("P(1) from" in reason for reason in found.reasons)
    wind = next(c for c in found.contributions if c.input == "wind")
    assert wind.value is None
    told = [reason for reason in found.reasons if reason.startswith("wind")]
    assert all("wind is absent" in reason for reason in told)


def test_the_class_to_explain_can_be_chosen_where_there_are_several(explainers: Any, rows: Any) -> None:
    explainer = explainers("trees", "multiclass")
    answered = explainer.explain(rows)[0]
    assert answered.label in ("low", "middle", "high")
    other = explainer.explain(rows, label="high")[0]
    assert other.label == "high"
    by_class = explainer.explain(rows, label="low")[0], explainer.explain(rows, label="middle")[0], other
    assert sum(e.score for e in by_class) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "magic"}, "one of auto, exact, permutation, lime was expected"),
        ({"method": "exact"}, "no exact method applies: KNeighborsClassifier is neither"),
        ({"label": "2"}, "one of 1 was expected"),
    ],
)
def test_what_does_not_apply_is_refused_with_the_reason(explainers: Any, rows: Any, options: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        explainers("nearest").explain(rows, **options)


def test_auto_says_why_it_samples(explainers: Any, rows: Any) -> None:
    assert "neither made of trees nor linear" in explainers("nearest").explain(rows)[0].notes[0]


def test_without_shap_trees_are_sampled_and_the_extra_is_named(
    explainers: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "shap", None)
    whole = explainers("trees")
    found = open_explainer(whole._folder, TRUST).explain(rows)[0]
    assert found.method == "permutation"
    assert "pip install 'undrift[explain]'" in found.notes[0]
    adds_up(found)


def test_a_bundle_of_before_has_nothing_to_sample_against(explainers: Any, rows: Any, tmp_path: Path) -> None:
    import shutil

    whole = explainers("nearest")
    old = tmp_path / "old"
    shutil.copytree(whole._folder, old)
    old.chmod(0o755)
    (old / BACKGROUND_FILE).unlink()
    with pytest.raises(RequestError, match="keeps no background rows"):
        Explainer(old, whole.manifest, whole._raw, TRUST).explain(rows)


def test_personal_inputs_are_said_to_be_compared_with_one_value(explainers: Any, rows: Any, tmp_path: Path) -> None:
    whole = explainers("nearest")
    background = Background.read(whole._folder)
    assert background is not None
    changed = msgspec.structs.replace(background, replaced=("wind",))
    (tmp_path / BACKGROUND_FILE).write_bytes(msgspec.json.encode(changed))
    found = Explainer(tmp_path, whole.manifest, whole._raw, TRUST).explain(rows)[0]
    assert any("wind" in note for note in found.notes)
