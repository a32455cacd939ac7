"""The tools that tests stand on do what they promise: the truth of a stream, and faults on command."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from undrift.errors import PredictionError, SettingsError
from undrift.testing import FaultyPredictor, population

N = 100_000


def _column(drawn: Any, name: str) -> Any:
    return drawn.rows[name].to_numpy()


def test_the_same_seed_draws_the_same_stream() -> None:
    assert population(500, seed=1, onset=0.5).rows.equals(population(500, seed=1, onset=0.5).rows)
    assert not population(500, seed=1).rows.equals(population(500, seed=2).rows)


def test_the_lift_is_the_difference_of_brier_scores() -> None:
    drawn = population(N, seed=3, lift=0.01)
    label = _column(drawn, "label")
    gain = (_column(drawn, "champion") - label) ** 2 - (_column(drawn, "candidate") - label) ** 2
    assert abs(gain.mean() - drawn.lift) < 4 * gain.std() / np.sqrt(N)
    assert all(
        _column(drawn, name).min() >= 0 and _column(drawn, name).max() <= 1 for name in ("champion", "candidate")
    )
    with pytest.raises(ValueError, match=r"lift is 0\.02"):
        population(10, seed=1, lift=0.02)


def test_the_input_moves_at_the_onset_and_labels_follow_the_stated_probability() -> None:
    drawn = population(N, seed=4, onset=0.25, shift=1.0)
    x, label, probability = (_column(drawn, name) for name in ("x", "label", "probability"))
    assert abs(x[: N // 4].mean()) < 4 / np.sqrt(N / 4)
    assert abs(x[N // 4 :].mean() - 1) < 4 / np.sqrt(N * 3 / 4)
    assert abs((label - probability).mean()) < 4 * 0.5 / np.sqrt(N)
    assert np.allclose(probability, 0.2 + 0.6 / (1 + np.exp(-x)))
    assert drawn.onset == datetime(2013, 1, 1, tzinfo=UTC) + timedelta(minutes=N // 4)
    assert drawn.rows["event_time"][N // 4].as_py() == drawn.onset


def test_a_changed_concept_leaves_the_inputs_and_scores_as_they_were() -> None:
    same, changed = population(1000, seed=5), population(1000, seed=5, onset=0.5, concept=-1.0)
    for name in ("x", "champion", "candidate", "unit"):
        assert same.rows[name].equals(changed.rows[name])
    before, after = _column(changed, "probability")[:500], _column(changed, "probability")[500:]
    assert np.array_equal(before, _column(same, "probability")[:500])
    assert np.allclose(after, 1 - _column(same, "probability")[500:])


def test_labels_come_late_by_the_stated_mean_and_some_never() -> None:
    drawn = population(N, seed=6, delay="2h", unlabelled=0.1)
    table = drawn.rows
    assert abs(table["labelled_at"].null_count / N - 0.1) < 4 * 0.3 / np.sqrt(N)
    known = table.filter(table["labelled_at"].is_valid())
    waited = (known["labelled_at"].to_numpy() - known["event_time"].to_numpy()) / np.timedelta64(1, "h")
    assert waited.min() >= 0
    assert abs(waited.mean() - 2) < 4 * 2 / np.sqrt(len(waited))


class Answers(NamedTuple):
    score: list[float]
    scores: list[list[float]] | None
    label: list[str] | None


class Inner:
    """A model that answers 0.9 for everything."""

    def __init__(self, task: str) -> None:
        classes = {"binary": ("0", "1"), "multiclass": ("a", "b", "c"), "regression": ()}[task]
        interface = SimpleNamespace(task=task, classes=classes, threshold=0.5)
        self.manifest = SimpleNamespace(interface=interface)
        self.answer = {"binary": "1", "multiclass": "b", "regression": None}[task]

    def predict(self, columns: dict[str, list[Any]]) -> Answers:
        n = len(columns["carrier"])
        scores = [[0.05, 0.9, 0.05]] * n if self.answer == "b" else None
        return Answers([0.9] * n, scores, None if self.answer is None else [self.answer] * n)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDRIFT_FAULTS", str(tmp_path / "faults.json"))
    return tmp_path / "faults.json"


ROWS = {"carrier": ["UA", "AA"], "distance": [1.0, None]}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("binary", Answers([0.2, 0.2], None, ["0", "0"])),
        ("regression", Answers([0.2, 0.2], None, None)),
        ("multiclass", Answers([0.4, 0.4], [[0.2, 0.4, 0.4]] * 2, ["b", "b"])),
    ],
)
def test_a_constant_answer_looks_like_any_other(faults: Path, task: str, expected: Answers) -> None:
    predictor = FaultyPredictor(Inner(task))
    sound = predictor.predict(ROWS)
    assert sound.score == [0.9, 0.9]
    faults.write_text('{"constant": 0.2}')
    assert predictor.predict(ROWS) == expected
    faults.unlink()
    assert predictor.predict(ROWS) == sound


def test_faults_hit_only_the_rows_they_are_meant_for(faults: Path) -> None:
    predictor = FaultyPredictor(Inner("binary"))
    faults.write_text('{"constant": 0.6, "where": {"carrier": ["UA"]}}')
    assert predictor.predict(ROWS) == Answers([0.6, 0.9], None, ["1", "1"])
    faults.write_text('{"error": "boom", "where": {"carrier": ["ZZ"]}}')
    assert predictor.predict(ROWS).score == [0.9, 0.9]
    faults.write_text('{"error": "boom"}')
    with pytest.raises(PredictionError, match="boom"):
        predictor.predict(ROWS)
    faults.write_text("{}")
    assert predictor.predict(ROWS).score == [0.9, 0.9]


def test_a_fault_that_is_not_known_is_said(faults: Path) -> None:
    faults.write_text('{"constnat": 0.2}')
    with pytest.raises(SettingsError, match="constnat"):
        FaultyPredictor(Inner("binary")).predict(ROWS)


def test_everything_else_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDRIFT_FAULTS", raising=False)
    inner = Inner("binary")
    predictor = FaultyPredictor(inner)
    assert predictor.manifest is inner.manifest
    assert predictor.predict(ROWS).score == [0.9, 0.9]
    with pytest.raises(AttributeError):
        _ = predictor.nothing


def test_a_serving_process_can_afford_to_import_it() -> None:
    program = "import sys, undrift.testing; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert not {"numpy", "pyarrow", "sqlite3", "deltalake", "duckdb", "pytest"} & set(done.stdout.split())
