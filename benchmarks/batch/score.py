"""Batch scoring from Parquet to Parquet: `score_file` against a row-by-row loop and against the model's own speed.

    python benchmarks/batch/score.py [--rows N]

The model: a scikit-learn pipeline of four one-hot categoricals, twelve numbers and 100 histogram trees, trained and
compiled by undrift. One run, on the same rows: the loop that a service client would write (the pipeline asked for one
row at a time, and the compiled predictor asked so), the model alone (the compiled model and the pipeline over columns
that are in memory and encoded already: nothing read, checked or written), and `score_file` on one and on two threads.
Written to results.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
TRAIN = """
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def train(data):
    columns = ColumnTransformer(
        [("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), data.categorical),
         ("numbers", "passthrough", data.numeric)], sparse_threshold=0)
    model = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=data.seed)
    return make_pipeline(columns, model).fit(data.X, data.y)


def baseline(data):
    from sklearn.dummy import DummyClassifier

    return DummyClassifier().fit(data.X, data.y)
"""
ONE_BY_ONE = 300


def table(n: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"id": pa.array([f"r{i}" for i in range(n)])}
    for k in range(4):
        columns[f"c{k}"] = pa.array(np.array([f"value {i}" for i in range(10)])[rng.integers(0, 10, n)])
    for k in range(12):
        columns[f"n{k}"] = rng.normal(0, 1, n).clip(-4, 4)
    logit = columns["n0"] + columns["n1"] * columns["n2"] + (rng.integers(0, 10, n) == 3)
    return pa.table({**columns, "late": (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)})


def undrift(*words: str, cwd: Path) -> None:
    subprocess.run([sys.executable, "-m", "undrift.app.cli", *words], cwd=cwd, check=False, stdout=subprocess.DEVNULL)


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    rows = parser.parse_args().rows
    import undrift as ud
    from undrift.data.inspect import check
    from undrift.develop.bundle import MODEL_FILES
    from undrift.develop.rows import native_rows, table_columns
    from undrift.develop.trust import open_model
    from undrift.inference.predictor import load

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(table(6000, 1), folder / "train.parquet")
        undrift("init", "p", "--data", "train.parquet", "--label", "late", "--key", "id", cwd=folder)
        (folder / "p" / "train.py").write_text(TRAIN)
        undrift("train", cwd=folder / "p")
        undrift("promote", "--force", "--why", "a benchmark", cwd=folder / "p")
        many = table(rows, 2).drop_columns(["late"])
        pq.write_table(many, folder / "in.parquet")
        with ud.open(folder / "p") as project:
            version = project.version("p", None)
            bundle, trust = project.artifacts.get(version["bundle"]), project.settings.trust
            predictor = load(bundle, trust)
            manifest = predictor.manifest
            assert manifest.format == "onnx", manifest.compiled
            native = open_model(bundle / MODEL_FILES[manifest.native], manifest.native, trust)
            inputs = manifest.interface.inputs
            columns = table_columns(inputs, check(many, manifest.interface.contract).accepted)
            matrix = native_rows(manifest, columns)
            few = [{k: v[i : i + 1] for k, v in columns.items()} for i in range(ONE_BY_ONE)]
            parts = [{k: v[i : i + 50_000] for k, v in columns.items()} for i in range(0, rows, 50_000)]
            for part in (parts[0], few[0]):
                predictor.predict(part)  # warm
            native.predict_proba(matrix[:1000])
            found = {
                "pipeline, row by row": timed(
                    lambda: [native.predict_proba(matrix[i : i + 1]) for i in range(ONE_BY_ONE)]
                )
                / ONE_BY_ONE,
                "compiled, row by row": timed(lambda: [predictor.predict(row) for row in few]) / ONE_BY_ONE,
                "model alone, compiled, one thread": timed(lambda: [predictor.predict(p) for p in parts]) / rows,
                "model alone, pipeline, all cores": timed(lambda: native.predict_proba(matrix)) / rows,
            }
            for workers in (1, 2):
                out = folder / f"out{workers}.parquet"
                done: Any = None

                def work(out: Path = out, workers: int = workers) -> None:
                    nonlocal done
                    done = ud.score_file(project, folder / "in.parquet", out, workers=workers)

                seconds = timed(work)
                assert (done.rows, done.scored) == (rows, rows), done
                found[f"score_file, {workers} thread(s)"] = seconds / rows
            size = (folder / "in.parquet").stat().st_size / 2**20
    one, two = found["score_file, 1 thread(s)"], found["score_file, 2 thread(s)"]
    lines = [
        "# Batch scoring",
        "",
        f"{rows:,} rows ({size:.0f} MiB of Parquet), written by `python benchmarks/batch/score.py --rows {rows}` on",
        f"{os.cpu_count()} cores, Python {platform.python_version()}. `score_file` reads, checks every row by the",
        "contract, predicts, commits parts to disk (synced) and then one file; the model alone does none of it.",
        "",
        "| | rows a second | of `score_file`, 2 threads |",
        "|---|---|---|",
        *(f"| {name} | {1 / seconds:,.0f} | {two / seconds:.3g} |" for name, seconds in found.items()),
        "",
        f"- {found['pipeline, row by row'] / two:,.0f} times the loop over the pipeline, "
        f"{found['compiled, row by row'] / two:.1f} times the loop over the compiled model.",
        f"- One thread reaches {found['model alone, compiled, one thread'] / one:.2f} of the model alone on one;",
        f"  two threads {found['model alone, compiled, one thread'] / two:.2f} of it, and "
        f"{found['model alone, pipeline, all cores'] / two:.2f} of the pipeline alone on all cores.",
        f"- Two threads are {one / two:.2f} times as fast as one.",
    ]
    (HERE / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
