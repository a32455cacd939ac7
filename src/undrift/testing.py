"""What tests of undrift, of its backends and of systems built on it stand on.

A clock that stands still, a stream of predictions and labels whose truth is known, a predictor that misbehaves on
command, and one conformance suite per port (they stand in conformance.py). Importable in a serving process: numpy,
pyarrow and pytest stay outside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from undrift.conformance import (
    ArtifactsConformance,
    LakeConformance,
    OnlineConformance,
    SinkConformance,
    StoreConformance,
)
from undrift.errors import PredictionError, SettingsError
from undrift.ids import FixedClock, duration, to_micros

if TYPE_CHECKING:
    import pyarrow as pa

    from undrift.develop.bundle import Manifest

__all__ = [
    "ArtifactsConformance",
    "Faults",
    "FaultyPredictor",
    "FixedClock",
    "LakeConformance",
    "OnlineConformance",
    "Population",
    "SinkConformance",
    "StoreConformance",
    "population",
]

FAULTS_VARIABLE: Final = "UNDRIFT_FAULTS"


class Population(msgspec.Struct, frozen=True, kw_only=True):
    """A stream of predictions whose truth is known.

    ``rows`` has the columns ``id``, ``unit``, ``event_time``, ``segment`` (``a``, ``b`` or ``c``), ``x`` (the input),
    ``champion`` and ``candidate`` (their scores), ``probability`` (of label 1, the truth), ``label`` (0 or 1) and
    ``labelled_at`` (null for the rows whose label never comes). ``onset`` is when the world changes. ``lift`` is by
    how much the candidate's Brier score is lower than the champion's, in expectation.
    """

    rows: pa.Table
    onset: datetime | None
    lift: float


def population(
    n: int,
    *,
    seed: int,
    start: datetime = datetime(2013, 1, 1, tzinfo=UTC),
    spacing: str = "1m",
    onset: float | None = None,
    shift: float = 0.0,
    concept: float = 1.0,
    lift: float = 0.0,
    delay: str = "1d",
    unlabelled: float = 0.0,
) -> Population:
    """Draw a stream with known truth.

    The input is x ~ N(0, 1) and P(label = 1) = 0.2 + 0.6 / (1 + exp(-x)). A model's score is that probability plus
    independent noise, uniform on [-h, h] with h <= 0.2, so its Brier score exceeds the best possible one by h^2 / 3.

    Parameters
    ----------
    n : rows, one every ``spacing`` from ``start``.
    onset : share of the rows, [0, 1], after which the world changes; None for never.
    shift : x ~ N(shift, 1) after the onset (drift of the input; scores follow).
    concept : after it, x counts ``concept`` times in the true probability, but not in the scores (-1 reverses it).
    lift : expected Brier score of the champion minus that of the candidate, [0, 0.0133].
    delay : mean of the exponential time from event to label.
    unlabelled : share of the rows whose label never comes, [0, 1].

    Raises
    ------
    ValueError : a lift outside its range.
    """
    import numpy as np
    import pyarrow as pa

    widest = 0.2
    if not 0 <= lift <= widest**2 / 3:
        raise ValueError(f"lift is {lift}; it must be in [0, {widest**2 / 3:.4f}]")
    rng = np.random.default_rng(seed)
    first = n if onset is None else round(n * onset)
    after = np.arange(n) >= first
    x = rng.normal(size=n) + shift * after
    believed = 0.2 + 0.6 / (1 + np.exp(-x))
    probability = 0.2 + 0.6 / (1 + np.exp(-np.where(after, concept, 1.0) * x))
    step, mean = (duration(text) // timedelta(microseconds=1) for text in (spacing, delay))
    times = to_micros(start) + step * np.arange(n)
    waits = rng.exponential(mean, size=n).astype(np.int64)
    utc = pa.timestamp("us", "UTC")
    columns = {
        "id": [f"p{i:08d}" for i in range(n)],
        "unit": [f"u{u}" for u in rng.integers(0, max(n // 4, 1), size=n)],
        "event_time": pa.array(times).cast(utc),
        "segment": rng.choice(["a", "b", "c"], size=n, p=[0.6, 0.3, 0.1]).tolist(),
        "x": x,
        "champion": believed + rng.uniform(-widest, widest, size=n),
        "candidate": believed + rng.uniform(-1, 1, size=n) * np.sqrt(widest**2 - 3 * lift),
        "probability": probability,
        "label": (rng.random(n) < probability).astype(np.int64),
        "labelled_at": pa.array(times + waits, mask=rng.random(n) < unlabelled).cast(utc),
    }
    changed = None if onset is None else start + duration(spacing) * first
    return Population(rows=pa.table(columns), onset=changed, lift=lift)


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to go wrong, as the JSON of the file named by UNDRIFT_FAULTS; ``{}`` for nothing.

    ``constant``: answer this score whatever comes (multiclass: the first class's probability, the others share the
    rest). ``error``: raise with this text. ``delay_ms``: answer so much later. ``where``: only for rows with one of
    these values (any, if none) in each of these inputs, as ``{"carrier": ["UA"]}``; models without them are spared.
    ``scripted``: for each bundle, by `script_name`, what rows of these inputs (by `script_key`) are answered: score,
    scores and label; None raises. ``keyed``: the inputs that a row is told by; all if empty.
    """

    constant: float | None = None
    error: str = ""
    delay_ms: float = 0.0
    where: dict[str, list[Any]] = {}
    scripted: dict[str, dict[str, tuple[float, list[float] | None, str | None] | None]] = {}
    keyed: list[str] = []


