"""One answer taken apart, as a value: what explain.py makes, processes pass on, and people are shown.

Nothing is computed here and nothing heavy imported: a server that predicts holds these types alone.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

__all__ = ["METHODS", "Contribution", "Explanation", "Method", "Scale"]

Method = Literal["tree", "linear", "permutation", "lime"]
METHODS: Final = ("auto", "exact", "permutation", "lime")
"""What may be asked for."""
Scale = Literal["probability", "log_odds", "margin", "log", "value"]
"""What contributions add up to: P(class); its log odds; the class's input to a softmax; a logarithm; the value."""


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """What one input added to the answer, on the explanation's scale.

    ``value``: of the input, null where absent. ``error``: standard error from sampling, null where it is exact or not
    known. ``group``: where the input comes from: ``request``, or its feature view or transform.
    """

    input: str
    value: Any
    contribution: float
    error: float | None
    group: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, taken apart: ``base`` plus all contributions is ``output``, but for ``residual``.

    Parameters
    ----------
    method : ``tree`` and ``linear`` are exact, ``permutation`` is sampled, ``lime`` is a local linear model.
    scale : what is added up: ``probability`` of the class, its ``log_odds``, its ``margin`` (input to a softmax), the
        ``value``, or its ``log``.
    label : the class that is explained: the positive one, or the one answered; empty for regression.
    base : the answer where nothing is known of the row: over the training data (tree) or the background rows.
    output : of the model, on the scale. ``score``: of the form that serves: a probability or value.
    residual, tolerance : ``output - base - sum``, and what it may be at most (no bound for LIME, which fits).
    contributions : the largest first.
    groups : sums of contributions by where the inputs come from.
    reasons : the foremost contributions in words.
    coarse : the deadline ended the sampling early. ``notes``: what a reader has to know.
    """

    method: Method
    scale: Scale
    label: str
    base: float
    output: float
    score: float
    residual: float
    tolerance: float | None
    contributions: tuple[Contribution, ...]
    groups: dict[str, float]
    reasons: tuple[str, ...]
    coarse: bool
    notes: tuple[str, ...]
