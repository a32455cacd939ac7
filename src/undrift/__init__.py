"""undrift: takes a model to production and keeps it right there. Measure, judge, act.

The public names are listed here once and resolved on first use, so `import undrift` itself loads nothing heavy.

    import undrift as ud
    project = ud.open(".")
    ud.train(project, actor="person:ann")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undrift.data.contract import Contract, Field
    from undrift.data.features import Aggregate, Feature, FeatureView, Source, Transform
    from undrift.declarations import Model
    from undrift.deploy.metrics import Metric
    from undrift.deploy.rollout import Freeze, Guardrail, Rollout, Stage
    from undrift.deploy.strategy import Objective
    from undrift.develop.training import TrainingData
    from undrift.errors import UndriftError
    from undrift.explanations import explain
    from undrift.finding import Finding, Measurement, Report, Rule, Verdict
    from undrift.improve.triggers import Retrain
    from undrift.inquiry import history, status, why
    from undrift.lifecycle import adopt, apply, gate, plan, train
    from undrift.monitor.monitors import Monitor
    from undrift.project import Project
    from undrift.project import open_project as open  # noqa: A004  ud.open(".") reads best
    from undrift.releases import promote, roll_back, roll_out
    from undrift.scoring import score, score_file
    from undrift.validate.gate import Gate

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "Contract",
    "Feature",
    "FeatureView",
    "Field",
    "Finding",
    "Freeze",
    "Gate",
    "Guardrail",
    "Measurement",
    "Metric",
    "Model",
    "Monitor",
    "Objective",
    "Project",
    "Report",
    "Retrain",
    "Rollout",
    "Rule",
    "Source",
    "Stage",
    "TrainingData",
    "Transform",
    "UndriftError",
    "Verdict",
    "__version__",
    "adopt",
    "apply",
    "explain",
    "gate",
    "history",
    "open",
    "plan",
    "promote",
    "roll_back",
    "roll_out",
    "score",
    "score_file",
    "status",
    "train",
    "why",
]

_PLACES = {
    "data.contract": ("Contract", "Field"),
    "data.features": ("Aggregate", "Feature", "FeatureView", "Source", "Transform"),
    "declarations": ("Model",),
    "deploy.metrics": ("Metric",),
    "deploy.rollout": ("Freeze", "Guardrail", "Rollout", "Stage"),
    "deploy.strategy": ("Objective",),
    "develop.training": ("TrainingData",),
    "errors": ("UndriftError",),
    "finding": ("Finding", "Measurement", "Report", "Rule", "Verdict"),
    "improve.triggers": ("Retrain",),
    "explanations": ("explain",),
    "inquiry": ("history", "status", "why"),
    "lifecycle": ("adopt", "apply", "gate", "plan", "train"),
    "monitor.monitors": ("Monitor",),
    "project": ("Project", "open"),
    "releases": ("promote", "roll_back", "roll_out"),
    "scoring": ("score", "score_file"),
    "validate.gate": ("Gate",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'undrift' has no attribute {name!r}")
    module = import_module(f"undrift.{_MODULES[name]}")
    value = getattr(module, "open_project" if name == "open" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
