"""Where things are: undrift.toml, the UNDRIFT_* environment and the defaults, as one typed tree.

The environment wins over the file, the file over the defaults, and every value remembers where it came from. What
people *want* of their models does not stand here but in their declarations. Reading settings touches nothing else.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.errors import SettingsError
from undrift.hosting import PLATFORM, ROUTE, SAFE_PORTS, from_platform, safe_port
from undrift.ids import duration
from undrift.sections import (
    AlertSettings,
    ExplainSettings,
    ObserveSettings,
    ProjectSettings,
    ServeSettings,
    SinkSettings,
    StoreSettings,
    TimeSettings,
    TrustSettings,
    UiSettings,
    WorkSettings,
)

__all__ = [
    "FILE_NAME",
    "AlertSettings",
    "ExplainSettings",
    "ObserveSettings",
    "ProjectSettings",
    "ServeSettings",
    "Settings",
    "SinkSettings",
    "StoreSettings",
    "TimeSettings",
    "TrustSettings",
    "UiSettings",
    "WorkSettings",
    "find",
    "given",
    "load",
    "secret",
]

FILE_NAME: Final = "undrift.toml"
PREFIX: Final = "UNDRIFT_"
REFERENCES: Final = ("env:", "file:")
_SCHEME: Final = re.compile(r"^[a-z][a-z0-9+]+:")
_ADDRESS: Final = re.compile(r"https?://.")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole tree. ``root`` is the folder of undrift.toml; ``origins`` says where each value came from."""

    project: ProjectSettings = ProjectSettings()
    stores: StoreSettings = StoreSettings()
    time: TimeSettings = TimeSettings()
    serve: ServeSettings = ServeSettings()
    observe: ObserveSettings = ObserveSettings()
    work: WorkSettings = WorkSettings()
    alerts: AlertSettings = AlertSettings()
    ui: UiSettings = UiSettings()
    explain: ExplainSettings = ExplainSettings()
    trust: TrustSettings = TrustSettings()
    root: str = "."
    origins: dict[str, str] = {}

    def path(self, url: str) -> Path:
        """The path of a ``file:`` or ``sqlite:`` URL or a plain path, absolute; relative ones start at the root.

        ``sqlite:a/b`` and ``sqlite://a/b`` are relative, ``sqlite:/a/b`` and ``sqlite:///a/b`` are not.
        """
        bare = _SCHEME.sub("", url).removeprefix("//")
        bare = "/" + bare.lstrip("/") if bare.startswith("/") else bare
        return (Path(self.root) / bare).resolve()

    def values(self) -> Iterator[tuple[str, Any, str]]:
        """Each setting as (dotted name, value, origin)."""
        for section in SECTIONS:
            part = getattr(self, section)
            for key in part.__struct_fields__:
                name = f"{section}.{key}"
                yield name, getattr(part, key), self.origins.get(name, "default")


SECTIONS: Final = tuple(f for f in Settings.__struct_fields__ if f not in ("root", "origins"))
_DEFAULTS: Final = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
_TYPES: Final[dict[str, type[msgspec.Struct]]] = {name: type(_DEFAULTS[name]) for name in SECTIONS}
_MAY_BE_ZERO: Final = (
    "serve.port", "serve.cache_rows", "serve.price_per_cpu_hour", "serve.check_seconds", "serve.spool_bytes",
    "serve.spool_seconds", "serve.grpc_port", "work.threads", "ui.port", "observe.trace_ratio",
)  # fmt: skip


