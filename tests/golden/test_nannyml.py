"""Estimates without labels are those of NannyML's CBPE; recorded by benchmarks/monitoring/nannyml_numbers.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from undrift.stats.calibration import CalibrationMap, expected_roc_auc

FOUND = json.loads((Path(__file__).parent / "nannyml.json").read_text())


def rows(seed: int, n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores that overstate the rate, and outcomes; the scores move by a shift on the logit scale."""
    rng = np.random.default_rng(seed)
    score = 1 / (1 + np.exp(-rng.normal(shift, 1.5, n)))
    return score, (rng.random(n) < score**1.3).astype(float)


@pytest.mark.parametrize(("place", "shift"), list(enumerate((0.0, 0.7, -0.7))))
def test_expected_accuracy_and_roc_auc_are_those_of_cbpe(place: int, shift: float) -> None:
    calibrated = CalibrationMap.of(*rows(1, 6000, 0.0))
    score, _ = rows(2 + place, 2000, shift)
    rates = calibrated(score)
    assert expected_roc_auc(rates, score) == pytest.approx(FOUND["roc_auc"][place], abs=0.005)
    accuracy = float(np.where(score >= 0.5, rates, 1 - rates).mean())
    assert accuracy == pytest.approx(FOUND["accuracy"][place], abs=0.005)
