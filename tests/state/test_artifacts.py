"""A directory that was stored is got back as it was, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from undrift.errors import CorruptModelError, NotFoundError, StateError
from undrift.ids import hash_tree
from undrift.state.artifacts import DirectoryArtifacts


@pytest.fixture
def artifacts(tmp_path: Path) -> DirectoryArtifacts:
    return DirectoryArtifacts(f"file:{tmp_path}/artifacts")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "code").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"weights")
    (folder / "code" / "calendar.py").write_text("def hour(): ...\n")
    return folder


def test_one_changed_byte_is_noticed(artifacts: DirectoryArtifacts, made: Path) -> None:
    digest = artifacts.put(made)
    stored = artifacts.get(digest) / "model.onnx"
    stored.chmod(0o644)
    stored.write_bytes(b"weightz")
    with pytest.raises(CorruptModelError, match="are not the ones that were stored"):
        artifacts.get(digest)


@pytest.mark.parametrize("name", ["model.onnx", "code/calendar.py"])
def test_a_missing_file_is_noticed(artifacts: DirectoryArtifacts, made: Path, name: str) -> None:
    digest = artifacts.put(made)
    stored = artifacts.get(digest) / name
    stored.parent.chmod(0o755)
    stored.unlink()
    with pytest.raises(CorruptModelError):
        artifacts.get(digest)


def test_an_added_file_is_noticed(artifacts: DirectoryArtifacts, made: Path) -> None:
    digest = artifacts.put(made)
    artifacts.get(digest).chmod(0o755)
    (artifacts.folder / digest / "code.py").write_text("import os")
    with pytest.raises(CorruptModelError):
        artifacts.get(digest)


def test_what_links_point_to_is_stored(artifacts: DirectoryArtifacts, made: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.bin").write_bytes(b"large")
    (made / "large.bin").symlink_to(tmp_path / "elsewhere.bin")
    digest = artifacts.put(made)
    (tmp_path / "elsewhere.bin").unlink()
    assert (artifacts.get(digest) / "large.bin").read_bytes() == b"large"


def test_a_directory_that_changes_while_it_is_stored_is_refused(
    artifacts: DirectoryArtifacts, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import undrift.state.artifacts as module

    copy = module._copy

    def copy_while_somebody_writes(source: Path, target: Path) -> None:
        (source / "model.onnx").write_bytes(b"half written")
        copy(source, target)

    monkeypatch.setattr(module, "_copy", copy_while_somebody_writes)
    with pytest.raises(StateError, match="changed while it was stored"):
        artifacts.put(made)
    assert list(artifacts.folder.iterdir()) == []


STORE_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from undrift.errors import StateError
from undrift.state.artifacts import DirectoryArtifacts
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    DirectoryArtifacts(sys.argv[1]).put(Path(sys.argv[2]))
except StateError as error:
    print(error)
"""


def test_a_full_disk_leaves_no_half_of_it(artifacts: DirectoryArtifacts, made: Path) -> None:
    (made / "model.onnx").write_bytes(os.urandom(100_000))
    program = [sys.executable, "-c", STORE_ON_A_FULL_DISK, str(artifacts.folder), str(made)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert "cannot be stored" in done.stdout
    assert "Check free space" in done.stdout
    with pytest.raises(NotFoundError):
        artifacts.get(hash_tree(made))
    assert list(artifacts.folder.iterdir()) == []
    assert artifacts.get(artifacts.put(made)).is_dir()


def test_what_a_killed_process_left_is_swept_away_after_a_day(artifacts: DirectoryArtifacts, made: Path) -> None:
    old, fresh = artifacts.folder / ".incoming-old", artifacts.folder / ".incoming-fresh"
    for left in (old, fresh):
        (left / "code").mkdir(parents=True)
        (left / "code" / "x").write_text("half")
    os.utime(old, (0, 0))
    artifacts.put(made)
    assert (old.exists(), fresh.exists()) == (False, True)
