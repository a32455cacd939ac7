"""What a model would be fed for the rows of a request: routed, checked, given features as for an answer, not asked.

Explanations begin here. Answering stands in endpoint.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from undrift.inference.endpoint import Call, Endpoint
from undrift.inference.revision import Revision
from undrift.state.ports import Online

__all__ = ["Fed", "fed"]


class Fed(NamedTuple):
    """Rows as one revision's model is fed them: their places in the request, ids, what was odd, and the columns."""

    revision: Revision
    variant: str
    places: list[int]
    ids: list[str]
    violations: list[list[str]]
    columns: dict[str, Sequence[Any]]


def fed(endpoint: Endpoint, rows: Sequence[dict[str, Any]], call: Call, online: Online | None) -> list[Fed]:
    """What `Endpoint.answer` would feed which revision.

    Raises
    ------
    PredictionError : a transform failed, or the candidate's contract refuses a row.
    """
    ids, _, at, choices = endpoint.assigned(rows, call)
    groups: dict[str, list[int]] = {}
    for place, choice in enumerate(choices):
        groups.setdefault(choice.revision, []).append(place)
    found = []
    for name, places in groups.items():
        revision = endpoint.revisions[name]
        given = [rows[place] for place in places]
        if name not in endpoint.same_contract:
            given = revision.decode_again(given)
        flagged = [list(revision.decoder.violations(row)) for row in given]
        prepared = revision.prepare(given, [at[place] for place in places], online)
        broken = [[*each, *prepared.absent] for each in flagged]
        variant = endpoint.called if revision is endpoint.champion else "candidate"
        found.append(Fed(revision, variant, places, [ids[place] for place in places], broken, dict(prepared.columns)))
    return found
