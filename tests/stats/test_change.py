from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from undrift.stats.change import Cusum, EDetector, PageHinkley, cusum_run_length, cusum_threshold

DETECTORS = [
    EDetector(mean=0.4, run_length=200),
    Cusum(allowance=0.1, threshold=1.5),
    PageHinkley(threshold=1.5, delta=0.05, warm_up=10),
]


def plainly(detector, values) -> int | None:
    """The same detectors, written out one value at a time from their definitions."""
    if isinstance(detector, EDetector):
        stakes = np.geomspace(0.005, 0.8, 12)
        m = np.zeros(stakes.size)
        for i, x in enumerate(values, 1):
            m = (1 + m) * (1 + stakes * (x - detector.mean) / (detector.mean - detector.low))
            if m.mean() >= detector.run_length:
                return i
    elif isinstance(detector, Cusum):
        s = 0.0
        for i, x in enumerate(values, 1):
            s = max(0.0, s + x - detector.allowance)
            if s > detector.threshold:
                return i
    else:
        mean = total = 0.0
        least = math.inf
        for i, x in enumerate(values, 1):
            mean += (x - mean) / i
            total += x - mean - detector.delta
            least = min(least, total)
            if i >= detector.warm_up and total - least > detector.threshold:
                return i
    return None


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_the_fast_detectors_alarm_where_the_plain_ones_do(detector):
    rng = np.random.default_rng(1)
    places = []
    for _ in range(50):
        values = np.concatenate([rng.random(100) * 0.6, 0.2 + rng.random(100) * 0.8])
        assert detector.update(values).alarm_at == plainly(detector, values)
        places.append(plainly(detector, values))
    assert any(places)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_batches_json_and_empty_updates_change_nothing(detector):
    values = np.random.default_rng(2).random(300)
    whole = detector.update(values)
    state = msgspec.json.decode(msgspec.json.encode(detector), type=type(detector))
    for batch in np.split(values, [1, 10, 10, 250]):
        state = state.update(batch)
        state = msgspec.json.decode(msgspec.json.encode(state), type=type(state))
    for field in type(detector).__struct_fields__:
        assert getattr(state, field) == pytest.approx(getattr(whole, field), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_after_a_reset_it_starts_afresh_but_goes_on_counting(detector):
    alarmed = detector.update(np.concatenate([np.zeros(40), np.ones(40)]))
    assert 40 < alarmed.alarm_at <= 80
    assert alarmed.update(np.zeros(5)).alarm_at == alarmed.alarm_at
    fresh = alarmed.reset()
    assert (fresh.alarm_at, fresh.n) == (None, 80)
    values = np.concatenate([np.zeros(40), np.ones(40)])
    assert fresh.update(values).alarm_at == 80 + detector.update(values).alarm_at


@pytest.mark.parametrize("draw", ["bernoulli", "beta"])
def test_the_e_detector_keeps_its_run_length(draw):
    rng = np.random.default_rng(3)
    lengths = []
    for _ in range(200):
        x = rng.random(4000) < 0.1 if draw == "bernoulli" else rng.beta(0.5, 4.5, 4000)
        lengths.append(EDetector(mean=0.1, run_length=500).update(x).alarm_at or 4000)  # cut short: an underestimate
    assert np.mean(lengths) - 3 * np.std(lengths) / math.sqrt(200) >= 500


def test_the_e_detector_finds_a_doubled_loss_soon():
    rng = np.random.default_rng(4)
    delays = []
    for _ in range(100):
        quiet = EDetector(mean=0.1, run_length=10_000).update(rng.random(1000) < 0.1)
        if quiet.alarm_at is None:
            delays.append((quiet.update(rng.random(3000) < 0.2).alarm_at or 4001) - 1000)
    assert len(delays) > 90
    assert np.median(delays) < 350


def test_the_cusum_keeps_the_run_length_its_threshold_was_made_for():
    rng = np.random.default_rng(5)
    detector = Cusum(allowance=0.5, threshold=cusum_threshold(300, 0.5))
    lengths = [detector.update(rng.normal(size=5000)).alarm_at for _ in range(400)]
    assert np.mean(lengths) == pytest.approx(300, rel=0.17)
    found = [detector.update(rng.normal(1, 1, 500)).alarm_at for _ in range(400)]
    assert np.mean(found) == pytest.approx(cusum_run_length(detector.threshold, 0.5, 1.0), rel=0.1)


def test_at_the_allowance_the_run_length_has_its_limit():
    assert cusum_run_length(3.0, 0.5, 0.5) == pytest.approx(cusum_run_length(3.0, 0.5, 0.5 + 1e-5), rel=1e-3)


def test_what_cannot_be_detected_is_refused():
    with pytest.raises(ValueError, match="strictly between the bounds"):
        EDetector(mean=0.0, run_length=10)
    with pytest.raises(ValueError, match="run_length must be above 1"):
        EDetector(mean=0.5, run_length=1)
    with pytest.raises(ValueError, match=r"values must lie in \[0.0, 1.0\]"):
        EDetector(mean=0.5, run_length=10).update([2.0])
    with pytest.raises(ValueError, match="allowance must be > 0"):
        cusum_threshold(100, 0)
    with pytest.raises(ValueError, match="NaN"):
        Cusum(allowance=0.5, threshold=1).update([math.nan])
