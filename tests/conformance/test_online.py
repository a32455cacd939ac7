"""The embedded online store against the conformance suite of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from undrift.data.online import SqliteOnline
from undrift.testing import OnlineConformance


class TestSqliteOnline(OnlineConformance):
    @pytest.fixture
    def online(self, tmp_path: Path) -> SqliteOnline:
        return SqliteOnline(tmp_path / "online.db")
