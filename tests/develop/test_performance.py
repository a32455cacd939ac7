from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics

from undrift.develop.bundle import Manifest
from undrift.develop.performance import (
    LOSSES,
    Performance,
    Scored,
    label_codes,
    loss_arrays,
    mean_interval,
    metric_values,
    time_units,
)
from undrift.errors import DataError


def test_binary_losses_are_what_their_definitions_say(interface_of: Any) -> None:
    found = loss_arrays(interface_of(), ["1", "0", "1"], score=[0.8, 0.4, 0.2])
    np.testing.assert_allclose(found["log_loss"], [-math.log(0.8), -math.log(0.6), -math.log(0.2)])
    np.testing.assert_allclose(found["brier"], [0.04, 0.16, 0.64])
    assert found["error"].tolist() == [0, 0, 1]


def test_losses_of_several_classes_agree_with_scikit_learn(interface_of: Any) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet((1, 1, 1), 500)
    labels = rng.choice(["low", "middle", "high"], 500)
    found = loss_arrays(interface_of("multiclass"), labels.tolist(), scores=p)
    codes = label_codes(interface_of("multiclass"), labels.tolist())
    assert found["log_loss"].mean() == pytest.approx(metrics.log_loss(codes, p))
    assert found["brier"].mean() == pytest.approx(np.square(p - np.eye(3)[codes]).sum(axis=1).mean())
    assert found["error"].mean() == pytest.approx(1 - metrics.accuracy_score(codes, p.argmax(axis=1)))


def test_a_sure_mistake_costs_much_but_not_infinity(interface_of: Any) -> None:
    assert loss_arrays(interface_of(), ["1"], score=[0.0])["log_loss"][0] == pytest.approx(15.94, abs=0.01)


def test_the_answer_that_was_given_counts_not_the_one_that_could_have_been(interface_of: Any) -> None:
    found = loss_arrays(interface_of(), ["1", "1"], score=[0.8, 0.8], prediction=["0", "1"])
    assert found["error"].tolist() == [1, 0]


def test_integer_labels_in_a_list_are_class_names_not_codes(interface_of: Any) -> None:
    shifted = interface_of(classes=("1", "2"))
    assert loss_arrays(shifted, [2, 1], score=[0.9, 0.1])["error"].tolist() == [0, 0]
    assert loss_arrays(shifted, np.array([1, 0]), score=[0.9, 0.1])["error"].tolist() == [0, 0]


def test_an_unknown_label_or_missing_probabilities_are_refused(interface_of: Any) -> None:
    with pytest.raises(DataError, match="'maybe'"):
        loss_arrays(interface_of(), ["maybe"], score=[0.5])
    with pytest.raises(DataError, match="all their probabilities"):
        loss_arrays(interface_of("multiclass"), ["low"], score=[0.5])


def test_the_units_of_an_interval_are_days_blocks_or_rows() -> None:
    start = np.datetime64("2013-01-01", "us")
    month = start + np.arange(720) * np.timedelta64(1, "h")
    assert np.unique(time_units(month, 720)).size == 30
    day = start + np.arange(720) * np.timedelta64(1, "m")
    blocks = time_units(day[::-1], 720)
    assert np.unique(blocks, return_counts=True)[1].tolist() == [18] * 40
    assert blocks[0] == 39  # the last row in time is in the last block, wherever it stands
    assert time_units(None, 5).tolist() == [0, 1, 2, 3, 4]


def test_intervals_over_days_cover_when_rows_of_a_day_are_alike() -> None:
    """200 simulations of 30 days of 50 rows with a shared day effect: by day 95 % cover 0, by row far fewer."""
    rng = np.random.default_rng(7)
    days = np.repeat(np.arange(30), 50)
    covered = {"day": 0, "row": 0}
    for _ in range(200):
        values = rng.normal(size=30)[days] + rng.normal(size=1500)
        for name, units in (("day", days), ("row", np.arange(1500))):
            found = mean_interval(values, units)
            covered[name] += found.lower <= 0 <= found.upper
    assert 180 <= covered["day"] <= 199  # binomial(200, 0.95), four standard deviations
    assert covered["row"] < 100


def scored(interface: Any, n: int = 400) -> Scored:
    rng = np.random.default_rng(5)
    p = rng.random(n)
    carrier = rng.choice(["AA", "UA", "DL"], n, p=[0.2, 0.5, 0.3])
    table = pa.table({"carrier": [None if i % 50 == 0 else c for i, c in enumerate(carrier.tolist())]})
    time = np.datetime64("2013-01-01", "us") + np.arange(n) * np.timedelta64(1, "h")
    return Scored(interface, table, (rng.random(n) < p).astype(np.int64), np.column_stack([1 - p, p]), time)


