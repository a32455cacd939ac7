from __future__ import annotations

import numpy as np
import pytest

from undrift.stats.shapley import local_model, shapley

TABLE = np.random.default_rng(5).normal(size=(31, 4))
WEIGHTS = np.array([2.0, -1.0, 0.5, 0.0])


def linear(take: np.ndarray) -> np.ndarray:
    return np.asarray(TABLE[take, np.arange(4)] @ WEIGHTS)


def test_a_linear_function_gives_each_input_its_weight_times_its_distance_from_the_mean() -> None:
    found = shapley(linear, 4, 30, np.random.default_rng(0), rounds=2)
    assert found.values == pytest.approx(WEIGHTS * (TABLE[-1] - TABLE[:-1].mean(axis=0)))
    assert found.base == pytest.approx((TABLE[:-1] @ WEIGHTS).mean())
    assert found.errors == pytest.approx(np.zeros(4), abs=1e-12)
    assert (found.rows, found.rounds) == (30, 2)


def test_an_input_that_the_function_never_reads_contributes_nothing() -> None:
    found = shapley(lambda take: np.exp(linear(take)), 4, 30, np.random.default_rng(0))
    assert found.values[3] == 0.0
    assert np.abs(found.values[:3]).min() > 0


def test_two_inputs_that_do_the_same_share_what_they_do() -> None:
    table = np.array([[0.0, 0.0], [1.0, 1.0]])
    found = shapley(lambda take: table[take, [0, 1]].max(axis=1), 2, 1, np.random.default_rng(0), rounds=1)
    assert found.values.tolist() == [0.5, 0.5]  # the two orders are each other's reverse


def test_one_round_has_no_error_to_state() -> None:
    assert np.isnan(shapley(linear, 4, 30, np.random.default_rng(0), rounds=1).errors).all()


def test_stopped_early_it_still_adds_up_and_says_how_many_rows_it_used() -> None:
    background, d = 3000, 4
    table = np.random.default_rng(2).normal(size=(background + 1, d))

    def product(take: np.ndarray) -> np.ndarray:
        return np.asarray(table[take, np.arange(d)].prod(axis=1))

    found = shapley(product, d, background, np.random.default_rng(0), go_on=lambda: False)
    assert (found.rows, found.rounds) == (1, 0)
    assert found.base + found.values.sum() == pytest.approx(table[-1].prod())


def test_it_asks_no_more_than_it_says() -> None:
    asked = []

    def count(take: np.ndarray) -> np.ndarray:
        asked.append(len(take))
        return linear(take)

    shapley(count, 4, 30, np.random.default_rng(0), rounds=3)
    assert sum(asked) == 3 * 2 * 4 * 30


def test_nothing_to_compare_with_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one input and one background row"):
        shapley(linear, 4, 0, np.random.default_rng(0))


def test_a_local_model_finds_what_each_input_adds_where_that_is_all_there_is() -> None:
    like = np.random.default_rng(3).random((30, 3)) < 0.4
    effects = np.array([3.0, -2.0, 0.0])

    def answers(take: np.ndarray) -> np.ndarray:
        return 1.0 + np.where(take < 0, True, like[take, np.arange(3)]) @ effects

    found = local_model(answers, like, np.random.default_rng(0))
    assert found.values == pytest.approx(effects, abs=0.02)  # the ridge penalty of 1 against some thousand samples
    assert found.base == pytest.approx(1.0, abs=0.02)
    assert found.fit > 0.999


def test_a_local_model_says_how_badly_it_fits() -> None:
    like = np.random.default_rng(3).random((30, 2)) < 0.5

    def either(take: np.ndarray) -> np.ndarray:
        same = np.where(take < 0, True, like[take, np.arange(2)])
        return (same[:, 0] ^ same[:, 1]).astype(float)

    assert local_model(either, like, np.random.default_rng(0)).fit < 0.2


def test_a_constant_function_is_fitted_by_its_constant() -> None:
    found = local_model(lambda take: np.full(len(take), 7.0), np.ones((5, 2), bool), np.random.default_rng(0))
    assert (found.base, found.values.tolist(), found.fit, found.samples) == (7.0, [0.0, 0.0], 1.0, 5000)


def test_a_local_model_uses_the_samples_it_had_time_for() -> None:
    like = np.random.default_rng(3).random((30, 2)) < 0.5
    found = local_model(
        lambda take: (take[:, 0] < 0).astype(float), like, np.random.default_rng(0), go_on=lambda: False
    )
    assert found.samples == 250
