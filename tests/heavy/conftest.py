"""Tests with libraries of hundreds of megabytes (PyTorch, TensorFlow, Spark, ...): `make test-heavy` runs them.

Their environment is made by scripts/heavy on top of the usual one; elsewhere they are left out, not skipped.
"""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface

HERE = bool(os.environ.get("HEAVY_TESTS"))
collect_ignore_glob = [] if HERE else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Warnings of these libraries about each other are not ours to see as errors; those of our own code are."""
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:torch.*")
    config.addinivalue_line("filterwarnings", "ignore::FutureWarning:torch.*")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:keras.*")
    config.addinivalue_line("filterwarnings", "ignore:PySpark does not yet fully support pandas:FutureWarning")
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_folder_of_keras(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp()))


@pytest.fixture
def numbers() -> Any:
    """An interface of three numbers, one of which may be absent, and a table with its label."""

    def of(table: pa.Table, label: str = "bought") -> tuple[Interface, pa.Table]:
        fields = tuple(Field(name=name, type="number", nullable=name == "c") for name in ("a", "b", "c"))
        contract = Contract(name="net", fields=fields)
        return Interface(model="net", task="binary", contract=contract, label=label, classes=("0", "1")), table

    return of
