"""What every test stands on: a home folder of its own, no telemetry, and Hypothesis without deadlines or chance.

Set at import, before any library reads its environment. Warnings are errors by pyproject.toml, not from here.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

_HOME = Path(tempfile.mkdtemp(prefix="undrift-home-"))

os.environ.update(
    HOME=str(_HOME),  # MLflow, DuckDB and others write into the home folder
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
    NO_COLOR="1",  # what the command line prints is compared as text
    TERM="dumb",
    COLUMNS="120",
)
# As `undrift` itself does (app/cli.py): OpenMP's threads sleep while they wait, as tests share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for _name in [name for name in os.environ if name.startswith(("UNDRIFT_", "MLFLOW_TRACKING", "MLFLOW_REGISTRY"))]:
    del os.environ[_name]  # the developer's own project is none of the tests' business

# No test asserts a time, and two runs of CI try the same examples; a failing one prints how to repeat it.
settings.register_profile("undrift", deadline=None, derandomize=True, print_blob=True, database=None)
settings.load_profile("undrift")


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_tests() -> Iterator[None]:
    yield
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture
def without_languages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine without the extra ``text``."""
    from undrift.data import language

    language._identifier.cache_clear()
    for name in ("py3langid", "py3langid.langid"):
        monkeypatch.setitem(sys.modules, name, None)
    yield
    language._identifier.cache_clear()
