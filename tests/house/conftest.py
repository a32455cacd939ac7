"""The source tree as the house tests see it: files, syntax trees and imports, read once."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "undrift"


@dataclass(frozen=True)
class Import:
    """One module of our own that a file imports, and where."""

    importer: str
    imported: str
    line: int
    inside_function: bool


@dataclass(frozen=True)
class Source:
    """One file of the package."""

    path: Path
    module: str

    @property
    def name(self) -> str:
        return self.path.relative_to(PACKAGE).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))


class Sources(list[Source]):
    """Every Python file of the package, in the order of their names."""

    def own_imports(self) -> list[Import]:
        """Imports of our own modules, at the top and inside functions; `if TYPE_CHECKING:` is left out."""
        known = {source.module for source in self}
        found: list[Import] = []
        for source in self:
            visitor = _Imports(source, known)
            visitor.visit(source.tree)
            found += visitor.found
        return found


class _Imports(ast.NodeVisitor):
    def __init__(self, source: Source, known: set[str]) -> None:
        self.source, self.known, self.depth = source, known, 0
        self.found: list[Import] = []

    def _add(self, name: str, line: int) -> None:
        while name.startswith("undrift") and name not in self.known:
            name = name.rpartition(".")[0]
        if name in self.known and name != self.source.module:
            self.found.append(Import(self.source.module, name, line, self.depth > 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._add(f"{node.module}.{alias.name}", node.lineno)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def _function(self, node: ast.AST) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function  # noqa: N815


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources() -> Sources:
    files = sorted(PACKAGE.rglob("*.py"))
    assert files, f"no source file under {PACKAGE}"
    return Sources(
        Source(path, ".".join(["undrift", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"))
        for path in files
    )
