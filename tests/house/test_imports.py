"""Who may import whom, and how: the contract of pyproject.toml, and what import-linter cannot say."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest


def test_the_import_contract_of_the_house_holds(root: Path) -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-logo", "--no-cache", "--config", root / "pyproject.toml"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken." in done.stdout


def test_every_room_of_the_package_stands_in_the_contract(root: Path, sources: Any) -> None:
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["id"] == "house")
    placed = {room.strip(" ()") for layer in layers for room in layer.replace("|", ":").split(":")}
    rooms = {source.module.split(".")[1] for source in sources if source.module != "undrift"}
    assert rooms
    assert rooms <= placed, f"not in any layer of the contract: {sorted(rooms - placed)}"


def test_no_module_imports_itself_by_way_of_others(sources: Any) -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for found in sources.own_imports():  # those inside functions count: they are the usual plaster over a ring
        graph[found.importer].add(found.imported)
    assert graph
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail("a ring of imports: " + " -> ".join(reversed(error.args[1])))


def test_our_own_modules_are_imported_at_the_top(sources: Any) -> None:
    exempt = ("undrift.app.cli", "undrift.plugins")  # a command loads its room when it is called
    inside = [
        f"{found.importer}:{found.line} {found.imported}"
        for found in sources.own_imports()
        if found.inside_function and not found.importer.startswith(exempt)
    ]
    assert len(inside) <= 5, "\n".join(["own modules imported inside functions:", *inside])


def test_an_integration_is_never_imported_by_name(sources: Any) -> None:
    named = [
        f"{found.importer}:{found.line} {found.imported}"
        for found in sources.own_imports()
        if found.imported.startswith("undrift.integrations")
        and not found.importer.startswith("undrift.integrations")
    ]  # fmt: skip
    assert not named, "plugins.py resolves integrations by name:\n" + "\n".join(named)


def test_stats_knows_nothing_of_undrift(sources: Any) -> None:
    known = [
        f"{found.importer}:{found.line} {found.imported}"
        for found in sources.own_imports()
        if found.importer.startswith("undrift.stats") and not found.imported.startswith("undrift.stats")
    ]
    assert not known, "\n".join(known)


def test_a_missing_package_is_handled_in_one_place(sources: Any) -> None:
    handlers = [
        f"{source.name}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and any(name in ast.unparse(node.type) for name in ("ImportError", "ModuleNotFoundError"))
    ]
    assert len(handlers) <= 1, f"`except ImportError` stands in plugins.py only, not in {handlers}"


def test_importing_a_module_only_defines(sources: Any) -> None:
    """No statement at the top of a module calls for its effect: no registration, no file read, no environment write."""
    effects = [
        f"{source.name}:{node.lineno} {ast.unparse(node)[:80]}"
        for source in sources
        for node in source.tree.body
        if (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant))
        or isinstance(node, ast.For | ast.While | ast.With)
        or (isinstance(node, ast.Assign) and "environ[" in ast.unparse(node.targets[0]))
    ]
    allowed = "app/cli"  # typer assembles its command tree by calls
    effects = [effect for effect in effects if not effect.startswith(allowed)]
    assert not effects, "\n".join(effects)
