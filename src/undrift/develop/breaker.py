"""The circuit breaker: what fails again and again is left alone for a while, then tried once.

Closed, requests go through; open, none does; half-open, one does, and its end decides. Pure: time is an argument.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Breaker", "State"]

State = Literal["closed", "open", "half_open"]


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a circuit.

    ``failures``: in a row, since the last success. ``until``: when an open circuit may be tried (seconds of the
    caller's clock). ``opened`` and ``refused`` count since the beginning.
    """

    limit: int = 5
    pause: float = 10.0
    state: State = "closed"
    failures: int = 0
    until: float = 0.0
    opened: int = 0
    refused: int = 0

    def ask(self, now: float) -> tuple[Breaker, bool]:
        """Whether a request may go through now.

        >>> Breaker(state="open", until=5.0).ask(4.9)[1], Breaker(state="open", until=5.0).ask(5.0)[1]
        (False, True)
        """
        if self.state == "closed":
            return self, True
        if self.state == "open" and now >= self.until:
            # should the trial never tell its end, another one may be made after the same pause
            return msgspec.structs.replace(self, state="half_open", until=now + self.pause), True
        if self.state == "half_open" and now >= self.until:
            return msgspec.structs.replace(self, until=now + self.pause), True
        return msgspec.structs.replace(self, refused=self.refused + 1), False

    def tell(self, ok: bool, now: float) -> Breaker:
        """What follows from the end of a request that went through."""
        if ok:
            return msgspec.structs.replace(self, state="closed", failures=0)
        failures = self.failures + 1
        if self.state == "open":
            return self  # of a request that began before the circuit opened
        if self.state == "half_open" or failures >= self.limit:
            return msgspec.structs.replace(
                self, state="open", failures=failures, until=now + self.pause, opened=self.opened + 1
            )
        return msgspec.structs.replace(self, failures=failures)
