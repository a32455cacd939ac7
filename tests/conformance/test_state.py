"""The embedded defaults against the conformance suites of their ports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from undrift.state.artifacts import DirectoryArtifacts
from undrift.state.lake import DeltaLake
from undrift.state.sql import SqliteStore
from undrift.testing import ArtifactsConformance, LakeConformance, StoreConformance


class TestSqliteFile(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        store = SqliteStore(f"sqlite:{tmp_path}/undrift.db")
        yield store
        store.close()


class TestSqliteThatWaitsForTheDisk(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        store = SqliteStore(tmp_path / "undrift.db", durability="power")
        yield store
        store.close()


class TestSqliteInMemory(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[SqliteStore]:
        store = SqliteStore("sqlite://")
        yield store
        store.close()


class TestDeltaLake(LakeConformance):
    @pytest.fixture
    def lake(self, tmp_path: Path) -> DeltaLake:
        return DeltaLake(f"file:{tmp_path}/lake")


class TestDirectoryArtifacts(ArtifactsConformance):
    @pytest.fixture
    def artifacts(self, tmp_path: Path) -> DirectoryArtifacts:
        return DirectoryArtifacts(tmp_path / "artifacts")
