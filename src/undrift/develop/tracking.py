"""The doorway to MLflow's tracking: one run per training, with everything needed to make it again.

Values are written in batches (one by one costs 3 ms each), MLflow's loggers and warnings stay inside, nothing is sent
home. The models themselves are in our artifacts; a run holds their manifest and hash. The registry is in registry.py.
"""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from undrift.errors import StateError, UndriftError
from undrift.plugins import resolve_path

__all__ = ["MlflowTracking", "environment", "tracking_url"]

PACKAGES: Final = (
    "undrift",
    "numpy",
    "scipy",
    "pyarrow",
    "scikit-learn",
    "skops",
    "lightgbm",
    "xgboost",
    "xgboost-cpu",
    "skl2onnx",
    "onnxruntime",
)
_CHATTY: Final = ("mlflow", "alembic")
_MOST_TEXT: Final = 500
_BATCH: Final = {"metrics": 1000, "params": 100, "tags": 100}


def tracking_url(where: str) -> str:
    """An address as MLflow wants it: a bare path is a SQLite file."""
    return where if ":" in where else f"sqlite:///{Path(where).absolute().as_posix()}"


def environment(root: Path | None = None) -> dict[str, str]:
    """What a model was made with: Python, machine, versions of packages, and the code's commit if ``root`` is in git.

    ``code.commit`` ends in ``+changes`` when files differ from that commit.
    """
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[f"package.{name}"] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit = _git(root, "rev-parse", "HEAD")
    if commit:
        found["code.commit"] = commit + ("+changes" if _git(root, "status", "--porcelain", "-uno") else "")
    return found


def _git(root: Path | None, *arguments: str) -> str:
    if root is None:
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def quiet(what: str) -> Iterator[None]:
    """MLflow at work: no telemetry, no warnings or log lines of its own, the root logger as it was, errors as ours.

    Raises
    ------
    StateError : whatever MLflow or its database raised.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = [logging.getLogger(name).level for name in _CHATTY]
    _hush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UndriftError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise StateError(
            f"MLflow could not {what}: {type(error).__name__}: {text}",
            hint="stores.tracking in undrift.toml says where it is; training itself does not depend on it.",
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in zip(_CHATTY, levels, strict=True):
            logging.getLogger(name).setLevel(before)


def _hush() -> None:
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


class MlflowTracking:
    """Runs in an MLflow server, or in a SQLite file with the runs' small artifacts beside it.

    Parameters
    ----------
    where : ``http(s)://...``, ``sqlite:///...``, or the path of a SQLite file.
    """

    def __init__(self, where: str) -> None:
        self.url = tracking_url(where)
        self._experiments: dict[str, str] = {}
        self._client: Any = None

    @property
    def client(self) -> Any:
        """MLflow's own client, made on first use; use it inside `quiet`."""
        if self._client is None:
            made = resolve_path("mlflow:MlflowClient", wanted_for="tracking with MLflow", extra="mlflow")
            _hush()  # importing it has set its levels again
            self._client = made(tracking_uri=self.url, registry_uri=self.url)
        return self._client

    def log_run(
        self,
        model: str,
        *,
        name: str = "train",
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        series: Mapping[str, Sequence[float]] | None = None,
        tags: Mapping[str, str] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> str:
        """Write one finished run under the experiment named like the model; returns its id.

        Parameters
        ----------
        series : metrics with one value per step, such as per fold.
        texts : small artifacts, by file name.

        Raises
        ------
        StateError : MLflow or its database cannot be reached or refuses.
        MissingExtraError : MLflow is not installed.
        """
        with quiet("log a run"):
            from mlflow.entities import Metric, Param, RunTag

            now = int(time.time() * 1000)
            run = self.client.create_run(self._experiment(model), start_time=now, run_name=name)
            run_id: str = run.info.run_id
            values = [Metric(key, float(value), now, 0) for key, value in (metrics or {}).items()]
            for key, steps in (series or {}).items():
                values += [Metric(key, float(value), now, step) for step, value in enumerate(steps)]
            settings = [Param(key, str(value)[:_MOST_TEXT]) for key, value in (params or {}).items()]
            labels = [RunTag(key, str(value)) for key, value in (tags or {}).items()]
            while values or settings or labels:
                self.client.log_batch(
                    run_id,
                    metrics=values[: _BATCH["metrics"]],
                    params=settings[: _BATCH["params"]],
                    tags=labels[: _BATCH["tags"]],
                )
                del values[: _BATCH["metrics"]], settings[: _BATCH["params"]], labels[: _BATCH["tags"]]
            for file, text in (texts or {}).items():
                self.client.log_text(run_id, text, file)
            self.client.set_terminated(run_id, status="FINISHED")
        return run_id

    def _experiment(self, model: str) -> str:
        if model not in self._experiments:
            known = self.client.get_experiment_by_name(model)
            if known is None:
                folder = self._artifact_folder(model)
                self._experiments[model] = self.client.create_experiment(model, artifact_location=folder)
            else:
                self._experiments[model] = known.experiment_id
        return self._experiments[model]

    def _artifact_folder(self, model: str) -> str | None:
        if not self.url.startswith("sqlite:///"):
            return None  # a server knows where its artifacts go
        file = Path(self.url.removeprefix("sqlite:///")).absolute()
        return (file.parent / f"{file.stem}-artifacts" / model).as_uri()
