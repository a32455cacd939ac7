"""Training: the fits over folds and the held-out tail, and the bundle and the run that come of them.

The model that is bundled is fitted on everything before the held-out tail, and is the very one that was measured on it
in the form in which it will serve. What was measured there is what monitors expect later. The reference profile holds
the inputs of the rows it was trained on, and scores, predictions and labels of the held-out tail.
"""

from __future__ import annotations

import os
import time as clock
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from undrift.develop.bundle import MANIFEST_FILE, Interface, Manifest, revision_id
from undrift.develop.folds import Fold, TrainingData, split
from undrift.develop.networks import as_model
from undrift.develop.packing import pack
from undrift.develop.performance import LOSSES, Scored, mean_interval, metric_values
from undrift.develop.rows import ask, in_order
from undrift.develop.tracking import environment
from undrift.errors import DeclarationError, PredictionError, StateError
from undrift.ids import duration
from undrift.plugins import resolve_path
from undrift.settings import TrustSettings
from undrift.state.ports import Artifacts

if TYPE_CHECKING:
    from undrift.develop.tracking import MlflowTracking

__all__ = ["Fitted", "Trained", "TrainingData", "finish", "fit", "threads_limited"]

Function = Callable[[TrainingData], Any]


@dataclass(frozen=True)
class Fitted:
    """A model that learnt and was measured, but is not bundled yet: most challengers end here.

    Parameters
    ----------
    scored, rival : the held-out rows as the model and the baseline answered them, before any compiling.
    fold_metrics : each metric over the folds, the earliest first.
    train_rows, tail : what it learnt from, and the held-out rows.
    unlabelled : rows without a label, which were left out.
    seconds : how long each stage took.
    """

    model: Any
    scored: Scored
    rival: Scored | None
    fold_metrics: dict[str, list[float]]
    train_rows: TrainingData
    tail: TrainingData
    rows: int
    unlabelled: int
    how: dict[str, Any]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """A trained version, bundled but not yet judged or registered.

    Parameters
    ----------
    bundle, revision : hash of the bundle, and the revision it makes.
    metrics : on the held-out tail, in the form that serves.
    fold_metrics : each metric over the folds, the earliest first.
    candidate, rival : the held-out rows as the model and the baseline answered them; evidence for the gate.
    run_id : of the tracked run; empty if there was no tracking, or it failed (then ``problem`` says why).
    seconds : how long each stage took.
    """

    bundle: str
    revision: str
    manifest: Manifest
    model: Any
    metrics: dict[str, float]
    fold_metrics: dict[str, list[float]]
    baseline_metrics: dict[str, float]
    candidate: Scored
    rival: Scored | None
    dataset: str
    run_id: str
    problem: str
    seconds: dict[str, float]

    @property
    def compiled(self) -> dict[str, Any]:
        """Whether the compiled form serves, with the figures of the check, or why not."""
        return self.manifest.compiled


