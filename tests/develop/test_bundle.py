from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from undrift.data.features import Feature, Transform
from undrift.develop import bundle
from undrift.errors import CorruptModelError, DeclarationError, ModelError
from undrift.ids import content_hash

CALENDAR = Transform(
    name="calendar",
    function="features:calendar",
    inputs=("hour",),
    outputs=(Feature(name="late_hour", type="boolean"),),
)
CODE = "import math\n\n\ndef calendar(row):\n    return {'late_hour': row['hour'] >= math.floor(20.5)}\n"


def write(folder: Path, interface: Any, **changes: Any) -> bundle.Manifest:
    parts: dict[str, Any] = {
        "interface": interface, "format": "onnx", "native": "skops",
        "models": {"onnx": b"graph", "skops": b"zip"}, "profile": "{}",
        "golden": [bundle.GoldenRow(inputs={"carrier": "UA"}, raw=[0.25, 0.75])],
        **changes,
    }  # fmt: skip
    return bundle.write_bundle(folder, **parts)


def test_what_was_written_is_read_back_with_every_file_hashed(tmp_path: Path, interface_of: Any) -> None:
    written = write(tmp_path, interface_of(transforms=(CALENDAR,)), code={"features": CODE}, trained={"rows": 3})
    read = bundle.read_manifest(tmp_path)
    assert read == written
    on_disk = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert on_disk == {*read.files, bundle.MANIFEST_FILE}
    assert read.files["model.onnx"] == content_hash(b"graph")
    assert bundle.read_golden(tmp_path)[0].raw == [0.25, 0.75]
    assert bundle.model_path(tmp_path, read) == tmp_path / "model.onnx"


def test_a_changed_file_is_named_when_the_bundle_is_read(tmp_path: Path, interface_of: Any) -> None:
    write(tmp_path, interface_of())
    (tmp_path / "model.skops").write_bytes(b"zap")
    with pytest.raises(CorruptModelError, match=r"model\.skops is not the file that was registered"):
        bundle.read_manifest(tmp_path)


def test_a_missing_file_is_named_when_the_bundle_is_read(tmp_path: Path, interface_of: Any) -> None:
    write(tmp_path, interface_of())
    (tmp_path / "golden.json").unlink()
    with pytest.raises(CorruptModelError, match=r"golden\.json"):
        bundle.read_manifest(tmp_path)


def test_a_manifest_cannot_point_outside_its_bundle(tmp_path: Path, interface_of: Any) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    folder = tmp_path / "bundle"
    manifest = write(folder, interface_of())
    escaping = msgspec.structs.replace(manifest, files={**manifest.files, "../secret": content_hash(b"s")})
    (folder / bundle.MANIFEST_FILE).write_bytes(msgspec.json.encode(escaping))
    with pytest.raises(CorruptModelError, match="outside the bundle"):
        bundle.read_manifest(folder)


def test_a_bundle_of_another_format_version_says_what_to_do(tmp_path: Path, interface_of: Any) -> None:
    manifest = msgspec.structs.replace(write(tmp_path, interface_of()), format_version=99)
    (tmp_path / bundle.MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ModelError, match="format_version 99") as caught:
        bundle.read_manifest(tmp_path)
    assert "train or adopt the model again" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"[]", b'{"interface": 3}', b"\xff"])
def test_a_damaged_manifest_is_corrupt_not_a_crash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / bundle.MANIFEST_FILE).write_bytes(content)
    with pytest.raises(CorruptModelError, match="manifest"):
        bundle.read_manifest(tmp_path)


def test_transforms_run_from_the_bundle_and_two_bundles_do_not_mix(tmp_path: Path, interface_of: Any) -> None:
    other = CODE.replace(">=", "<")
    for name, code in (("one", CODE), ("two", other)):
        write(tmp_path / name, interface_of(transforms=(CALENDAR,)), code={"features": code})
    path = list(sys.path)
    one = bundle.load_functions(tmp_path / "one", (CALENDAR,))["calendar"]
    two = bundle.load_functions(tmp_path / "two", (CALENDAR,))["calendar"]
    assert one({"hour": 21}) == {"late_hour": True}
    assert two({"hour": 21}) == {"late_hour": False}
    assert sys.path == path
    assert "features" not in sys.modules


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({}, "was not given"),
        ({"features": "def calendar(:"}, "does not parse"),
        ({"features": "def other(row): ..."}, "no function 'calendar'"),
        ({"features": CODE + "import numpy as np\n"}, "imports 'numpy'"),
        ({"features": "def calendar(row):\n    from pandas import isna\n"}, "line 2 imports 'pandas'"),
    ],
)
def test_code_that_would_not_run_elsewhere_is_refused(
    tmp_path: Path, interface_of: Any, code: dict[str, str], said: str
) -> None:
    with pytest.raises(DeclarationError, match=said):
        write(tmp_path, interface_of(transforms=(CALENDAR,)), code=code)


def test_code_that_raises_when_loaded_leaves_no_half_module(tmp_path: Path, interface_of: Any) -> None:
    code = {"features": "def calendar(row): ...\nraise RuntimeError('no')"}
    write(tmp_path, interface_of(transforms=(CALENDAR,)), code=code)
    before = set(sys.modules)
    with pytest.raises(CorruptModelError, match="RuntimeError: no"):
        bundle.load_functions(tmp_path, (CALENDAR,))
    assert set(sys.modules) == before
