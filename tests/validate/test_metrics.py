from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk

from undrift.develop.performance import Scored
from undrift.errors import DataError
from undrift.validate.metrics import METRICS, gain, larger_is_better, measure, row_losses


def test_values_are_scikit_learns(scored_of: Any) -> None:
    rows = scored_of()
    y, p = rows.label, rows.raw[:, 1]
    wanted = {
        "log_loss": sk.log_loss(y, p), "brier": sk.brier_score_loss(y, p), "accuracy": sk.accuracy_score(y, p >= 0.5),
        "error": 1 - sk.accuracy_score(y, p >= 0.5), "roc_auc": sk.roc_auc_score(y, p),
        "precision": sk.precision_score(y, p >= 0.5), "recall": sk.recall_score(y, p >= 0.5),
        "bias": p.mean() - y.mean(),
    }  # fmt: skip
    assert wanted.keys() == {name for name, metric in METRICS.items() if "binary" in metric.tasks}
    for name, value in wanted.items():
        assert measure(rows, name).value == pytest.approx(value), name


def test_values_of_regression_are_scikit_learns(scored_of: Any) -> None:
    rows = scored_of(task="regression")
    wanted = {
        "absolute_error": sk.mean_absolute_error(rows.label, rows.raw),
        "squared_error": sk.mean_squared_error(rows.label, rows.raw),
        "rmse": sk.root_mean_squared_error(rows.label, rows.raw),
    }
    for name, value in wanted.items():
        assert measure(rows, name).value == pytest.approx(value), name


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "precision", "recall"])
def test_intervals_are_as_wide_as_a_bootstrap_says(metric: str, scored_of: Any) -> None:
    """Rows without times, so that both take rows as independent; 250 resamples give a width within about 10 %."""
    rows = replace(scored_of(600), time=None)
    rng = np.random.default_rng(3)
    values = [measure(rows.take(rng.integers(0, rows.n, rows.n)), metric).value for _ in range(250)]
    found = measure(rows, metric).interval
    assert found is not None
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * np.std(values), rel=0.2)


def test_the_area_under_the_curve_has_delongs_variance(scored_of: Any) -> None:
    """DeLong et al. (1988): var = var(V10)/m + var(V01)/k, by comparing every pair."""
    rows = replace(scored_of(400), time=None)
    positive, negative = rows.raw[rows.label == 1, 1], rows.raw[rows.label == 0, 1]
    won = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    se = np.sqrt(won.mean(axis=1).var(ddof=1) / len(positive) + won.mean(axis=0).var(ddof=1) / len(negative))
    found = measure(rows, "roc_auc").interval
    assert found is not None
    assert (found.upper - found.lower) / 2 == pytest.approx(1.966 * se, rel=0.01)  # Student's 97.5 % point at 399


def test_a_gain_is_positive_when_the_candidate_is_better_whatever_the_metric(scored_of: Any) -> None:
    good, bad = scored_of(noise=0.2), scored_of(noise=2.0)
    for metric in ("log_loss", "roc_auc", "accuracy", "error"):
        found = gain(good, bad, metric)
        assert found.value is not None
        assert found.value > 0
        assert found.interval is not None
        assert found.interval.lower > 0
        assert gain(bad, good, metric).value == pytest.approx(-found.value)


def test_pairing_makes_the_interval_narrower_than_the_two_apart(scored_of: Any) -> None:
    first, second = scored_of(noise=0.3), scored_of(noise=0.35)
    paired, alone = gain(first, second, "log_loss").interval, measure(first, "log_loss").interval
    assert paired is not None
    assert alone is not None
    assert paired.upper - paired.lower < 0.6 * (alone.upper - alone.lower)


def test_the_interval_of_a_gain_covers_the_truth_as_often_as_it_says(interface_of: Any) -> None:
    """Two models equally good by construction (same noise, own draws): 95 % of the intervals hold 0."""
    interface = interface_of("regression")
    rng = np.random.default_rng(11)
    time = np.datetime64("2013-01-01", "us") + np.arange(600) * np.timedelta64(1, "h")
    covered = 0
    for _ in range(200):
        y = rng.normal(size=600)
        one, two = (Scored(interface, pa.table({}), y, y + rng.normal(size=600), time) for _ in range(2))
        interval = gain(one, two, "absolute_error").interval
        assert interval is not None
        covered += interval.lower <= 0 <= interval.upper
    assert 180 <= covered <= 199


def test_what_is_not_defined_is_said_not_guessed(scored_of: Any) -> None:
    rows = scored_of(200)
    negatives = rows.take(rows.label == 0)
    assert measure(negatives, "roc_auc").problem == "only one class is among the rows"
    assert measure(negatives, "recall").value is None
    never = replace(rows, raw=np.tile([0.9, 0.1], (200, 1)))
    assert measure(never, "precision").problem == "no row was predicted positive"
    assert measure(rows.take(np.array([], dtype=np.int64)), "log_loss").problem == "there are no rows"
    assert gain(negatives, negatives, "roc_auc").value is None


def test_metrics_that_do_not_exist_or_do_not_fit_are_refused(scored_of: Any) -> None:
    with pytest.raises(DataError, match="no metric is named 'auc'"):
        larger_is_better("auc")
    with pytest.raises(DataError, match="means nothing for a regression model"):
        measure(scored_of(task="regression"), "roc_auc")
    with pytest.raises(DataError, match="same rows"):
        gain(scored_of(100), scored_of(100, seed=5), "log_loss")


def test_losses_of_rows_from_the_lake(interface_of: Any) -> None:
    rows = pa.table({"score": [0.8, 0.4], "label": ["1", "1"], "prediction": ["1", "1"], "value": [None, None]})
    found = row_losses(interface_of(), rows)
    np.testing.assert_allclose(found["brier"], [0.04, 0.36])
    assert found["error"].tolist() == [0, 0]  # as it was answered then, by whatever threshold
    several = pa.table({"score": [0.5], "scores": [[0.2, 0.5, 0.3]], "label": ["c"]})
    assert row_losses(interface_of("multiclass"), several)["error"].tolist() == [1]
    numbers = pa.table({"score": [1.0, 2.0], "value": [1.5, 0.0], "prediction": pa.nulls(2, pa.string())})
    assert row_losses(interface_of("regression"), numbers)["absolute_error"].tolist() == [0.5, 2.0]
    with pytest.raises(DataError, match="1 of 2 rows have no 'label'"):
        row_losses(interface_of(), pa.table({"score": [0.8, 0.4], "label": ["1", None]}))
