"""Alerts by e-mail: SMTP with STARTTLS (or implicit TLS), with a Message-ID that is the same whenever it is sent again.

All messages of one opening of an incident are a thread. Mail servers drop a Message-ID they have delivered, mostly;
SMTP itself does not promise it.
"""

from __future__ import annotations

import hashlib
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final
from urllib.parse import urlsplit

from undrift.errors import DeliveryError, SettingsError
from undrift.monitor.notices import Notice
from undrift.settings import SinkSettings, given, secret

__all__ = ["EmailSink"]

PORTS: Final = {"starttls": 587, "implicit": 465, "none": 25}


class EmailSink:
    """Some mailboxes.

    Parameters
    ----------
    settings : ``url`` as ``smtp://mail.example.org:587``, ``to``, ``sender``; ``user`` and ``secret`` to log in;
        ``tls``: ``starttls`` (which the server then must offer), ``implicit`` or ``none``; ``ca_file`` for a server
        whose certificate a private authority signed.
    """

    def __init__(self, settings: SinkSettings) -> None:
        parts = urlsplit(given(settings.url))
        if parts.scheme != "smtp" or not parts.hostname or not settings.to or not settings.sender:
            raise SettingsError(
                "a sink of kind 'email' needs a `url` as smtp://mail.example.org:587, a `sender` and `to`."
            )
        if settings.secret and settings.tls == "none":
            raise SettingsError("a sink of kind 'email' would send its password in the clear: use tls = \"starttls\".")
        self.settings = settings
        self._host = parts.hostname
        self._port = parts.port or PORTS[settings.tls]

    def send(self, notice: Notice) -> None:
        """See `monitor.notices.Sink`."""
        settings = self.settings
        try:
            with self._connect() as server:
                if settings.tls == "starttls":
                    server.starttls(context=self._context())
                if settings.secret:
                    server.login(settings.user, secret(settings.secret))
                refused = server.send_message(message(notice, settings.sender, settings.to))
        except (smtplib.SMTPException, OSError) as error:
            raise DeliveryError(f"email could not be sent: {type(error).__name__}: {error}") from None
        if refused:
            raise DeliveryError(f"email was refused for {', '.join(sorted(refused))}")

    def _connect(self) -> smtplib.SMTP:
        timeout = self.settings.timeout_seconds
        if self.settings.tls == "implicit":
            return smtplib.SMTP_SSL(self._host, self._port, timeout=timeout, context=self._context())
        return smtplib.SMTP(self._host, self._port, timeout=timeout)

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.settings.ca_file or None)


def message(notice: Notice, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """The message: plain text, threaded by incident."""
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, ", ".join(to)
    mail["Subject"] = _line(f"[{notice.severity}] {notice.stage}: {notice.model}: {notice.title}")
    mail["Date"] = format_datetime(notice.at)
    domain = sender.rpartition("@")[2].strip("> ") or "undrift"
    thread = f"<{hashlib.sha256(notice.key.encode()).hexdigest()[:32]}@{domain}>"
    mail["Message-ID"] = f"<{notice.id}@{domain}>"
    mail["References"] = mail["In-Reply-To"] = thread
    mail["Auto-Submitted"] = "auto-generated"
    facts = {
        "incident": notice.fingerprint,
        "since": f"{notice.onset:%Y-%m-%d %H:%M} UTC",
        "owner": notice.owner,
        "columns": ", ".join(notice.columns),
        "segments": ", ".join(notice.segments),
        "runbook": notice.runbook,
        "link": notice.link,
        "by": "" if notice.actor == "work" else notice.actor,
    }
    lines = [notice.text, "", *(f"- {why}" for _, why in notice.details), ""]
    lines += [f"{name + ':':<10} {text}" for name, text in facts.items() if text]
    mail.set_content("\n".join(lines) + "\n")
    return mail


def _line(text: str) -> str:
    """Text as one header line: a line break in a title must not begin another header."""
    return " ".join(text.split())
