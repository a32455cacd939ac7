"""Predictors: compiled and native say the same, and nothing that is not what was registered is handed out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from undrift.develop.bundle import GOLDEN_FILE, MANIFEST_FILE, Manifest, read_manifest
from undrift.errors import CorruptModelError, ModelError, PredictionError, UntrustedModelError
from undrift.ids import hash_file
from undrift.inference.predictor import NativePredictor, OnnxPredictor, Predictor, load
from undrift.settings import TrustSettings

TRUST = TrustSettings(skops_types=("numpy.dtype",))
COLUMNS: dict[str, list[Any]] = {
    "carrier": ["UA", "AA", None, "ZZ"],
    "distance": [100.0, 2500.0, 900.0, 1.0],
    "hour": [0, 23, 7, 12],
    "temp": [10.0, None, None, 31.5],
    "weekend": [0.0, 1.0, None, 0.0],
}


def copy_of(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "copy"))


def rehash(folder: Path) -> None:
    """Make the manifest agree with changed files, as whoever tampers with all of a bundle would."""
    manifest = read_manifest(folder, verify=False)
    files = {name: hash_file(folder / name) for name in manifest.files}
    manifest = msgspec.structs.replace(manifest, files=files)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))


def test_compiled_and_native_answer_alike_absent_and_unseen_values_too(bundles: dict[str, Path]) -> None:
    compiled, native = load(bundles["r-one"], TRUST), load(bundles["r-native"], TRUST)
    assert isinstance(compiled, OnnxPredictor)
    assert isinstance(native, NativePredictor)
    a, b = compiled.predict(COLUMNS), native.predict(COLUMNS)
    assert a.score == pytest.approx(b.score, abs=1e-5)
    assert a.label == b.label == ["1" if score >= 0.5 else "0" for score in b.score]
    assert a.scores is None


def test_a_multiclass_model_answers_all_classes_in_the_order_of_the_interface(bundles: dict[str, Path]) -> None:
    predictor = load(bundles["r-bands"], TRUST)
    assert predictor.manifest.interface.classes != predictor.manifest.outputs  # the model has them in another order
    outputs = predictor.predict(COLUMNS)
    assert outputs.scores is not None
    assert outputs.label is not None
    for scores, score, label in zip(outputs.scores, outputs.score, outputs.label, strict=True):
        assert sum(scores) == pytest.approx(1.0, abs=1e-5)
        assert score == max(scores)
        assert label == ("low", "middle", "high")[scores.index(score)]


def test_a_regression_answers_values_only(bundles: dict[str, Path]) -> None:
    outputs = load(bundles["r-delay"], TRUST).predict(COLUMNS)
    assert (outputs.scores, outputs.label) == (None, None)
    assert len(outputs.score) == 4


def test_a_missing_column_is_the_models_failure(bundles: dict[str, Path]) -> None:
    with pytest.raises(PredictionError, match="'hour' is missing"):
        load(bundles["r-one"], TRUST).predict({name: v for name, v in COLUMNS.items() if name != "hour"})


def test_a_changed_file_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bundles["r-one"], tmp_path)
    (folder / "model.onnx").write_bytes(b"something else")
    with pytest.raises(CorruptModelError, match="not the file that was registered"):
        load(folder, TRUST)


def test_a_file_that_is_no_model_is_refused_in_one_line(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bundles["r-one"], tmp_path)
    (folder / "model.onnx").write_bytes(b"something else")
    rehash(folder)
    with pytest.raises(CorruptModelError, match="onnxruntime") as caught:
        load(folder, TRUST)
    assert "\n" not in caught.value.message


def test_a_model_that_answers_other_than_on_record_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bundles["r-one"], tmp_path)
    shutil.copy(bundles["r-two"] / "model.onnx", folder)
    rehash(folder)
    with pytest.raises(CorruptModelError, match=r"golden request \d+ is answered"):
        load(folder, TRUST)


def test_golden_requests_that_cannot_be_asked_are_a_models_failure(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bundles["r-one"], tmp_path)
    rows = msgspec.json.decode((folder / GOLDEN_FILE).read_bytes())
    rows[0]["inputs"]["hour"] = "noon"
    (folder / GOLDEN_FILE).write_bytes(msgspec.json.encode(rows))
    rehash(folder)
    with pytest.raises(ModelError, match="cannot answer its golden requests"):
        load(folder, TRUST)


@pytest.mark.parametrize("name", ["r-one", "r-native"])
def test_a_format_that_is_not_trusted_is_not_opened(bundles: dict[str, Path], name: str) -> None:
    with pytest.raises(UntrustedModelError, match=r"trust\.formats"):
        load(bundles[name], TrustSettings(formats=("xgboost",)))


def test_a_model_of_other_inputs_than_declared_is_refused(bundles: dict[str, Path]) -> None:
    manifest = read_manifest(bundles["r-one"])
    fewer = msgspec.structs.replace(manifest.interface, transforms=())
    changed: Manifest = msgspec.structs.replace(manifest, interface=fewer)
    with pytest.raises(CorruptModelError, match="'weekend'"):
        OnnxPredictor(changed, bundles["r-one"] / "model.onnx")


def test_what_load_gives_is_a_predictor(bundles: dict[str, Path]) -> None:
    predictor: Predictor = load(bundles["r-one"], TRUST)
    assert predictor.manifest.interface.model == "flights"
