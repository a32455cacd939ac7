"""Directories kept under the hash of their content: written once, checked whenever they are read.

A model that was registered is the model that is served, or an error: nothing in between. What is inside a directory
is no business of this file.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path
from typing import Final

from undrift.errors import CorruptModelError, NotFoundError, StateError
from undrift.ids import hash_tree, new_id

__all__ = ["DirectoryArtifacts"]

_INCOMING: Final = ".incoming-"
_ABANDONED_SECONDS: Final = 24 * 3600.0


class DirectoryArtifacts:
    """Artifacts as folders of one folder, ``<folder>/<digest>/``, read-only.

    A directory is copied beside its place, synced, checked and renamed, so a reader sees all of it or nothing,
    whatever is killed when. Symbolic links are followed: what they point to is stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(str(folder).removeprefix("file://").removeprefix("file:"))

    def put(self, folder: Path) -> str:
        """Store a directory's content and return its hash (64 hex digits); nothing happens if it is there already.

        Raises
        ------
        NotFoundError : no such directory, or nothing in it.
        StateError : it cannot be written, or it changed while it was read.
        """
        if not folder.is_dir() or not any(p.is_file() for p in folder.rglob("*")):
            raise NotFoundError(f"{folder} is no directory with files in it, so there is nothing to store.")
        incoming = self.folder / f"{_INCOMING}{new_id()}"
        try:
            digest = hash_tree(folder)
            target = self.folder / digest
            if target.is_dir():
                return digest
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            _copy(folder, incoming)
            if hash_tree(incoming) != digest:
                raise StateError(f"{folder} changed while it was stored; store it again when nothing writes to it.")
            _seal(incoming)
            try:
                incoming.rename(target)
            except OSError:
                if not target.is_dir():  # else another process stored the same content first
                    raise
            _sync(self.folder)
        except OSError as error:
            raise StateError(
                f"{folder} cannot be stored in {self.folder}: {error}.", hint="Check free space and permissions."
            ) from error
        finally:
            _remove(incoming)
        return digest

    def get(self, digest: str) -> Path:
        """The read-only directory with that content, its hash checked on every call.

        Raises
        ------
        NotFoundError : nothing was stored under that digest.
        CorruptModelError : what is there is not what was stored.
        """
        known = len(digest) == 64 and digest.isalnum()  # so a digest is never a path
        path = self.folder / digest
        if not known or not path.is_dir():
            raise NotFoundError(f"no artifact {digest!r} in {self.folder}.")
        try:
            found = hash_tree(path)
        except OSError as error:
            raise CorruptModelError(f"the files of artifact {digest} cannot be read: {error}.") from error
        if found != digest:
            raise CorruptModelError(
                f"the files in {path} are not the ones that were stored: their hash is {found}.",
                hint="Restore the folder from a backup, or remove it and register the model again.",
            )
        return path

    def _sweep(self) -> None:
        """Remove what a process that was killed while storing left behind."""
        for left in self.folder.glob(f"{_INCOMING}*"):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                _remove(left)


def _copy(source: Path, target: Path) -> None:
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        _sync(place)


def _seal(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
        if path.is_dir():
            _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder)
