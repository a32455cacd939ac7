from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from undrift.stats.ranking import SCORE_BINS, auc_by_counts, score_bin


def by_class(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bins = score_bin(score)
    return tuple(np.bincount(bins[label == c], minlength=SCORE_BINS) for c in (0, 1))  # type: ignore[return-value]


def test_the_area_is_that_of_the_rounded_scores_and_nearly_that_of_the_scores() -> None:
    rng = np.random.default_rng(1)
    score = rng.beta(1, 30, 4000)  # rare positives: scores near 0
    label = (rng.random(4000) < score * 3).astype(int)
    area, _ = auc_by_counts(*by_class(score, label))
    assert float(area) == pytest.approx(roc_auc_score(label, score_bin(score)), abs=1e-12)
    assert float(area) == pytest.approx(roc_auc_score(label, score), abs=1e-3)


def test_the_variance_is_delongs_written_out_over_all_pairs() -> None:
    rng = np.random.default_rng(2)
    score, label = rng.random(120), rng.integers(0, 2, 120)
    bins = score_bin(score)
    high, low = bins[label == 1], bins[label == 0]
    won = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
    plain = won.mean(axis=1).var(ddof=1) / len(high) + won.mean(axis=0).var(ddof=1) / len(low)
    area, variance = auc_by_counts(*by_class(score, label))
    assert (float(area), float(variance)) == pytest.approx((won.mean(), plain), rel=1e-12)


def test_the_spread_over_repeated_samples_is_the_one_stated() -> None:
    rng = np.random.default_rng(3)
    areas, variances = [], []
    for _ in range(400):
        label = rng.integers(0, 2, 300)
        score = 1 / (1 + np.exp(-(rng.normal(size=300) + label)))
        area, variance = auc_by_counts(*by_class(score, label))
        areas.append(float(area))
        variances.append(float(variance))
    assert np.var(areas) == pytest.approx(np.mean(variances), rel=0.2)


def test_a_class_of_fewer_than_two_has_no_area() -> None:
    area, variance = auc_by_counts([[3.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]])
    assert np.isnan([area[0], variance[0]]).all()
    assert area[1] == 1.0


def test_scores_at_the_ends_have_a_bin() -> None:
    assert score_bin([0.0, 1.0]).tolist() == [0, SCORE_BINS - 1]