def test_segments_hold_every_row_with_a_value_once(interface_of: Any) -> None:
    rows = scored(interface_of())
    found = rows.segments()
    assert sorted(found) == ["carrier=AA", "carrier=DL", "carrier=UA"]
    assert sum(len(r) for r in found.values()) == 400 - 8
    assert {rows.table["carrier"][int(i)].as_py() for i in found["carrier=UA"]} == {"UA"}
    with pytest.raises(DataError, match="'origin'"):
        rows.segments(["origin"])


def test_metrics_are_scikit_learns(interface_of: Any) -> None:
    rows = scored(interface_of())
    found = metric_values(rows)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(rows.label, rows.raw[:, 1]))
    assert found["roc_auc"] == metrics.roc_auc_score(rows.label, rows.raw[:, 1])
    assert set(metric_values(rows.take(rows.label == 1))) == {"log_loss", "brier", "error"}  # one class only


def test_expected_performance_survives_the_manifest(interface_of: Any) -> None:
    rows = scored(interface_of())
    expected = Performance.of(rows)
    manifest = Manifest(
        interface=interface_of(), format="onnx", native="onnx", files={},
        trained={"performance": msgspec.to_builtins(expected)},
    )  # fmt: skip
    again = msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest)
    assert Performance.expected(again) == expected
    assert Performance.expected(msgspec.structs.replace(manifest, trained={})) is None
    parts = [moments["log_loss"] for moments in expected.segments.values()]
    assert sum(p.n for p in parts) == 392
    assert expected.losses["brier"].lower < expected.losses["brier"].value < expected.losses["brier"].upper


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_no_rows_have_no_losses_but_every_kind_of_them(task: str, interface_of: Any) -> None:
    losses = loss_arrays(interface_of(task), [], score=[], scores=[], prediction=[] if task != "regression" else None)
    assert set(losses) == set(LOSSES[task])
    assert all(values.shape == (0,) for values in losses.values())


def test_how_well_the_rows_of_a_day_are_ranked_is_kept_with_its_interval_and_read_back(interface_of: Any) -> None:
    rng = np.random.default_rng(8)
    n, days = 3000, 30
    p = rng.beta(2, 4, n)
    label = (rng.random(n) < p).astype(np.int64)
    time = np.datetime64("2026-01-01", "us") + np.sort(rng.integers(0, days * 86_400, n)).astype("timedelta64[s]")
    table = pa.table({"carrier": rng.choice(["UA", "DL"], n), "rare": ["x"] * 15 + ["y"] * (n - 15)})
    scored = Scored(
        interface=interface_of(segments=("carrier", "rare")), table=table, label=label,
        raw=np.column_stack([1 - p, p]), time=time,
    )  # fmt: skip
    found = Performance.of(scored)
    assert set(found.ranking) == {"", "carrier=DL", "carrier=UA", "rare=y"}, "fifteen rows tell no area"
    day = scored.units
    by_day = [metrics.roc_auc_score(label[day == d], p[day == d]) for d in np.unique(day)]
    sizes = [(m := label[day == d].sum()) * (k := (day == d).sum() - m) / (m + k) for d in np.unique(day)]
    whole = found.ranking[""]
    assert whole.value == pytest.approx(np.average(by_day, weights=sizes), abs=1e-12)
    assert whole.lower < metrics.roc_auc_score(label, p) < whole.upper, "days are alike here"
    # scikit-learn has no interval: Hanley and McNeil's (1982) is of the same size
    assert 0.5 < whole.half_width / (1.96 * np.sqrt(whole.value * (1 - whole.value) / label.sum())) < 1.5
    back = msgspec.convert(msgspec.to_builtins(found), Performance)
    assert back == found
    without = {name: value for name, value in msgspec.to_builtins(found).items() if name != "ranking"}
    assert msgspec.convert(without, Performance).ranking == {}, "a bundle written before"


def test_rows_without_times_or_of_other_tasks_tell_no_ranking_within_days(interface_of: Any) -> None:
    rng = np.random.default_rng(9)
    p, table = rng.random(200), pa.table({"carrier": ["UA"] * 200})
    plain = Scored(
        interface=interface_of(), table=table, label=rng.integers(0, 2, 200), raw=np.column_stack([1 - p, p])
    )
    assert Performance.of(plain).ranking == {}
    time = np.datetime64("2026-01-01", "us") + np.arange(200).astype("timedelta64[h]")
    number = Scored(interface=interface_of("regression"), table=table, label=p, raw=p, time=time)
    assert Performance.of(number).ranking == {}
