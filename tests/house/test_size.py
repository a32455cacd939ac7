"""How large a file may grow, and how often the type checker may be told to look away."""

from __future__ import annotations

import ast
import io
import tokenize
from typing import Any

MOST_LINES = 400
MOST_IGNORES = 10


def test_a_file_is_one_noun_of_at_most_400_lines(sources: Any) -> None:
    long = {source.name: source.text.count("\n") for source in sources if source.text.count("\n") > MOST_LINES}
    assert not long, f"split by noun: {long}"


def test_a_room_has_no_rooms_inside(sources: Any) -> None:
    nested = [source.name for source in sources if source.name.count("/") > 1]
    assert not nested


def test_no_file_has_a_name_that_says_nothing(sources: Any) -> None:
    empty = {"base", "common", "core", "helpers", "manager", "misc", "util", "utils"}
    assert not [source.name for source in sources if source.path.stem in empty or source.path.parent.name in empty]


def test_a_file_says_at_its_head_what_stands_there(sources: Any) -> None:
    silent = [
        source.name
        for source in sources
        if not (source.tree.body and isinstance(getattr(source.tree.body[0], "value", None), ast.Constant))
        and (source.path.name != "__init__.py" or source.text.strip())
    ]
    assert not silent, f"without a module docstring: {silent}"


def test_the_type_checker_is_rarely_told_to_look_away(sources: Any) -> None:
    ignores = [
        f"{source.name}:{token.start[0]}"
        for source in sources
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline)
        if token.type == tokenize.COMMENT and "type: ignore" in token.string
    ]
    assert len(ignores) <= MOST_IGNORES, ignores
