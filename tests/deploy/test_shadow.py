"""Replays in real child processes: good candidates, and ones that crash, hang, leak or cannot be loaded."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from undrift.deploy.shadow import replay
from undrift.develop.bundle import read_manifest, write_bundle
from undrift.inference.predictor import load
from undrift.settings import TrustSettings

TRUST = TrustSettings(skops_types=("numpy.dtype",))
UNSAFE = TrustSettings(formats=("pickle",))
COLUMNS: dict[str, list[Any]] = {
    "carrier": ["UA", "AA", None, "ZZ"] * 100,
    "distance": [100.0, 2500.0, 900.0, float("nan")] * 100,
    "hour": [0, 23, 7, 12] * 100,
    "temp": [10.0, None, None, 31.5] * 100,
    "weekend": [0.0, 1.0, None, 0.0] * 100,
}


class Trap:
    """Something that acts when it is opened, as a pickled model may."""

    def __init__(self, act: Any, *arguments: Any) -> None:
        self.does = (act, arguments)

    def __reduce__(self) -> Any:
        return self.does


class Fragile:
    """A model that raises on long distances."""

    classes_ = (0, 1)

    def predict_proba(self, X: Any) -> Any:
        import numpy as np

        distance = np.asarray(X[:, 1], dtype=float)
        if (distance > 2000).any():
            raise ValueError("too far")
        return np.stack([np.full(len(X), 0.75), np.full(len(X), 0.25)], axis=1)


def bundle_of(thing: object, folder: Path, like: Path) -> Path:
    manifest = read_manifest(like)
    code = {path.stem: path.read_text() for path in (like / "code").glob("*.py")}
    write_bundle(
        folder,
        interface=manifest.interface,
        format="pickle",
        native="pickle",
        models={"pickle": pickle.dumps(thing)},
        profile="{}",
        golden=[],
        code=code,
        outputs=("0", "1"),
    )
    return folder


def test_a_replay_answers_as_serving_would(bundles: dict[str, Path]) -> None:
    found = replay(bundles["r-one"], COLUMNS, 400, TRUST)
    assert (found.status, found.errors) == ("done", {})
    expected = load(bundles["r-one"], TRUST).predict({name: values[:4] for name, values in COLUMNS.items()})
    assert found.score[:4] == pytest.approx(expected.score)
    assert found.label is not None
    assert found.label[:4] == expected.label
    assert len(found.score) == 400


def test_columns_laid_out_for_the_model_are_answered_like_request_values(bundles: dict[str, Path]) -> None:
    import numpy as np

    from undrift.develop.rows import encode

    inputs = read_manifest(bundles["r-one"]).interface.inputs
    arrays = {
        i.name: np.asarray(encode(COLUMNS[i.name], i.type), dtype=object if i.type == "string" else np.float64)
        for i in inputs
    }
    given, laid_out = (replay(bundles["r-one"], columns, 400, TRUST) for columns in (COLUMNS, arrays))
    assert laid_out.status == "done", laid_out.problem
    assert laid_out.score == given.score


def test_rows_that_raise_cost_only_themselves(bundles: dict[str, Path], tmp_path: Path) -> None:
    # the class stands in a module that the child can import, as a team's own package would
    module = tmp_path / "fragile_model.py"
    source = Path(__file__).read_text()
    start, end = source.index("class Fragile"), source.index("def bundle_of")
    module.write_text(f"from typing import Any\n\n\n{source[start:end]}")
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pickle, sys, fragile_model as m; sys.stdout.buffer.write(pickle.dumps(m.Fragile()))",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    folder = bundle_of(0, tmp_path / "bundle", bundles["r-one"])
    model = next(folder.glob("model*"))
    model.chmod(0o644)
    model.write_bytes(made.stdout)
    rehash(folder)
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        found = replay(folder, COLUMNS, 400, UNSAFE)
    finally:
        del os.environ["PYTHONPATH"]
    assert found.status == "done", found.problem
    assert found.score[:4] == [0.25, None, 0.25, 0.25]
    assert sum(found.errors.values()) == 100
    assert "too far" in next(iter(found.errors))


def rehash(folder: Path) -> None:
    from undrift.develop.bundle import MANIFEST_FILE
    from undrift.ids import hash_file

    manifest = read_manifest(folder, verify=False)
    files = {name: hash_file(folder / name) for name in manifest.files}
    target = folder / MANIFEST_FILE
    target.chmod(0o644)
    target.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, files=files)))


def test_a_candidate_that_dies_is_a_crash_with_its_signal(bundles: dict[str, Path], tmp_path: Path) -> None:
    found = replay(bundle_of(Trap(os.abort), tmp_path / "b", bundles["r-one"]), COLUMNS, 400, UNSAFE)
    assert found.status == "crashed"
    assert "SIGABRT" in found.problem


def test_a_candidate_that_leaves_without_an_answer_is_a_crash_whatever_its_exit_code(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    for code in (0, 3):
        found = replay(bundle_of(Trap(os._exit, code), tmp_path / f"b{code}", bundles["r-one"]), COLUMNS, 400, UNSAFE)
        assert (found.status, found.score) == ("crashed", [])
        assert f"exit code {code}" in found.problem


def test_a_candidate_with_a_segmentation_fault_is_a_crash_with_its_signal(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = bundle_of(Trap(exec, "import ctypes; ctypes.string_at(0)"), tmp_path / "b", bundles["r-one"])
    found = replay(folder, COLUMNS, 400, UNSAFE)
    assert (found.status, found.score) == ("crashed", [])
    assert "SIGSEGV" in found.problem


def test_rows_are_timed_one_by_one_where_that_is_wanted(bundles: dict[str, Path]) -> None:
    assert replay(bundles["r-one"], COLUMNS, 400, TRUST).row_ms is None
    timed = replay(bundles["r-one"], COLUMNS, 400, TRUST, timed=True)
    assert timed.row_ms is not None
    assert 0 < timed.row_ms[0] <= timed.row_ms[1]


def test_a_candidate_that_hangs_is_ended_at_its_time(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = bundle_of(Trap(time.sleep, 600), tmp_path / "b", bundles["r-one"])
    found = replay(folder, COLUMNS, 400, UNSAFE, timeout=1.5)
    assert (found.status, found.score) == ("timeout", [])


def test_a_candidate_that_leaks_is_ended_at_its_memory(bundles: dict[str, Path], tmp_path: Path) -> None:
    leak = "import time; hoard = []\nfor _ in range(600): hoard.append(bytearray(4 << 20)); time.sleep(0.01)"
    folder = bundle_of(Trap(exec, leak), tmp_path / "b", bundles["r-one"])
    found = replay(folder, COLUMNS, 400, UNSAFE, memory_mb=600)
    assert found.status == "memory"
    assert found.peak_mb > 600


def test_a_candidate_that_may_not_be_opened_is_refused_with_the_reason(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    found = replay(bundle_of(Trap(os.abort), tmp_path / "b", bundles["r-one"]), COLUMNS, 400, TRUST)
    assert found.status == "refused"
    assert "pickle" in found.problem


def test_the_child_loads_neither_tables_nor_trackers() -> None:
    heavy = ("pyarrow", "sklearn", "mlflow", "duckdb", "scipy")
    program = f"import sys, undrift.deploy.shadow; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
