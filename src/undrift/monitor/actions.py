"""What an incident sets off by itself, beside the freeze and the retrain that others look up: taking a release back.

Pure: the incidents that opened at a tick and who serves go in, the events of a roll-back come out. It happens only
where a release may be the cause: a rollout is under way, or the champion took over shortly before the onset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from undrift.deploy import people
from undrift.deploy.rollout import RolloutState
from undrift.event import Draft

__all__ = ["RECENT", "take_back"]

RECENT: Final = timedelta(days=14)
"""A champion that took over longer before the onset is not taken for the cause."""


def take_back(
    model: str,
    drafts: Sequence[Draft],
    rollouts: Sequence[RolloutState],
    champion: Mapping[str, Any],
    former: Mapping[str, Any] | None,
    now: datetime,
) -> tuple[Draft, ...]:
    """The events that take a release back because of incidents that opened now and say so; none if none does.

    Parameters
    ----------
    drafts : what the monitors decided at this tick.
    rollouts : those under way.
    champion : ``revision``, and ``since`` when it took over (None if not known).
    former : ``revision`` and ``version`` of the champion before, if there is one that was not taken back itself.
    """
    opened = [d.payload["incident"] for d in drafts if d.kind == "alert.opened"]
    asking = [i for i in opened if "roll_back" in i["actions"]]
    if not asking:
        return ()
    title = asking[0]["title"]
    if rollouts:
        why = f"an incident opened while it was rolled out: {title}"
        return tuple(d for state in rollouts for d in people.roll_back(state, now, actor="work", why=why).drafts)
    since: datetime | None = champion["since"]
    onset = min(datetime.fromisoformat(i["onset"]) for i in asking)
    if former is None or since is None or not since <= now or onset - since > RECENT:
        return ()
    payload = {
        "model": model,
        "revision": former["revision"],
        "version": former["version"],
        "forced": False,
        "withdrawn": champion["revision"],
    }
    why = f"back to version {former['version']}: {title}, {(onset - since).days} days after the release"
    key = f"{model}|taken back|{now.isoformat()}"
    return (
        Draft(
            kind="revision.promoted", subject=f"model:{model}", at=now, actor="work", why=why, payload=payload, key=key
        ),
    )
