"""What an import costs, counted in modules (which repeat) rather than seconds (which do not)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"duckdb", "mlflow", "pandas", "pyarrow", "scipy", "sklearn", "onnxruntime", "deltalake"}
SQL = {"sqlalchemy", "sqlite3", "psycopg", "alembic"}


def _loaded_by(statement: str) -> set[str]:
    """The modules that a statement adds to a fresh interpreter."""
    count = "print(json.dumps(sorted(set(sys.modules) - before)))"
    program = f"import json, sys; before = set(sys.modules); {statement}; {count}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def _tops(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize(
    ("statement", "most", "never"),
    [
        ("import undrift", 250, HEAVY | SQL | {"numpy", "starlette", "uvicorn", "typer", "rich", "jinja2"}),
        # NumPy alone is 200 modules, msgspec, uvicorn and the standard library's asyncio most of the rest
        ("import undrift.serving.server", 900, (HEAVY | SQL | {"skops", "skl2onnx", "typer"}) - {"onnxruntime"}),
        ("import undrift.app.cli", 700, HEAVY | SQL | {"numpy", "uvicorn", "starlette"}),
    ],
    ids=["undrift", "serving", "command line"],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, most: int, never: set[str], root: Path) -> None:
    file = root / "src" / Path(*statement.split()[1].split("."))
    if not (file.with_suffix(".py").exists() or (file / "__init__.py").exists()):
        pytest.skip(f"{statement.split()[1]} is still to come")
    loaded = _loaded_by(statement)
    assert statement.split()[1] in loaded
    assert not never & _tops(loaded), f"`{statement}` loads {sorted(never & _tops(loaded))}"
    assert len(loaded) <= most, f"`{statement}` loads {len(loaded)} modules, more than {most}"


def test_the_count_sees_what_is_loaded() -> None:
    assert {"decimal", "sqlite3"} <= _loaded_by("import decimal, sqlite3")
