"""Alerts to Prometheus Alertmanager, by its API v2 (``POST /api/v2/alerts``).

The labels name an incident, so an alert that is sent twice is one. Alertmanager forgets alerts when it restarts and
when they reach their ``endsAt``: open incidents are therefore told again every few minutes (`RENEW`), each time with an
end a day away, which a worker that stopped for less than that does not let pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from undrift.errors import SettingsError
from undrift.integrations.webhook import post
from undrift.monitor.notices import Notice
from undrift.settings import SinkSettings, given, secret

__all__ = ["AlertmanagerSink"]

KEPT: Final = timedelta(days=1)
SKEW: Final = timedelta(seconds=1)


class AlertmanagerSink:
    """An Alertmanager, or one of a cluster.

    Parameters
    ----------
    settings : ``url`` as ``http://alertmanager:9093``; ``user`` and ``secret`` for basic authentication, ``secret``
        alone for a bearer token.
    clock : seconds since 1970: ends of alerts are in wall-clock time.
    """

    RENEW: Final = timedelta(minutes=5)
    """How often open incidents are told again."""

    def __init__(self, settings: SinkSettings, *, clock: Callable[[], float] = time.time) -> None:
        if not settings.url:
            raise SettingsError("a sink of kind 'alertmanager' needs a `url`, as http://alertmanager:9093.")
        self.settings = settings
        self._clock = clock

    def send(self, notice: Notice) -> None:
        """See `monitor.notices.Sink`."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        url = given(self.settings.url).rstrip("/") + "/api/v2/alerts"
        post("alertmanager", url, [alert(notice, now)], headers=self._login(), timeout=self.settings.timeout_seconds)

    def _login(self) -> dict[str, str]:
        if not self.settings.secret:
            return {}
        if not self.settings.user:
            return {"authorization": f"Bearer {secret(self.settings.secret)}"}
        import base64

        pair = f"{self.settings.user}:{secret(self.settings.secret)}".encode()
        return {"authorization": f"Basic {base64.b64encode(pair).decode()}"}


def alert(notice: Notice, now: datetime) -> dict[str, Any]:
    """The alert: labels that stay the same through its life, everything else as annotations."""
    ends = now if notice.stage == "resolved" else now + KEPT
    # an incident of replayed time may begin after the clock on the wall; Alertmanager refuses ends before starts
    starts = min(notice.onset, now - SKEW)
    annotations = {
        "summary": f"{notice.model}: {notice.title}",
        "description": notice.text,
        "evidence": "\n".join(why for _, why in notice.details),
        "runbook_url": notice.runbook,
    }
    labels = {
        "alertname": f"undrift_{notice.kind}",
        "model": notice.model,
        "monitor": notice.monitor,
        "severity": notice.severity,
        "fingerprint": notice.fingerprint,
        "episode": notice.episode,
        "service": "undrift",
    }
    sent = {
        "labels": labels,
        "annotations": {name: text for name, text in annotations.items() if text},
        "startsAt": starts.isoformat(),
        "endsAt": ends.isoformat(),
    }
    return {**sent, "generatorURL": notice.link} if notice.link else sent
