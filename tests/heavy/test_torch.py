"""Networks of PyTorch: trained or adopted, compiled where that holds, else served by PyTorch, never opened blindly."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.develop.conftest import train
from torch import nn

from undrift.develop.adoption import adopt
from undrift.develop.folds import TrainingData
from undrift.develop.networks import Network, as_model, open_torch
from undrift.errors import CorruptModelError, DeclarationError, ModelError, PredictionError, UntrustedModelError
from undrift.inference.predictor import NativePredictor, OnnxPredictor, load
from undrift.settings import TrustSettings
from undrift.state.artifacts import DirectoryArtifacts

NUMBERS = ("a", "b", "c")
TORCH = TrustSettings(formats=("onnx", "torch"))
PICKLE = TrustSettings(formats=("onnx", "torch", "pickle"))


@pytest.fixture
def artifacts(tmp_path: Path) -> DirectoryArtifacts:
    return DirectoryArtifacts(tmp_path / "artifacts")


def example(n: int = 200) -> pa.Table:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 3))
    bought = (X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=n) > 0).astype(int)
    X[::9, 2] = np.nan
    table = {name: pa.array(X[:, i].tolist(), from_pandas=True) for i, name in enumerate(NUMBERS)}
    return pa.table({**table, "bought": bought, "price": 3 * X[:, 0] + 1})


class Net(nn.Module):
    """Knows what to do with absent values; ends in probabilities of both classes, of one, or in a value."""

    def __init__(self, answers: int = 2, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.hidden, self.norm, self.drop = nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.out, self.answers = nn.Linear(16, abs(answers)), answers

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found = self.out(self.drop(torch.relu(self.norm(self.hidden(torch.nan_to_num(rows))))))
        if self.answers < 0:
            return found
        return torch.softmax(found, dim=1) if self.answers > 1 else torch.sigmoid(found)


def exported(module: nn.Module, **how: Any) -> bytes:
    target = io.BytesIO()
    shapes = how or {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)}
    torch.export.save(torch.export.export(module.eval(), (torch.randn(5, 3),), **shapes), target)
    return target.getvalue()


def wanted(module: nn.Module, table: pa.Table) -> Any:
    X = np.column_stack([table[n].to_numpy(zero_copy_only=False) for n in NUMBERS]).astype(np.float32)
    with torch.inference_mode():
        return module.eval()(torch.from_numpy(X)).numpy()


def answered(bundle: str, artifacts: Any, table: pa.Table, trust: TrustSettings) -> tuple[Any, Any]:
    predictor = load(artifacts.get(bundle), trust)
    return predictor, predictor.predict({name: table[name].to_pylist() for name in NUMBERS})


def given(table: pa.Table, label: str = "bought") -> pa.Table:
    return table.select([*NUMBERS, label])


@pytest.mark.parametrize(("answers", "label"), [(2, "bought"), (1, "bought"), (-1, "price")])
def test_an_exported_program_is_compiled_and_then_needs_no_pytorch_to_serve(
    answers: int, label: str, tmp_path: Path, artifacts: Any
) -> None:
    module, table, file = Net(answers), example(), tmp_path / "net.pt2"
    file.write_bytes(exported(module))
    task: Any = "regression" if answers < 0 else "binary"
    found = adopt(
        file, given(table, label), name="net", label=label, task=task, artifacts=artifacts, trust=TORCH
    )  # fmt: skip
    assert found.manifest.compiled["held"], found.manifest.compiled["reason"]
    assert (found.manifest.format, found.manifest.native) == ("onnx", "torch")
    predictor, got = answered(found.bundle, artifacts, table, TrustSettings(formats=("onnx",)))
    assert isinstance(predictor, OnnxPredictor)
    raw = wanted(module, table)
    np.testing.assert_allclose(got.score, raw[:, -1], atol=1e-5)
    assert b"forward" not in (artifacts.get(found.bundle) / "model.onnx").read_bytes()  # no line of its author's code


def test_what_cannot_be_compiled_is_served_by_pytorch_with_the_reason_on_record(tmp_path: Path, artifacts: Any) -> None:
    class Strange(nn.Module):
        """A determinant of each row's outer matrix: an operator that ONNX exporters do not know."""

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            whole = torch.nan_to_num(rows)
            matrix = whole.unsqueeze(2) * whole.unsqueeze(1) + torch.eye(3)
            return torch.linalg.cholesky_ex(matrix)[0].diagonal(dim1=1, dim2=2).log().sum(1)

    table, file = example(), tmp_path / "strange.pt2"
    file.write_bytes(exported(Strange()))
    found = adopt(
        file, given(table, "price"), name="net", label="price", task="regression", artifacts=artifacts, trust=TORCH
    )  # fmt: skip
    assert found.manifest.format == found.manifest.native == "torch"
    assert "cannot be converted" in found.manifest.compiled["reason"]
    predictor, got = answered(found.bundle, artifacts, table, TORCH)
    assert isinstance(predictor, NativePredictor)
    np.testing.assert_allclose(got.score, wanted(Strange(), table), atol=1e-5)
    one = predictor.predict({name: table[name].to_pylist()[:1] for name in NUMBERS})
    assert one.score == pytest.approx(got.score[:1], abs=1e-6)
    with pytest.raises(UntrustedModelError, match=r"'torch', which trust\.formats does not allow"):
        answered(found.bundle, artifacts, table, TrustSettings())
    kept = artifacts.get(found.bundle) / "model.torch.pt2"
    kept.chmod(0o644)
    kept.write_bytes(exported(Net(-1)))
    with pytest.raises(CorruptModelError, match="not the ones that were stored"):
        answered(found.bundle, artifacts, table, TORCH)