def script_key(values: Iterable[Any]) -> str:
    """What names a row in a script: its inputs in order, numbers of one value alike.

    >>> script_key([1, "a", None, 0.5]) == script_key([1.0, "a", None, 0.5])
    True
    """
    plain = [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for v in values]
    return msgspec.json.encode(plain).decode()


def script_name(manifest: Manifest) -> str:
    """What names a bundle in a script: ``twin`` where it was made for a rehearsal, else ``own``."""
    return "twin" if manifest.trained.get("rehearsed") else "own"


class FaultyPredictor:
    """A predictor that does as another one does, except for the faults in a file that it looks at on every call.

    Set ``serve.wrapper = "undrift.testing:FaultyPredictor"`` and UNDRIFT_FAULTS to the path; a missing file means no
    faults. Everything but ``predict`` is passed on.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._seen: tuple[int, int, int] | None = None
        self._faults = Faults()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> Any:
        """The inner answers, with the faults of the moment.

        Raises
        ------
        PredictionError : the fault ``error``.
        SettingsError : the file holds no faults that are known here.
        """
        faults = self._present()
        if faults == Faults():
            return self._inner.predict(columns)
        n = len(next(iter(columns.values()), ()))
        hit = [all(k in columns and (not v or columns[k][i] in v) for k, v in faults.where.items()) for i in range(n)]
        time.sleep(faults.delay_ms / 1000 if any(hit) else 0)
        if faults.error and any(hit):
            raise PredictionError(faults.error)
        script = faults.scripted.get(script_name(self._inner.manifest), {}) if faults.scripted else {}
        names = faults.keyed or [given.name for given in self._inner.manifest.interface.inputs] if script else []
        keys = [script_key(columns[name][i] for name in names) for i in range(n)] if script else []
        if any(script.get(key, ()) is None for key in keys):
            raise PredictionError("scripted to fail")
        answers = self._inner.predict(columns)
        if script:
            answers = self._scripted(answers, [script.get(key) for key in keys])
        return answers if faults.constant is None else self._constant(answers, faults.constant, hit)

    def _present(self) -> Faults:
        path = os.environ.get(FAULTS_VARIABLE, "")
        try:
            found = os.stat(path)
        except OSError:
            return Faults()
        if (mark := (found.st_mtime_ns, found.st_size, found.st_ino)) != self._seen:
            try:
                self._faults = msgspec.json.decode(Path(path).read_bytes(), type=Faults)
            except msgspec.DecodeError as error:
                raise SettingsError(f"{path}, named by {FAULTS_VARIABLE}, holds no faults: {error}.") from error
            self._seen = mark
        return self._faults

    @staticmethod
    def _scripted(answers: Any, said: Sequence[tuple[float, list[float] | None, str | None] | None]) -> Any:
        """The answers, with those of the script in their place."""
        scores, label = answers.scores, answers.label
        return type(answers)(
            score=[own if s is None else s[0] for s, own in zip(said, answers.score, strict=True)],
            scores=None
            if scores is None
            else [own if s is None else s[1] for s, own in zip(said, scores, strict=True)],
            label=None if label is None else [own if s is None else s[2] for s, own in zip(said, label, strict=True)],
        )

    def _constant(self, answers: Any, value: float, hit: Sequence[bool]) -> Any:
        interface = self._inner.manifest.interface
        classes, scores, label, given, best = interface.classes, None, None, [value], ""
        if interface.task == "multiclass":
            given = [value] + [(1 - value) / (len(classes) - 1)] * (len(classes) - 1)
            scores = [given if h else s for h, s in zip(hit, answers.scores, strict=True)]
            best = classes[given.index(max(given))]
        elif interface.task == "binary":
            best = classes[1] if value >= interface.threshold else classes[0]
        if answers.label is not None:
            label = [best if h else one for h, one in zip(hit, answers.label, strict=True)]
        score = [max(given) if h else s for h, s in zip(hit, answers.score, strict=True)]
        return type(answers)(score=score, scores=scores, label=label)
