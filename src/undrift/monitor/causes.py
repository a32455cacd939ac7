"""What may explain a loss of performance, ranked: a fault of a feed, drift of columns, segments, a change of version.

Correlation in time, weighted by size; named as what it is, a place to look first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from undrift.finding import Finding, Verdict

__all__ = ["explain", "ranked"]

MOST: int = 5


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A possible cause in words, and its weight in [0, 1]."""

    text: str
    weight: float


def ranked(
    found: Finding,
    others: Iterable[Finding],
    incidents: Iterable[Mapping[str, Any]] = (),
    changes: Sequence[tuple[datetime, str]] = (),
    importance: Mapping[str, float] | None = None,
) -> tuple[Cause, ...]:
    """Possible causes of a finding of performance, the likeliest first; pure.

    Parameters
    ----------
    others : findings of the same tick: drift and faults are causes, performance in segments says where.
    incidents : open incidents of feeds and answers.
    changes : (when, what) of releases and declarations.
    importance : share of each column in the model's answers, if known; equal shares otherwise.
    """
    causes = []
    for incident in incidents:
        if incident["kind"] in ("feed", "silent"):
            causes.append(Cause(text=str(incident["title"]), weight=1.0))
    for other in others:
        seen = other.measurement
        kind, column = seen.detail.get("kind"), str(seen.detail.get("column", ""))
        if kind == "drift" and other.verdict is Verdict.FAIL and seen.value is not None:
            share = 1.0 if importance is None else importance.get(column, 0.0) / max(max(importance.values()), 1e-12)
            causes.append(Cause(text=f"{column} drifted", weight=0.8 * min(1.0, seen.value) * share))
        elif kind == "performance" and other.verdict is Verdict.FAIL and seen.segment and not found.measurement.segment:
            causes.append(Cause(text=f"worst for {seen.where}", weight=0.5))
    start = found.measurement.window.start if found.measurement.window else None
    for at, what in changes:
        if start is not None and start - timedelta(days=1) <= at:
            causes.append(Cause(text=what, weight=0.6))
    return tuple(sorted(causes, key=lambda c: (-c.weight, c.text))[:MOST])


def explain(found: Finding, causes: Sequence[Cause]) -> Finding:
    """The finding with its possible causes, in words and in its detail."""
    if not causes:
        return found
    detail = {**found.measurement.detail, "causes": [[c.text, round(c.weight, 3)] for c in causes]}
    why = f"{found.why}; look first at: {', '.join(c.text for c in causes[:3])}"
    return msgspec.structs.replace(
        found, why=why, measurement=msgspec.structs.replace(found.measurement, detail=detail)
    )
