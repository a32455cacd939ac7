"""The public surface is one sorted list; adding to it or taking from it is a decision that shows here."""

from __future__ import annotations

from pathlib import Path

import pytest

MOST_NAMES = 44

# every name that `import undrift as ud` promises; a change here stands in CHANGELOG.md too
PUBLIC = (
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
)


@pytest.fixture(autouse=True)
def _there(root: Path) -> None:
    if not (root / "src/undrift/__init__.py").exists():
        pytest.skip("the package's own file is still to come")


def test_the_public_names_are_these() -> None:
    import undrift

    assert tuple(undrift.__all__) == PUBLIC


def test_the_public_names_are_sorted_and_few() -> None:
    import undrift

    assert list(undrift.__all__) == sorted(set(undrift.__all__))
    assert 0 < len(undrift.__all__) <= MOST_NAMES


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    import undrift

    silent = [
        name
        for name in undrift.__all__
        if not name.startswith("__") and not (getattr(undrift, name).__doc__ or "").strip()
    ]
    assert not silent


def test_dir_shows_the_public_names() -> None:
    import undrift

    assert set(undrift.__all__) <= set(dir(undrift))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import undrift

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = undrift.no_such_name