def find(start: Path) -> Path:
    """The nearest undrift.toml at or above a folder.

    Raises
    ------
    SettingsError : there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise SettingsError(
        f"no {FILE_NAME} in {start.resolve()} or above it.",
        hint="Run `undrift init DIR --data FILE --label COLUMN` to make a project, or go to the folder of one.",
    )


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}."


def _check_names(raw: Mapping[str, Any], source: str) -> None:
    for section, part in raw.items():
        if section not in SECTIONS:
            raise SettingsError(f"{source}: unknown section [{section}]; {_nearest(section, SECTIONS)}")
        if not isinstance(part, Mapping):
            raise SettingsError(f"{source}: {section!r} must be a section, [{section}], not a {type(part).__name__}.")
        known = _TYPES[section].__struct_fields__
        for key in part:
            if key not in known:
                raise SettingsError(f"{source}: unknown setting {section}.{key}; {_nearest(key, known)}")


def _from_environment(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        rest = variable.removeprefix(PREFIX).lower()
        section, found_mark, key = rest.partition("__")
        if not found_mark:
            meant, _, key = rest.partition("_")
            if meant in SECTIONS and key:  # other UNDRIFT_* variables are not settings
                wanted = f"{PREFIX}{meant.upper()}__{key.upper()}"
                raise SettingsError(f"environment variable {variable} sets nothing; did you mean {wanted!r}?")
            continue
        _check_names({section: {key: value}}, f"environment variable {variable}")
        found.setdefault(section, {})[key] = value
    return found


def _typed(section: str, merged: Mapping[str, Any], origins: Mapping[str, str]) -> Any:
    kind = _TYPES[section]
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    values = {}
    for key, value in merged.items():
        origin = origins[f"{section}.{key}"]
        from_text = origin.startswith(PREFIX) or origin in PLATFORM
        if from_text and str(types[key]).startswith("tuple"):
            value = [part.strip() for part in value.split(",") if part.strip()]
        try:
            values[key] = msgspec.convert(value, types[key], strict=not from_text)
        except msgspec.ValidationError as error:
            shown = "" if isinstance(value, dict) else f" = {value!r}"  # a table may hold what nobody should read
            raise SettingsError(f"{origin}: {section}.{key}{shown}: {error}.") from error
    return kind(**values)


def _check_values(settings: Settings) -> None:
    spans = {
        "time.tick": settings.time.tick,
        "time.lateness": settings.time.lateness,
        "alerts.give_up": settings.alerts.give_up,
    }
    for name, text in spans.items():
        try:
            duration(text)
        except ValueError as error:
            raise SettingsError(f"{settings.origins.get(name, 'default')}: {name}: {error}.") from error
    if duration(settings.time.tick).total_seconds() <= 0:
        raise SettingsError(f"{settings.origins.get('time.tick')}: time.tick must be longer than nothing.")
    positive = {
        name: value
        for name, value, _ in settings.values()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _MAY_BE_ZERO
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise SettingsError(f"{settings.origins.get(name, 'default')}: {name} = {value} must be a number above 0.")
    for name, sink in settings.alerts.sinks.items():
        where = f"{settings.origins.get('alerts.sinks', 'default')}: alerts.sinks.{name}"
        if sink.secret and not sink.secret.startswith(REFERENCES):
            raise SettingsError(
                f"{where}.secret must be a reference, `env:NAME` or `file:PATH`, not the secret itself."
            )
        if not 0 < sink.timeout_seconds < math.inf:
            raise SettingsError(f"{where}.timeout_seconds must be a number above 0.")
    for model, rate in settings.serve.capture_rates.items():
        if not 0 < rate <= 1:
            told = settings.origins.get("serve.capture_rates", "default")
            raise SettingsError(f"{told}: serve.capture_rates.{model} = {rate} must be above 0 and at most 1.")
    for name in _MAY_BE_ZERO[1:6]:
        if not 0 <= getattr(settings.serve, name.removeprefix("serve.")) < math.inf:
            raise SettingsError(f"{settings.origins.get(name)}: {name} must be 0 or a number above it.")
    for name in ("predict_route", "health_route"):
        route = getattr(settings.serve, name)
        if route and not ROUTE.fullmatch(route):
            origin = settings.origins.get(f"serve.{name}")
            raise SettingsError(f"{origin}: serve.{name} = {route!r} must be a path, as '/predict'.")
    if settings.work.threads < 0:
        raise SettingsError(f"{settings.origins.get('work.threads')}: work.threads must be 0 (half the cores) or more.")
    observe, grpc_port = settings.observe, settings.serve.grpc_port
    for name, fine, wanted in (
        ("serve.grpc_port", -1 <= grpc_port <= 65535, "must be in 0..65535 (0: any free one), or -1 for no gRPC."),
        ("observe.trace_ratio", 0 <= observe.trace_ratio <= 1, "must be in [0, 1]: a share of requests."),
        ("observe.traces", not observe.traces or _ADDRESS.match(observe.traces), "must be an http:// address."),
    ):
        if not fine:
            raise SettingsError(f"{settings.origins.get(name)}: {name} {wanted}")
    for name, port in (("serve.port", settings.serve.port), ("ui.port", settings.ui.port)):
        if not 0 <= port <= 65535:
            raise SettingsError(f"{settings.origins.get(name)}: {name} must be in 0..65535 (0: any free one).")


def load(file: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read a file (None: only environment and defaults) and the environment into one Settings.

    Parameters
    ----------
    file : path of an undrift.toml.
    environ : variables as ``UNDRIFT_SERVE__PORT=9000``; ``os.environ`` if left out.

    Raises
    ------
    SettingsError : unreadable file, unknown name (with the nearest known one), value of the wrong type or range.
    """
    raw: dict[str, Any] = {}
    if file is not None:
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file} cannot be read: {error}.") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{file} is not valid TOML: {error}.") from error
        _check_names(raw, str(file))
    variables = _from_environment(os.environ if environ is None else environ)
    platform = from_platform(os.environ if environ is None else environ)
    sections: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for section in SECTIONS:
        from_file, from_env = dict(raw.get(section, {})), variables.get(section, {})
        origins.update({f"{section}.{key}": str(file) for key in from_file})
        origins.update({f"{section}.{key}": f"{PREFIX}{section.upper()}__{key.upper()}" for key in from_env})
        told = platform if section == "serve" else {}
        origins.update({f"{section}.{key}": name for key, (name, _) in told.items() if key not in from_env})
        sections[section] = _typed(
            section, {**from_file, **{key: value for key, (_, value) in told.items()}, **from_env}, origins
        )
    root = str(file.resolve().parent) if file is not None else str(Path.cwd())
    settings = Settings(**sections, root=root, origins=origins)
    _check_values(settings)
    serve = settings.serve
    port = safe_port(os.environ if environ is None else environ, serve.grpc_port, serve.port)
    if port != serve.grpc_port:
        settings.origins["serve.grpc_port"] = SAFE_PORTS
        settings = msgspec.structs.replace(settings, serve=msgspec.structs.replace(serve, grpc_port=port))
    return settings


def given(text: str, environ: Mapping[str, str] | None = None) -> str:
    """A text as it stands, or what it refers to where it is ``env:NAME`` or ``file:PATH``."""
    return secret(text, environ) if text.startswith(REFERENCES) else text


def secret(reference: str, environ: Mapping[str, str] | None = None) -> str:
    """Resolve ``env:NAME`` or ``file:PATH``; secrets are never written into undrift.toml itself.

    Raises
    ------
    SettingsError : no such variable or file, or the text is no reference.
    """
    kind, _, rest = reference.partition(":")
    if kind == "env":
        variables = os.environ if environ is None else environ
        if rest not in variables:
            raise SettingsError(f"the secret {reference!r} points to the variable {rest}, which is not set.")
        return variables[rest]
    if kind == "file":
        try:
            return Path(rest).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"the secret {reference!r} cannot be read: {error}.") from error
    raise SettingsError("a secret must be a reference, `env:NAME` or `file:PATH`, not the secret itself.")
