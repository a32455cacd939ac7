"""The answers that a revision gave lately, by their inputs: for callers that ask the same again and again.

One cache belongs to one revision, so another model never answers from it. Capture, routing and checks are not its
matter: a remembered answer is checked, assigned and recorded as any other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from undrift.inference.predictor import Outputs
from undrift.inference.usage import Usage

__all__ = ["AnswerCache"]

Columns = Mapping[str, Sequence[Any]]
Predict = Callable[[Columns, int, float, Usage | None], Awaitable[Outputs]]

_NOTHING: Final = object()


class AnswerCache:
    """Remembers the answers to a number of rows; the one that was asked for longest ago is forgotten first.

    Two rows are equal when all inputs of the model are, after features were looked up and computed.

    Parameters
    ----------
    rows : how many answers are remembered, at least 1.
    predict : what answers the others.
    """

    def __init__(self, rows: int, predict: Predict) -> None:
        self._most, self._predict = rows, predict
        self._known: dict[tuple[Any, ...], tuple[float, list[float] | None, str | None]] = {}

    async def predict(self, columns: Columns, rows: int, deadline: float, usage: Usage | None = None) -> Outputs:
        """See `Batcher.predict`."""
        keys = list(zip(*columns.values(), strict=True)) if columns else [()] * rows
        found: dict[tuple[Any, ...], tuple[float, list[float] | None, str | None]] = {}
        for key in keys:
            known: Any = self._known.pop(key, _NOTHING)
            if known is not _NOTHING:
                found[key] = self._known[key] = known  # to the end: asked for last
        missing = [place for place, key in enumerate(keys) if key not in found]
        if usage is not None:
            usage.cache_hits += rows - len(missing)
            usage.cache_misses += len(missing)
        if missing:
            asked = {name: [values[place] for place in missing] for name, values in columns.items()}
            made = await self._predict(asked, len(missing), deadline, usage)
            for index, place in enumerate(missing):
                scores = None if made.scores is None else made.scores[index]
                label = None if made.label is None else made.label[index]
                found[keys[place]] = self._known[keys[place]] = (made.score[index], scores, label)
            while len(self._known) > self._most:
                del self._known[next(iter(self._known))]
        answers = [found[key] for key in keys]
        return Outputs(
            score=[score for score, _, _ in answers],
            scores=None if answers[0][1] is None else [scores or [] for _, scores, _ in answers],
            label=None if answers[0][2] is None else [str(label) for _, _, label in answers],
        )