def fit(
    interface: Interface,
    function: Function,
    table: pa.Table,
    *,
    baseline: Function | None = None,
    folds: int = 3,
    holdout: float = 0.2,
    gap: str | timedelta = "0s",
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Fitted:
    """Fit a model and measure it on later rows than it saw.

    Parameters
    ----------
    function, baseline : take `TrainingData` and return a fitted model: anything with predict_proba or predict, or a
        network of PyTorch or Keras.
    table : rows with all inputs (features joined already), the label, the time and the segments.
    folds, holdout, gap : see `folds.split`.
    say : takes one line per stage.

    Raises
    ------
    DataError : the table cannot be trained on.
    DeclarationError : a train function raises or returns no model.
    PredictionError : the model answers something that is no prediction.
    """
    begun = clock.perf_counter()
    data = TrainingData.of(interface, table, seed=seed)
    splits = split(data.n, data.time, folds=folds, holdout=holdout, gap=duration(gap))
    laid_out = clock.perf_counter() - begun
    fold_metrics = _cross_validate(function, data, splits.folds, say)
    say(f"fitting on {len(splits.final.train):,} rows, measuring on {len(splits.final.test):,} later ones")
    train_rows, tail = data.take(splits.final.train), data.take(splits.final.test)
    model = _fit(function, train_rows)
    rival = None
    if baseline is not None:
        say("fitting the baseline")
        rival = _scored(_fit(baseline, train_rows), tail)
    return Fitted(
        model=model,
        scored=_scored(model, tail),
        rival=rival,
        fold_metrics=fold_metrics,
        train_rows=train_rows,
        tail=tail,
        rows=data.n,
        unlabelled=table.num_rows - data.n,
        how={"folds": folds, "holdout": holdout, "seed": seed},
        seconds={"layout": laid_out, "fits": clock.perf_counter() - begun - laid_out},
    )


def finish(
    fitted: Fitted,
    interface: Interface,
    *,
    artifacts: Artifacts,
    trust: TrustSettings | None = None,
    tracking: MlflowTracking | None = None,
    dataset: str = "",
    dataset_hash: str = "",
    code: Mapping[str, str] | None = None,
    root: Path | None = None,
    params: Mapping[str, Any] | None = None,
    quantised: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Compile and bundle a fitted model, measure it in the form that serves, and write the run down.

    Parameters
    ----------
    dataset, dataset_hash : which stored dataset the rows are, for the record.
    code : source text of the modules that transforms name.
    root : the project's folder, whose git commit is recorded.
    quantised : see `packing.pack`.

    Raises
    ------
    PredictionError : the model answers something that is no prediction.
    UntrustedModelError : the model cannot be stored in a form that the trust settings allow to be opened again.
    """
    begun = clock.perf_counter()
    model, train_rows, tail = fitted.model, fitted.train_rows, fitted.tail
    say("compiling and bundling")
    expected: dict[str, Any] = {
        "rows": fitted.rows,
        "train_rows": train_rows.n,
        "holdout_rows": tail.n,
        "unlabelled_rows": fitted.unlabelled,
        **fitted.how,
        "dataset": dataset,
        "dataset_hash": dataset_hash,
        "fold_metrics": fitted.fold_metrics,
        "environment": environment(root),
        **({"from": str(tail.time[0]), "to": str(tail.time[-1])} if tail.time is not None else {}),
    }
    packed = pack(
        model,
        interface,
        inputs_of=train_rows.table,
        rows=tail.table,
        label=tail.y,
        time=tail.time,
        outputs=class_outputs(model, interface),
        trust=trust or TrustSettings(),
        artifacts=artifacts,
        code=code,
        trained=expected,
        quantised=quantised,
    )
    metrics = metric_values(packed.scored)
    baseline_metrics = {} if fitted.rival is None else metric_values(fitted.rival)
    seconds = {**fitted.seconds, "bundle": clock.perf_counter() - begun}
    run_id, problem = "", ""
    if tracking is not None:
        say("writing the run down")
        try:
            run_id = _track(
                tracking, packed.manifest, packed.bundle, packed.scored, metrics, baseline_metrics,
                fitted.fold_metrics, _parameters(model, params),
            )  # fmt: skip
        except StateError as error:  # the version exists and is whole; that MLflow is away is said, not fatal
            problem = str(error)
    seconds["tracking"] = clock.perf_counter() - begun - seconds["bundle"]
    seconds["total"] = sum(seconds.values())
    return Trained(
        bundle=packed.bundle,
        revision=revision_id(packed.bundle),
        manifest=packed.manifest,
        model=model,
        metrics=metrics,
        fold_metrics=fitted.fold_metrics,
        baseline_metrics=baseline_metrics,
        candidate=packed.scored,
        rival=fitted.rival,
        dataset=dataset,
        run_id=run_id,
        problem=problem,
        seconds=seconds,
    )


@contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """Let numeric libraries use so many threads in this block; 0 for half of the cores.

    Threads of OpenMP wait by spinning: where something else wants the same cores, a fit with fewer is faster, by far.
    """
    limited = resolve_path("threadpoolctl:threadpool_limits", wanted_for="limiting threads")  # comes with scikit-learn
    with limited(limits=threads or max((os.cpu_count() or 2) // 2, 1)):
        yield


def _cross_validate(
    function: Function, data: TrainingData, folds: tuple[Fold, ...], say: Callable[[str], None]
) -> dict[str, list[float]]:
    found: list[dict[str, float]] = []
    for number, fold in enumerate(folds, 1):
        say(f"fold {number} of {len(folds)}: {len(fold.train):,} rows, then {len(fold.test):,}")
        found.append(metric_values(_scored(_fit(function, data.take(fold.train)), data.take(fold.test))))
    shared = [name for name in (found[0] if found else ()) if all(name in metrics for metrics in found)]
    return {name: [metrics[name] for metrics in found] for name in shared}


def _fit(function: Function, data: TrainingData) -> Any:
    name = f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', function)}"
    try:
        model = as_model(function(data))
    except Exception as error:
        file = getattr(getattr(function, "__code__", None), "co_filename", "")
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        where = f" (line {lines[-1]} of {Path(file).name})" if lines else ""
        raise DeclarationError(f"the train function {name} raised {type(error).__name__}: {error}{where}.") from error
    if not hasattr(model, "predict"):
        raise DeclarationError(
            f"the train function {name} returned a {type(model).__name__}, which has no `predict`.",
            hint="Return the fitted model.",
        )
    return model


def _scored(model: Any, data: TrainingData) -> Scored:
    interface = data.interface
    raw = in_order(interface, ask(model, interface.task, data.X), class_outputs(model, interface))
    return Scored(interface=interface, table=data.table, label=data.y, raw=raw, time=data.time)


def class_outputs(model: Any, interface: Interface) -> tuple[str, ...]:
    """The class of each probability column of a model trained on class codes; empty if they are just the interface's.

    Raises
    ------
    PredictionError : the model knows classes that are no codes of the interface's.
    """
    codes = getattr(model, "classes_", None)
    if codes is None or interface.task == "regression":
        return ()
    try:
        names = tuple(interface.classes[int(code)] for code in codes)
    except (ValueError, IndexError) as error:
        raise PredictionError(
            f"the model knows the classes {list(codes)}, but labels were given as 0..{len(interface.classes) - 1}.",
            hint="Fit on `data.y` as it is.",
        ) from error
    return () if names == interface.classes else names


def _parameters(model: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    own = model.get_params() if hasattr(model, "get_params") else {}
    plain = {name: value for name, value in own.items() if isinstance(value, str | int | float | bool | None)}
    return {"model": type(model).__name__, **plain, **(given or {})}


def _track(
    tracking: MlflowTracking,
    manifest: Manifest,
    bundle: str,
    scored: Scored,
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    fold_metrics: Mapping[str, list[float]],
    params: Mapping[str, Any],
) -> str:
    values = {f"holdout.{name}": value for name, value in metrics.items()}
    values.update({f"baseline.{name}": value for name, value in baseline.items()})
    for name in LOSSES[manifest.interface.task]:
        interval = mean_interval(scored.losses[name], scored.units)
        if np.isfinite([interval.lower, interval.upper]).all():
            values.update({f"holdout.{name}.lower": interval.lower, f"holdout.{name}.upper": interval.upper})
    said = manifest.trained
    kept = ("rows", "train_rows", "holdout_rows", "unlabelled_rows", "folds", "holdout", "seed")
    return tracking.log_run(
        manifest.interface.model,
        params={**{name: said[name] for name in kept}, **params},
        metrics=values,
        series={f"fold.{name}": steps for name, steps in fold_metrics.items()},
        tags={
            "undrift.bundle": bundle,
            "undrift.revision": revision_id(bundle),
            "undrift.dataset": said["dataset"],
            "undrift.dataset_hash": said["dataset_hash"],
            "undrift.format": manifest.format,
            **{f"undrift.{name}": value for name, value in said["environment"].items()},
        },
        texts={MANIFEST_FILE: msgspec.json.format(msgspec.json.encode(manifest), indent=1).decode()},
    )
