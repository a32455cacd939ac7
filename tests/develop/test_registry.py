from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from undrift.develop.registry import MlflowRegistry
from undrift.develop.tracking import MlflowTracking, environment, tracking_url
from undrift.errors import NotFoundError, StateError

BUNDLE = "ab" * 32


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: Any) -> MlflowTracking:
    return MlflowTracking(str(tmp_path_factory.mktemp("mlflow") / "mlflow.db"))


def test_a_bare_path_is_a_sqlite_file_and_an_address_stays_as_it_is(tmp_path: Path) -> None:
    assert tracking_url(str(tmp_path / "m.db")) == f"sqlite:///{tmp_path}/m.db"
    assert tracking_url("https://mlflow.example.org") == "https://mlflow.example.org"


def test_runs_are_written_whole_and_the_root_logger_is_left_alone(
    tracking: MlflowTracking, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    run_id = tracking.log_run(
        "flights", params={f"p{i}": i for i in range(150)}, metrics={"loss": 0.5}, series={"fold": [3.0, 2.0, 1.0]},
        tags={"why": "test"}, texts={"notes.txt": "hello"},
    )  # fmt: skip
    assert (list(root.handlers), root.level) == before
    assert capfd.readouterr().err == ""  # not a word of MLflow's or Alembic's
    run = tracking.client.get_run(run_id)
    assert len(run.data.params) == 150
    assert [m.value for m in tracking.client.get_metric_history(run_id, "fold")] == [3.0, 2.0, 1.0]
    assert run.data.tags["why"] == "test"


def test_versions_are_registered_once_and_refer_to_their_bundle(tracking: MlflowTracking) -> None:
    registry = MlflowRegistry(tracking)
    first = registry.register("late", 1, bundle=BUNDLE)
    assert registry.register("late", 1, bundle=BUNDLE) == first
    second = registry.register("late", 2, bundle="cd" * 32, tags={"gate": "PASS"})
    assert second != first
    found = tracking.client.get_model_version("late", second)
    assert found.source == f"undrift:{'cd' * 32}"
    assert found.tags == {"undrift.version": "2", "undrift.revision": "r-cdcdcdcdcdcd", "gate": "PASS"}


def test_aliases_follow_our_numbers(tracking: MlflowTracking) -> None:
    registry = MlflowRegistry(tracking)
    for version in (1, 2):
        registry.register("early", version, bundle=BUNDLE)
    assert registry.alias("early", "champion") is None
    registry.set_alias("early", "champion", 1)
    registry.set_alias("early", "champion", 2)
    assert registry.alias("early", "champion") == 2
    registry.drop_alias("early", "champion")
    registry.drop_alias("early", "champion")
    assert registry.alias("early", "champion") is None
    with pytest.raises(NotFoundError, match="version 9"):
        registry.set_alias("early", "champion", 9)


def test_models_that_mlflow_does_not_have_are_not_found(tracking: MlflowTracking, tmp_path: Path) -> None:
    registry = MlflowRegistry(tracking)
    registry.register("ours", 1, bundle=BUNDLE)
    with pytest.raises(NotFoundError, match="models:/nobody@champion"):
        registry.download("models:/nobody@champion", tmp_path)
    with pytest.raises(StateError, match="not in MLflow"):
        registry.download("models:/ours/1", tmp_path)


def test_the_environment_names_what_a_model_was_made_with(tmp_path: Path) -> None:
    found = environment(tmp_path)
    assert found["package.numpy"]
    assert found["python"].startswith("3.")
    assert "code.commit" not in found  # no git there
