from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undrift.develop import trust
from undrift.errors import CorruptModelError, UntrustedModelError
from undrift.settings import TrustSettings

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3))
Y = (X[:, 0] > 0).astype(int)


class Bomb:
    """What a hostile pickle looks like: opening it runs a call."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def stored(tmp_path: Path, model: Any, settings: TrustSettings | None = None) -> tuple[Path, str]:
    form, content = trust.save_model(model, settings or TrustSettings())
    path = tmp_path / f"model.{form}"
    path.write_bytes(content)
    return path, form


def estimators() -> list[Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    return [
        make_pipeline(SimpleImputer(), LogisticRegression()),
        HistGradientBoostingClassifier(max_iter=5),
        RandomForestClassifier(3, random_state=0),
        KNeighborsClassifier(),
    ]


@pytest.mark.parametrize("number", range(4))
def test_scikit_learn_models_need_no_further_trust(tmp_path: Path, number: int) -> None:
    model = estimators()[number].fit(X, Y)
    path, form = stored(tmp_path, model)
    assert form == "skops"
    again = trust.open_model(path, form, TrustSettings())
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_equal_models_are_stored_as_equal_bytes() -> None:
    first, second = (trust.save_model(m.fit(X, Y), TrustSettings())[1] for m in (estimators()[2], estimators()[2]))
    assert first == second


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_boosters_are_kept_in_the_file_of_their_library(tmp_path: Path, library: str) -> None:
    kinds = pytest.importorskip(library)
    kind = kinds.LGBMClassifier if library == "lightgbm" else kinds.XGBClassifier
    model = kind(n_estimators=5, n_jobs=1, **({"verbosity": -1} if library == "lightgbm" else {})).fit(X, Y)
    path, form = stored(tmp_path, model)
    assert form == library
    again = trust.open_model(path, form, TrustSettings())
    asked = again.inplace_predict(X) if library == "xgboost" else again.predict(X)
    np.testing.assert_allclose(asked, model.predict_proba(X)[:, 1], rtol=1e-6)


def test_a_pickle_is_not_opened_unless_the_settings_say_so(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UntrustedModelError) as caught:
        trust.open_model(path, "pickle", TrustSettings())
    assert 'formats = ["onnx", "skops", "lightgbm", "xgboost", "catboost", "pickle"]' in caught.value.hint
    assert not mark.exists()
    trust.open_model(path, "pickle", TrustSettings(formats=("pickle",)))
    assert mark.exists()  # the test can fail: it is the settings that made the difference


def test_skops_files_with_unknown_types_name_them_and_the_setting(tmp_path: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer
    from skops.io import dumps

    path = tmp_path / "model.skops"
    path.write_bytes(dumps(FunctionTransformer(trust.check_format)))
    with pytest.raises(UntrustedModelError, match=r"undrift\.develop\.trust\.check_format") as caught:
        trust.open_model(path, "skops", TrustSettings())
    assert 'skops_types = ["undrift.develop.trust.check_format"]' in caught.value.hint
    allowed = TrustSettings(skops_types=("undrift.develop.trust.check_format",))
    assert trust.open_model(path, "skops", allowed).func is trust.check_format


def test_a_model_that_skops_cannot_vouch_for_is_pickled_only_if_allowed() -> None:
    from sklearn.preprocessing import FunctionTransformer

    model = FunctionTransformer(trust.check_format)
    with pytest.raises(UntrustedModelError, match="cannot be stored so that it may be opened again"):
        trust.save_model(model, TrustSettings())
    form, content = trust.save_model(model, TrustSettings(formats=("skops", "pickle")))
    assert form == "pickle"
    assert pickle.loads(content).func is trust.check_format


@pytest.mark.parametrize("form", ["skops", "pickle", "lightgbm", "xgboost"])
def test_garbage_is_corrupt_whatever_it_is_said_to_be(tmp_path: Path, form: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"this is no model")
    with pytest.raises(CorruptModelError, match=f"cannot be opened as {form}"):
        trust.open_model(path, form, TrustSettings(formats=(form,)))
    with pytest.raises(CorruptModelError, match="cannot be read"):
        trust.open_model(tmp_path / "nowhere", form, TrustSettings(formats=(form,)))
