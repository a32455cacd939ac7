"""Alerts to any HTTP receiver, as JSON signed by the Standard Webhooks scheme (https://www.standardwebhooks.com).

The id in the header ``webhook-id`` is the same whenever a notice is sent again, so a receiver can drop what it has.
`post` is how the other HTTP sinks send too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from undrift import __version__
from undrift.errors import DeliveryError, SettingsError
from undrift.monitor.notices import Notice
from undrift.settings import SinkSettings, given, secret

__all__ = ["WebhookSink", "post", "sign"]

SHOWN: Final = 200
"""Characters of a refusal that are kept."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body: it is refused instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(kind: str, url: str, body: Any, *, headers: Mapping[str, str] | None = None, timeout: float) -> bytes:
    """POST a value as JSON; the answer's body.

    Raises
    ------
    DeliveryError : any answer but 2xx, or none. Never names the address: it may be a secret.
    SettingsError : the address is no http(s) URL.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"a sink of kind {kind!r} needs an http:// or https:// `url`.")
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    names = {"content-type": "application/json", "user-agent": f"undrift/{__version__}", **(headers or {})}
    request = urllib.request.Request(url, data=data, headers=names, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        with error:
            said = error.read()[:SHOWN].decode(errors="replace").strip()
        raise DeliveryError(f"{kind} answered {error.code}: {said or error.reason}") from None
    except OSError as error:  # URLError is one; so are time-outs
        reason = getattr(error, "reason", None) or error
        raise DeliveryError(f"{kind} could not be reached: {reason}") from None


def sign(key: str, notice_id: str, timestamp: int, body: bytes) -> str:
    """The ``webhook-signature`` header: HMAC-SHA256 of ``id.timestamp.body``, base64.

    Parameters
    ----------
    key : ``whsec_`` and base64, as the scheme has it; anything else is taken as the key's own characters.
    timestamp : seconds since 1970.

    Examples
    --------
    >>> sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
    ...      b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    raw = base64.b64decode(key.removeprefix("whsec_")) if key.startswith("whsec_") else key.encode()
    signed = b".".join((notice_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(raw, signed, hashlib.sha256).digest()).decode()


class WebhookSink:
    """A generic receiver.

    Parameters
    ----------
    settings : ``url``; ``secret`` to sign with, which is optional.
    clock : seconds since 1970, for the signature.
    """

    def __init__(self, settings: SinkSettings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock

    def send(self, notice: Notice) -> None:
        """See `monitor.notices.Sink`."""
        body = msgspec.json.encode({"type": f"incident.{notice.stage}", "data": notice}, order="deterministic")
        now = int(self._clock())
        headers = {"webhook-id": notice.id, "webhook-timestamp": str(now)}
        if self.settings.secret:
            headers["webhook-signature"] = sign(secret(self.settings.secret), notice.id, now, body)
        post("webhook", given(self.settings.url), body, headers=headers, timeout=self.settings.timeout_seconds)