def test_a_train_function_may_return_a_module(artifacts: Any, numbers: Any) -> None:
    def fit(data: TrainingData) -> nn.Module:
        torch.manual_seed(data.seed)
        X = torch.from_numpy(data.X.astype(np.float32))
        y = torch.from_numpy(data.y).long()
        module = Net()
        how = torch.optim.Adam(module.parameters(), lr=0.05)
        for _ in range(30):
            how.zero_grad()
            nn.functional.nll_loss(torch.log(module(X) + 1e-9), y).backward()
            how.step()
        return module  # still in training mode: dropout must not be in its answers

    interface, table = numbers(example(400))
    done = train(interface, fit, table, artifacts=artifacts, folds=1, trust=TrustSettings(formats=("onnx",)))
    assert done.manifest.format == "onnx", done.compiled["reason"]
    assert "model.torch.pt2" not in done.manifest.files  # it could not be opened again
    assert done.metrics["error"] < 0.35
    trusted = train(interface, fit, table, artifacts=artifacts, folds=0, trust=TORCH)
    assert (trusted.manifest.format, trusted.manifest.native) == ("onnx", "torch")
    assert trusted.metrics == pytest.approx(done.metrics)


def test_a_network_that_answers_logits_says_what_is_missing(artifacts: Any, numbers: Any) -> None:
    interface, table = numbers(example(400))
    with pytest.raises(PredictionError, match=r"no probabilities(?s:.*)softmax or a sigmoid"):
        train(interface, lambda data: Net(-2), table, artifacts=artifacts, folds=0)


def test_a_module_whose_number_of_rows_is_fixed_says_how_to_export_it(tmp_path: Path, artifacts: Any) -> None:
    file = tmp_path / "net.pt2"
    file.write_bytes(exported(Net(), strict=False))
    with pytest.raises(ModelError, match=r"dynamic n|raised while predicting"):
        adopt(file, given(example()), name="n", label="bought", task="binary", artifacts=artifacts, trust=TORCH)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def tampered(content: bytes, name: str, change: Any) -> bytes:
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for part in source.namelist():
            out.writestr(part, change(source.read(part)) if part.endswith(name) else source.read(part))
    return target.getvalue()


def said(change: Any) -> Any:
    def rewrite(content: bytes) -> bytes:
        found = json.loads(content)
        change(found)
        return json.dumps(found).encode()

    return rewrite


def pickled(config: Any) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def call(target: str) -> Any:
    return lambda found: found["graph_module"]["graph"]["nodes"][0].update(target=target)


