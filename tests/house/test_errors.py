"""Every error can really happen: each class of the tree is expected by some test, and each stands in the drawing."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

from undrift import errors


def _classes() -> list[type[Exception]]:
    found = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert found
    return found


def _expected_by_tests(root: Path) -> set[str]:
    """Names inside the arguments of `pytest.raises(...)` and `isinstance(...)`."""
    names: set[str] = set()
    files = [path for path in (root / "tests").rglob("test_*.py") if path.parent.name != "house"]
    assert files, "no test files"
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"raises", "isinstance"}:
                for argument in node.args:
                    names |= {part.rpartition(".")[2] for part in _dotted_names(argument)}
    return names


def _dotted_names(node: ast.AST) -> set[str]:
    return {ast.unparse(part) for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)}


def test_every_error_is_expected_by_some_test(root: Path) -> None:
    expected = _expected_by_tests(root)
    # a class that only gathers others is met through them
    leaves = [c for c in _classes() if not any(issubclass(o, c) for o in _classes() if o is not c)]
    missing = sorted(c.__name__ for c in leaves if c.__name__ not in expected)
    assert not missing, f"no test expects {missing}: test where they are raised, or take them out of errors.py"


def test_the_tree_drawn_in_the_docstring_is_the_tree(root: Path) -> None:
    drawing = [line.strip(" │├└─") for line in (errors.__doc__ or "").splitlines()]
    drawn = [line.split()[0] for line in drawing if line.split() and line.split()[0].endswith("Error")]
    assert sorted(drawn) == sorted(c.__name__ for c in _classes())


def test_error_classes_stand_in_one_file(sources: Any) -> None:
    strays = [
        f"{source.name}:{node.lineno} {node.name}"
        for source in sources
        if source.name != "errors.py"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    ]
    assert not strays
