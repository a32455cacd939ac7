"""Names to code: the one table that says which class answers to which URL scheme or format, and which extra brings it.

The built-in defaults go through the same table as everything else, and third parties add entry points in the group
``undrift.plugins`` named ``port:name``. Nothing is imported until it is asked for.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any, Final, NamedTuple

from undrift.errors import MissingExtraError, SettingsError, UndriftError

__all__ = ["BUILT_IN", "Plugin", "names", "resolve", "resolve_path"]


class Plugin(NamedTuple):
    """Where the code is (``package.module:attribute``) and which extra installs what it imports ('' for the base)."""

    target: str
    extra: str = ""


BUILT_IN: Final[dict[str, dict[str, Plugin]]] = {
    "artifacts": {"file": Plugin("undrift.state.artifacts:DirectoryArtifacts")},
    "journal": {"sqlite": Plugin("undrift.state.sql:SqliteStore")},
    "lake": {"file": Plugin("undrift.state.lake:DeltaLake")},
    "online": {"sqlite": Plugin("undrift.data.online:SqliteOnline")},
    "registry": {"mlflow": Plugin("undrift.develop.registry:MlflowRegistry", "mlflow")},
    "scenario": {
        "biased_candidate": Plugin("undrift.rehearse.biased_candidate:BiasedCandidate"),
        "broken_for_some": Plugin("undrift.rehearse.broken_for_some:BrokenForSome"),
        "corner_case": Plugin("undrift.rehearse.corner_case:CornerCase"),
        "feature_code_changes": Plugin("undrift.rehearse.feature_code_changes:FeatureCodeChanges"),
        "forgets_long_tail": Plugin("undrift.rehearse.forgets_long_tail:ForgetsLongTail"),
        "hundredfold_traffic": Plugin("undrift.rehearse.hundredfold_traffic:HundredfoldTraffic"),
        "hurts_business": Plugin("undrift.rehearse.hurts_business:HurtsBusiness"),
        "labels_stop": Plugin("undrift.rehearse.labels_stop:LabelsStop"),
        "product_pivots": Plugin("undrift.rehearse.product_pivots:ProductPivots"),
        "scheme_changes": Plugin("undrift.rehearse.scheme_changes:SchemeChanges"),
        "segment_rots": Plugin("undrift.rehearse.segment_rots:SegmentRots"),
        "silent_garbage": Plugin("undrift.rehearse.silent_garbage:SilentGarbage"),
        "upstream_corrupts": Plugin("undrift.rehearse.upstream_corrupts:UpstreamCorrupts"),
        "world_changes": Plugin("undrift.rehearse.world_changes:WorldChanges"),
    },
    "sink": {
        "alertmanager": Plugin("undrift.integrations.alertmanager:AlertmanagerSink"),
        "email": Plugin("undrift.integrations.email:EmailSink"),
        "log": Plugin("undrift.monitor.notices:LogSink"),
        "pagerduty": Plugin("undrift.integrations.pagerduty:PagerDutySink"),
        "slack": Plugin("undrift.integrations.slack:SlackSink"),
        "webhook": Plugin("undrift.integrations.webhook:WebhookSink"),
    },
    "tracking": {
        "http": Plugin("undrift.develop.tracking:MlflowTracking", "mlflow"),
        "https": Plugin("undrift.develop.tracking:MlflowTracking", "mlflow"),
        "sqlite": Plugin("undrift.develop.tracking:MlflowTracking", "mlflow"),
    },
}


def _entry_points(port: str) -> dict[str, Plugin]:
    found = {}
    for point in metadata.entry_points(group="undrift.plugins"):
        owner, _, name = point.name.partition(":")
        if owner == port:
            found[name] = Plugin(point.value)
    return found


def names(port: str) -> list[str]:
    """The names a port answers to, sorted: built in and from entry points."""
    return sorted({*BUILT_IN.get(port, {}), *_entry_points(port)})


def resolve_path(target: str, *, wanted_for: str, extra: str = "") -> Any:
    """Import ``package.module:attribute``.

    Raises
    ------
    MissingExtraError : a package of the extra is not installed.
    SettingsError : the module or the attribute is not there, or the module raises while it is imported.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise SettingsError(f"{wanted_for} points to {target!r}; write it as 'package.module:attribute'.")
    try:
        module = import_module(module_name)
    except ImportError as error:
        if extra and error.name and not error.name.startswith("undrift"):
            raise MissingExtraError(wanted_for, error.name, extra) from error
        raise SettingsError(
            f"{wanted_for} points to {target!r}, which cannot be imported: {error}.",
            hint="Check the spelling, and that the package is installed in this environment.",
        ) from error
    except UndriftError:
        raise
    except Exception as error:  # the module is not ours: whatever it raises is its author's to see
        raise SettingsError(
            f"{wanted_for} points to {target!r}, which raises while it is imported: {type(error).__name__}: {error}."
        ) from error
    if not hasattr(module, attribute):
        raise SettingsError(f"{wanted_for} points to {target!r}, but {module_name} has no {attribute!r}.")
    return getattr(module, attribute)


def resolve(port: str, name: str) -> Any:
    """The class that answers to a name at a port.

    Raises
    ------
    SettingsError : nobody answers to that name; lists who would.
    MissingExtraError : the code is known but a package it needs is not installed.
    """
    plugin = BUILT_IN.get(port, {}).get(name) or _entry_points(port).get(name)
    if plugin is None:
        known = ", ".join(f"{n}://" for n in names(port)) or "nothing"
        raise SettingsError(
            f"no {port} answers to {name}://.", hint=f"Known here: {known}. Others come as plugins (docs/reference)."
        )
    return resolve_path(plugin.target, wanted_for=f"{port} {name}://", extra=plugin.extra)