ATTACKS: dict[str, tuple[str, Any, str]] = {
    "a pickled weight": ("model_weights_config.json", said(pickled), "the pickled"),
    "a call of the shell": ("models/model.json", said(call("torch.os.system")), r"torch\.os\.system"),
    "a file that is mapped": ("models/model.json", said(call("torch.ops.aten.from_file.default")), "from_file"),
    "guards": ("models/model.json", said(lambda found: found.update(guards_code=["exit()"])), "code of guards"),
    "an expression": (
        "models/model.json",
        lambda content: content.replace(b"Symbol('", b"__import__('os').system('"),
        "the expression",
    ),
    "a name that is code": (
        "models/model.json",
        lambda content: content.replace(b'"name": "rows"', b'"name": "rows=exit()"'),
        "the name 'rows=exit",
    ),
}


@pytest.mark.parametrize("kind", [*ATTACKS, "sample inputs"])
def test_a_program_that_would_run_more_than_operators_is_refused_before_it_is_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, mark = exported(Net()), tmp_path / "ran"
    if kind == "sample inputs":
        bomb = io.BytesIO()
        torch.save((Bomb(mark),), bomb)
        evil, match = tampered(content, "sample_inputs/model.pt", lambda _: bomb.getvalue()), "sample inputs"
        with suppress(TypeError):  # of a log message of PyTorch's that lacks an argument
            torch.export.load(io.BytesIO(evil))  # what PyTorch itself does with it
        assert mark.exists()
        mark.unlink()
    else:
        part, change, match = ATTACKS[kind]
        evil = tampered(content, part, change)
        assert evil != tampered(content, part, lambda same: same)
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UntrustedModelError, match=match):
        open_torch(evil, "evil.pt2")
    assert not mark.exists()


def test_a_pickled_module_and_torchscript_need_the_word_pickle(tmp_path: Path, artifacts: Any) -> None:
    module, table = Net(), example()
    script, whole = tmp_path / "script.pt", tmp_path / "whole.pth"
    torch.jit.save(torch.jit.trace(module.eval(), torch.randn(4, 3)), script)
    torch.save(module, whole)
    for file in (script, whole):
        with pytest.raises(UntrustedModelError, match=r"'pickle', which trust\.formats does not allow"):
            adopt(file, given(table), name="n", label="bought", task="binary", artifacts=artifacts, trust=TORCH)
        found = adopt(file, given(table), name="n", label="bought", task="binary", artifacts=artifacts, trust=PICKLE)
        assert found.manifest.format == "onnx", found.manifest.compiled["reason"]
        assert found.manifest.native == ("pickle" if file == script else "torch")
        _, got = answered(found.bundle, artifacts, table, TrustSettings(formats=("onnx",)))
        np.testing.assert_allclose(got.score, wanted(module, table)[:, 1], atol=1e-5)


def test_weights_alone_and_damaged_files_say_what_they_are(tmp_path: Path, artifacts: Any) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(Net().state_dict(), weights)
    with pytest.raises(ModelError, match="weights alone do not say what to compute"):
        adopt(weights, given(example()), name="n", label="bought", artifacts=artifacts, trust=PICKLE)
    (tmp_path / "half.pt2").write_bytes(exported(Net())[:900])
    with pytest.raises((CorruptModelError, UntrustedModelError)):
        adopt(tmp_path / "half.pt2", given(example()), name="n", label="bought", artifacts=artifacts, trust=TORCH)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError):
        adopt(tmp_path / "plain.pt", given(example()), name="n", label="bought", artifacts=artifacts, trust=PICKLE)


def test_text_is_no_input_of_a_network() -> None:
    network = as_model(Net())
    assert isinstance(network, Network)
    with pytest.raises(PredictionError, match=r"rows of numbers(?s:.*)Encode text"):
        network.predict(np.array([["a", 1.0, 2.0]], dtype=object))


def test_a_train_function_that_returns_no_model_still_says_so(artifacts: Any, numbers: Any) -> None:
    interface, table = numbers(example(400))
    with pytest.raises(DeclarationError, match="returned a Tensor, which has no `predict`"):
        train(interface, lambda data: torch.zeros(3), table, artifacts=artifacts, folds=0)
