"""Answers from memory: the same as the model's, of one revision alone, bounded, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from undrift.errors import PredictionError
from undrift.inference.cache import AnswerCache
from undrift.inference.predictor import Outputs
from undrift.inference.usage import Usage


class Counting:
    """Answers the sum of the row, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, ...]] = []

    async def predict(
        self, columns: Mapping[str, Sequence[Any]], rows: int, deadline: float, usage: Usage | None = None
    ) -> Outputs:
        keys = list(zip(*columns.values(), strict=True))
        assert len(keys) == rows
        if (0, 0) in keys:
            raise PredictionError("zero")
        self.asked += keys
        return Outputs(score=[float(sum(key)) for key in keys], scores=None, label=[str(sum(key)) for key in keys])


def ask(cache: AnswerCache, usage: Usage, *rows: tuple[int, int]) -> Outputs:
    columns = {"a": [a for a, _ in rows], "b": [b for _, b in rows]}
    return asyncio.run(cache.predict(columns, len(rows), 1.0, usage))


def test_what_was_asked_before_is_not_asked_again_and_keeps_its_place() -> None:
    model, usage = Counting(), Usage()
    cache = AnswerCache(10, model.predict)
    assert ask(cache, usage, (1, 2), (3, 4)).score == [3.0, 7.0]
    mixed = ask(cache, usage, (5, 6), (3, 4), (1, 2))
    assert (mixed.score, mixed.label) == ([11.0, 7.0, 3.0], ["11", "7", "3"])
    assert model.asked == [(1, 2), (3, 4), (5, 6)]
    assert (usage.cache_hits, usage.cache_misses) == (2, 3)


def test_what_was_not_asked_for_longest_is_forgotten_first() -> None:
    model, usage = Counting(), Usage()
    cache = AnswerCache(2, model.predict)
    ask(cache, usage, (1, 1))
    ask(cache, usage, (2, 2))
    ask(cache, usage, (1, 1))  # asked for again, so (2, 2) goes
    ask(cache, usage, (3, 3))
    assert len(model.asked) == 3
    ask(cache, usage, (1, 1))
    assert len(model.asked) == 3
    ask(cache, usage, (2, 2))
    assert model.asked[-1] == (2, 2)


def test_a_request_larger_than_the_memory_is_answered_whole() -> None:
    model, usage = Counting(), Usage()
    cache = AnswerCache(1, model.predict)
    assert ask(cache, usage, (1, 1), (2, 2), (3, 3), (1, 1)).score == [2.0, 4.0, 6.0, 2.0]
    assert ask(cache, usage, (2, 2), (3, 3)).score == [4.0, 6.0]


def test_a_failure_is_not_remembered() -> None:
    model, usage = Counting(), Usage()
    cache = AnswerCache(5, model.predict)
    with pytest.raises(PredictionError):
        ask(cache, usage, (0, 0))
    with pytest.raises(PredictionError):
        ask(cache, usage, (0, 0), (1, 1))
    assert ask(cache, usage, (1, 1)).score == [2.0]
