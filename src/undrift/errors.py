"""Every error undrift raises, in one tree.

    UndriftError
    ├── SettingsError            undrift.toml or the environment says something we cannot follow
    ├── DeclarationError         the user's declarations contradict themselves or do not load
    ├── MissingExtraError        a package that an extra installs is not there
    ├── NotFoundError            a model, version, rollout, request ... of that name does not exist
    ├── ConflictError            somebody else changed it first, or the step is not allowed from here
    ├── DataError                a table cannot be used as it is
    │   └── ContractError        data breaks its contract; carries the findings
    ├── ModelError               a model cannot be used
    │   ├── UntrustedModelError  its format may run code and the loader was not told to allow it
    │   ├── CorruptModelError    its files are not the ones that were registered
    │   ├── PredictionError      the model raised while predicting
    │   └── InexactError         no exact explanation fits it; samples are taken instead
    ├── RequestError             one request is wrong; carries the path inside the body
    ├── OverloadError            more work than the stated bound; try again later
    ├── DeadlineError            the time the caller gave has passed
    ├── StateError               a store is unreachable, full or damaged
    │   ├── LeaseLostError       another worker took the job over
    │   ├── BrokenChainError     the event log was altered after it was written
    │   └── CaptureError         a record could not be written to the spool
    ├── DeliveryError            a receiver of alerts did not take a notice
    └── ServeError               the server cannot start or stay up

A message says what was seen, where, what was expected and what to do. No transport stands here: app/api.py and
protocols/wire.py map errors to HTTP, app/cli.py to exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BrokenChainError",
    "CaptureError",
    "ConflictError",
    "ContractError",
    "CorruptModelError",
    "DataError",
    "DeadlineError",
    "DeclarationError",
    "DeliveryError",
    "InexactError",
    "LeaseLostError",
    "MissingExtraError",
    "ModelError",
    "NotFoundError",
    "OverloadError",
    "PredictionError",
    "RequestError",
    "ServeError",
    "SettingsError",
    "StateError",
    "UndriftError",
    "UntrustedModelError",
]


class UndriftError(Exception):
    """Root of all errors that undrift raises on purpose.

    Parameters
    ----------
    message : what was seen, where, and what was expected.
    hint : what to do about it, as one sentence; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class SettingsError(UndriftError):
    """undrift.toml or an UNDRIFT_* variable says something that cannot be followed."""


class DeclarationError(UndriftError):
    """The declarations module does not load, or what it declares contradicts itself."""


class MissingExtraError(UndriftError):
    """A package that belongs to an extra is not installed."""

    def __init__(self, needed_for: str, package: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed.",
            hint=f"pip install 'undrift[{extra}]'",
        )
        self.package = package
        self.extra = extra


class NotFoundError(UndriftError):
    """Something was asked for by a name that does not exist."""


class ConflictError(UndriftError):
    """The step is not allowed from the present state, or somebody else changed it first."""


class DataError(UndriftError):
    """A table cannot be used: a column is missing, a type is wrong, nothing is in it."""


class ContractError(DataError):
    """Data breaks its contract.

    Parameters
    ----------
    message : a summary.
    findings : one line per broken rule, the worst first.
    """

    def __init__(self, message: str, *, findings: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class ModelError(UndriftError):
    """A model cannot be used."""


class UntrustedModelError(ModelError):
    """The file's format can run code when it is opened, and the loader was not told to allow that."""


class CorruptModelError(ModelError):
    """The files of a model are not the ones that were registered, or cannot be read at all."""


class PredictionError(ModelError):
    """The model raised an exception, or answered something that is no prediction."""


class InexactError(ModelError):
    """No exact way to explain the model fits it; the message says why, and explanations sample instead."""


class RequestError(UndriftError):
    """One request is wrong.

    Parameters
    ----------
    message : what was expected and what was seen.
    path : where in the body, as ``$.instances[0].distance``.
    """

    def __init__(self, message: str, *, path: str = "$", hint: str = "") -> None:
        super().__init__(f"{message} - at `{path}`", hint=hint)
        self.reason = message
        self.path = path


class OverloadError(UndriftError):
    """The queue is at its stated bound: refuse now rather than answer too late.

    Parameters
    ----------
    retry_after : seconds after which trying again makes sense.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(UndriftError):
    """The time the caller was willing to wait has passed; the work was dropped."""


class StateError(UndriftError):
    """A store is unreachable, full or damaged."""


class LeaseLostError(StateError):
    """The lease on a job ended while it ran: another worker has it now, and what this one did is not kept."""


class BrokenChainError(StateError):
    """The event log does not hash to what it hashed to when it was written."""


class CaptureError(StateError):
    """A record could not be written to the spool."""


class DeliveryError(UndriftError):
    """A receiver of alerts did not take a notice: it will be tried again."""


class ServeError(UndriftError):
    """The server cannot start or stay up: the port is taken, no revision can be loaded."""
