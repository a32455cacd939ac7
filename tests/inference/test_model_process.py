"""A native model in its own process: it answers as it would here, and its end is nobody else's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import GoldenRow, Interface, write_bundle
from undrift.errors import OverloadError, PredictionError, UntrustedModelError
from undrift.inference.model_process import ModelProcess
from undrift.inference.predictor import load
from undrift.settings import TrustSettings

TRUST = TrustSettings(formats=("skops", "python"), skops_types=("numpy.dtype",))
COLUMNS: dict[str, list[Any]] = {
    "carrier": ["UA", "AA", None, "ZZ"],
    "distance": [100.0, 2500.0, 900.0, 1.0],
    "hour": [0, 23, 7, 12],
    "temp": [10.0, None, None, 31.5],
    "weekend": [0.0, 1.0, None, 0.0],
}
MOODY = """
import os, time

class Model:
    def predict(self, rows):
        print("not for the access log")
        if any(x == 1.0 for x in rows[:, 0]):
            raise ValueError("one")
        if any(x == 2.0 for x in rows[:, 0]):
            os._exit(3)
        if any(x == 3.0 for x in rows[:, 0]):
            time.sleep(60)
        if any(x == 4.0 for x in rows[:, 0]):
            deadline = time.process_time() + 0.2
            while time.process_time() < deadline:
                pass
        return rows[:, 0].astype(float) * 2
"""

Started = Callable[..., ModelProcess]


@pytest.fixture
def started() -> Iterator[Started]:
    made: list[ModelProcess] = []

    def start(folder: Path, **more: Any) -> ModelProcess:
        made.append(ModelProcess(folder, TRUST, **more))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moody") / "bundle"
    fields = (Field(name="x", type="number"), Field(name="at", type="timestamp", nullable=True))
    declared = Interface(model="m", task="regression", contract=Contract(name="m", fields=fields), label="y")
    write_bundle(
        folder, interface=declared, format="python", native="python", models={"python": MOODY.encode()},
        profile="{}", golden=[GoldenRow(inputs={"x": 5.0}, raw=[10.0])],
    )  # fmt: skip
    return folder


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(met: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not met():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_it_answers_as_the_model_does_in_this_process(bundles: dict[str, Path], started: Started) -> None:
    apart = started(bundles["r-native"])
    assert apart.pid not in (None, os.getpid())
    assert apart.predict(COLUMNS) == load(bundles["r-native"], TRUST).predict(COLUMNS)


def test_times_and_absent_values_reach_it_as_they_are(moody: Path, started: Started) -> None:
    answered = started(moody).predict({"x": (0.5, -0.25), "at": [datetime(2013, 4, 1, tzinfo=UTC), None]})
    assert answered.score == [1.0, -0.5]


def test_what_the_model_raises_is_raised_here_and_the_process_lives_on(moody: Path, started: Started) -> None:
    apart = started(moody)
    before = apart.pid
    with pytest.raises(PredictionError, match="ValueError: one"):
        apart.predict({"x": [1.0], "at": [None]})
    assert apart.predict({"x": [6.0], "at": [None]}).score == [12.0]
    assert apart.pid == before


def test_the_models_cpu_time_is_told_from_over_there(moody: Path, started: Started) -> None:
    apart = started(moody)
    apart.predict({"x": [4.0], "at": [None]})
    assert apart.apart_cpu >= 0.2


@pytest.mark.parametrize("way", ["crash", "kill"])
def test_a_process_that_ends_is_started_again_and_says_so(moody: Path, started: Started, way: str) -> None:
    told: list[str] = []
    apart = started(moody, ended=told.append)
    before = apart.pid
    assert before is not None
    if way == "kill":
        os.kill(before, signal.SIGKILL)
    with pytest.raises(OverloadError, match="started again"):
        apart.predict({"x": [2.0 if way == "crash" else 6.0], "at": [None]})
    assert told == ["ended with code 3" if way == "crash" else "ended with code -9"]

    def answers() -> bool:
        try:
            return apart.predict({"x": [6.0], "at": [None]}).score == [12.0]
        except OverloadError as error:  # too soon after the last one
            time.sleep(error.retry_after)
            return False

    wait_for(answers)
    assert apart.pid != before


def test_a_model_that_never_answers_is_killed(moody: Path, started: Started) -> None:
    told: list[str] = []
    apart = started(moody, patience=3.0, ended=told.append)
    before = apart.pid
    assert before is not None
    with pytest.raises(OverloadError, match="answered nothing for 3 seconds"):
        apart.predict({"x": [3.0], "at": [None]})
    assert told == ["answered nothing for 3 seconds"]
    wait_for(lambda: gone(before))


def test_closing_ends_the_process(moody: Path, started: Started) -> None:
    apart = started(moody)
    before = apart.pid
    assert before is not None
    apart.close()
    wait_for(lambda: gone(before))
    with pytest.raises(OverloadError):
        apart.predict({"x": [6.0], "at": [None]})


def test_signals_to_the_group_do_not_end_it_before_the_worker_does(moody: Path, started: Started) -> None:
    apart = started(moody)
    assert apart.pid is not None
    for sig in (signal.SIGINT, signal.SIGTERM):
        os.kill(apart.pid, sig)
    assert apart.predict({"x": [6.0], "at": [None]}).score == [12.0]


def test_a_format_that_is_not_trusted_is_refused_with_the_loaders_words(moody: Path) -> None:
    with pytest.raises(UntrustedModelError, match=r"format 'python', which trust.formats does not allow") as raised:
        ModelProcess(moody, TrustSettings())
    assert "[trust]" in raised.value.hint
