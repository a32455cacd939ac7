"""Plan, apply, train, adopt, gate, score, retrain: what each records, and what it refuses in one message."""

from __future__ import annotations

import io
from pathlib import Path

import joblib
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from undrift import inquiry, lifecycle, releases, scoring
from undrift.app import render
from undrift.assembly import read_table, transform_code
from undrift.candidates import prepare
from undrift.errors import ConflictError, ContractError, DataError, DeclarationError, NotFoundError, UntrustedModelError
from undrift.finding import Verdict
from undrift.project import Project, open_project

from living import ME, redeclared, train, train_as  # isort: skip
from town import PER_DAY, TRAINED_DAYS, write_declarations  # isort: skip


def kinds(project: Project) -> list[str]:
    return [event.kind for event in project.journal.events()]


# -- plan and apply -------------------------------------------------------------------------------------------------


def test_a_plan_shows_what_apply_then_does_and_nothing_is_left_to_plan(fresh: Project) -> None:
    (lines,) = lifecycle.plan(fresh).values()
    assert "+ train = 'train:narrow'" in lines
    assert all(line.startswith("+ ") for line in lines)
    assert kinds(fresh) == [], "planning records nothing"
    events = lifecycle.apply(fresh, actor=ME)
    assert [(event.kind, event.subject) for event in events] == [
        ("declaration.applied", "sources:all"),
        ("declaration.applied", "model:rides"),
    ]
    assert events[1].why == "first declaration"
    assert events[1].payload["changes"] == list(lines)
    assert lifecycle.plan(fresh) == {"rides": ()}
    assert lifecycle.apply(fresh, actor=ME) == []
    assert kinds(fresh) == ["declaration.applied"] * 2


def test_a_change_is_one_line_of_the_plan_and_one_event(project: Project) -> None:
    with redeclared(project, train="wide") as changed:
        assert lifecycle.plan(changed) == {"rides": ("~ train: 'train:narrow' -> 'train:wide'",)}
        (event,) = lifecycle.apply(changed, actor=ME, why="features at last")
        assert (event.why, event.actor) == ("features at last", ME)
        assert changed.journal.get("model", "rides")["declared"]["train"] == "train:wide"  # type: ignore[index]
        assert lifecycle.apply(changed, actor=ME) == []
    with redeclared(project, train="narrow") as back:
        (event,) = lifecycle.apply(back, actor=ME)
        assert event.why == "1 value(s) changed"


def test_a_source_that_changes_is_recorded_and_reaches_the_servers(project: Project) -> None:
    file = project.root / "declarations.py"
    file.write_text(file.read_text().replace('name="rain", type="number", nullable=True', 'name="rain", type="number"'))
    with open_project(project.root) as changed:
        (event,) = lifecycle.apply(changed, actor=ME)
        assert (event.subject, event.why) == ("sources:all", "sources: arrivals, weather")
        (weather,) = (s for s in changed.publish_routes().sources if s.name == "weather")
        assert not weather.contract.field("rain").nullable


def test_a_history_that_cannot_be_read_is_told_and_can_be_mended(fresh: Project) -> None:
    (fresh.root / "weather.parquet").rename(fresh.root / "elsewhere.parquet")
    with pytest.raises(DataError, match=r"weather\.parquet does not exist"):
        lifecycle.apply(fresh, actor=ME)
    (fresh.root / "elsewhere.parquet").rename(fresh.root / "weather.parquet")
    assert lifecycle.apply(fresh, actor=ME) == [], "what was recorded stays"
    assert fresh.lake.scan("source_weather") is not None


# -- train and gate -------------------------------------------------------------------------------------------------


def test_training_applies_trains_judges_and_registers(fresh: Project) -> None:
    said: list[str] = []
    done = train(fresh, why="the first", say=said.append)
    assert (done.model, done.version, done.report.verdict, done.problem) == ("rides", 1, Verdict.PASS, "")
    assert (done.rows, done.quarantined) == (TRAINED_DAYS * PER_DAY, 0)
    assert done.compiled["held"]
    assert kinds(fresh) == ["declaration.applied"] * 2 + ["dataset.recorded", "gate.judged", "version.registered"]
    assert [line for line in said if line in ("reading data", "judging")] == ["reading data", "judging"]
    row = fresh.version("rides")
    assert (row["revision"], row["source"], row["dataset"], row["actor"]) == (done.revision, "train", done.dataset, ME)
    assert row["run_id"] == done.run_id != ""
    assert fresh.journal.get("dataset", done.dataset)["rows"] == done.rows  # type: ignore[index]
    assert lifecycle.gate(fresh).findings == done.report.findings
    assert fresh.route("rides") is None, "no traffic by training alone"


def test_the_same_training_again_gives_the_same_figures_on_its_own_record(project: Project) -> None:
    first, second = project.version("rides"), train(project)
    assert second.metrics == first["metrics"]
    assert second.dataset != first["dataset"], "each training has its own data version, with the same content"
    hashes = {project.journal.get("dataset", name)["hash"] for name in (first["dataset"], second.dataset)}  # type: ignore[index]
    assert len(hashes) == 1


def test_a_candidate_that_is_certainly_worse_is_not_registered(project: Project) -> None:
    done = train_as(project, "by_chance")
    assert (done.version, done.report.verdict) == (None, Verdict.FAIL)
    assert len(project.versions("rides")) == 1
    last = project.journal.events()[-1]
    assert (last.kind, last.payload["revision"]) == ("gate.judged", done.revision), "the refusal is on record"
    assert last.why.endswith("FAIL")


def test_a_candidate_that_cannot_be_told_is_registered_without_traffic(project: Project) -> None:
    done = train_as(project, "wide", gate="minimum_rows=100_000")
    assert (done.version, done.report.verdict) == (2, Verdict.INCONCLUSIVE)
    with pytest.raises(ConflictError, match="did not pass its gate"):
        releases.roll_out(project, actor=ME)
    with pytest.raises(ConflictError, match=r"did not pass its gate \(INCONCLUSIVE\)") as caught:
        releases.promote(project, actor=ME)
    assert "--force" in caught.value.hint
    with pytest.raises(ConflictError, match="overruling the gate needs a reason"):
        releases.promote(project, actor=ME, force=True)
    event = releases.promote(project, actor=ME, force=True, why="we know better")
    assert (event.payload["forced"], event.why) == (True, "we know better")


def test_without_baseline_and_champion_nothing_can_be_concluded(fresh: Project) -> None:
    file = fresh.root / "declarations.py"
    file.write_text(file.read_text().replace('    baseline="train:mean",\n', ""))
    with open_project(fresh.root) as changed:
        done = train(changed)
        assert done.report.verdict is Verdict.INCONCLUSIVE
        assert "nothing to compare with" in done.report.findings[0].why


def test_a_model_without_data_or_train_function_cannot_be_trained(project: Project) -> None:
    for line, what in [('    data="rides.parquet",\n', "data"), ('    train="train:narrow",\n', "train")]:
        write_declarations(project.root, retrain="None")
        text = (project.root / "declarations.py").read_text()
        (project.root / "declarations.py").write_text(text.replace(line, ""))
        with (
            open_project(project.root) as changed,
            pytest.raises(DeclarationError, match=f"declares no `{what}`, so it cannot be trained"),
        ):
            train(changed)
        write_declarations(project.root)


def test_a_train_function_that_raises_is_named_with_its_line(project: Project) -> None:
    with pytest.raises(DeclarationError, match=r"train:raising raised ValueError: no convergence \(line \d+ of train"):
        train_as(project, "raising")
    with pytest.raises(DeclarationError, match=r"train of model 'rides'.*train\.py has no function 'missing'"):
        train_as(project, "missing")


def test_the_data_must_be_there_and_keep_the_contract(project: Project) -> None:
    rides = read_table(project.root, "rides.parquet")
    (project.root / "rides.parquet").unlink()
    with pytest.raises(DataError, match=r"rides\.parquet does not exist"):
        train(project)
    far = rides.set_column(3, "distance", pa.array([99.0] * rides.num_rows))
    pyarrow.parquet.write_table(far, project.root / "rides.parquet")
    with pytest.raises(ContractError, match="none of 4000 rows keeps the contract"):
        train(project)
    pyarrow.parquet.write_table(rides.drop_columns(["zone"]), project.root / "rides.parquet")
    with pytest.raises(ContractError) as caught:
        train(project)
    assert any("zone" in finding for finding in caught.value.findings)


def test_a_transform_travels_with_the_version_and_must_be_there(project: Project) -> None:
    (model,) = project.declarations.models.values()
    assert transform_code(project, model) == {"calendar_of": (project.root / "calendar_of.py").read_text()}
    (project.root / "calendar_of.py").unlink()
    with pytest.raises(DeclarationError, match="calendar_of"):
        train(project)
    rides = read_table(project.root, "rides.parquet").slice(0, 10)
    assert scoring.score(project, rides)["score"].null_count == 0, "what is registered needs no project code"


def test_the_gate_of_a_version_can_be_read_again(project: Project) -> None:
    second = train_as(project, "wide")
    assert lifecycle.gate(project).subject == second.report.subject
    assert lifecycle.gate(project, version=1).subject != second.report.subject
    with pytest.raises(NotFoundError, match="no version 9"):
        lifecycle.gate(project, version=9)


# -- adopt ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pickled(project: Project, tmp_path: Path) -> Path:
    """A model somebody made elsewhere, of the inputs in the order of the interface: distance, quote, rain, ..."""
    rides = prepare(project, project.model(), read_table(project.root, "rides.parquet"), actor=ME).table
    names = [given.name for given in project.model().interface().inputs]
    X = np.column_stack([rides[name].to_numpy().astype(float) for name in names])
    old = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=500)).fit(X, rides["late"].to_numpy())
    joblib.dump(old, tmp_path / "old.joblib")
    return tmp_path / "old.joblib"


def trusting(project: Project) -> Project:
    toml = project.root / "undrift.toml"
    toml.write_text(toml.read_text() + '[trust]\nformats = ["onnx", "skops", "pickle"]\n')
    return open_project(project.root)


def test_a_format_that_can_run_code_is_not_opened_unasked(project: Project, pickled: Path) -> None:
    with pytest.raises(UntrustedModelError):
        lifecycle.adopt(project, str(pickled), project.root / "rides.parquet", actor=ME)
    assert len(project.versions("rides")) == 1


def test_an_adopted_model_is_judged_and_served_with_its_features(project: Project, pickled: Path) -> None:
    with trusting(project) as opened:
        done = lifecycle.adopt(opened, str(pickled), opened.root / "rides.parquet", actor=ME, why="from the old system")
        assert (done.version, done.report.verdict) == (2, Verdict.PASS), done.report.to_text()
        assert done.report.facts["rival"] == "champion, version 1"
        row = opened.version("rides")
        assert (row["source"], row["run_id"], row["dataset"]) == ("adopt", "", "")
        again = lifecycle.adopt(opened, str(pickled), opened.root / "rides.parquet", actor=ME)
        assert (again.version, len(opened.versions("rides"))) == (2, 2), "the same model is the same version"
        releases.promote(opened, actor=ME)
        found = scoring.score(opened, read_table(opened.root, "rides.parquet").slice(2000, 20))
        assert found["score"].null_count == 0, "its transforms travel with it"


def test_a_network_is_quantised_when_asked_and_status_says_what_that_gave(project: Project, tmp_path: Path) -> None:
    rides = prepare(project, project.model(), read_table(project.root, "rides.parquet"), actor=ME).table
    names = [given.name for given in project.model().interface().inputs]
    X = np.column_stack([rides[name].to_numpy().astype(float) for name in names])
    layers = MLPClassifier((96, 96), tol=1.0, n_iter_no_change=3, random_state=0)
    network = make_pipeline(SimpleImputer(), StandardScaler(), layers).fit(X, rides["late"].to_numpy())
    joblib.dump(network, tmp_path / "network.joblib")
    with trusting(project) as opened:
        plain = inquiry.status(opened)["models"]["rides"]["served_as"]
        assert "quantised" not in plain["compiled"]
        done = lifecycle.adopt(
            opened, str(tmp_path / "network.joblib"), opened.root / "rides.parquet", actor=ME, quantise=True
        )
        said = done.compiled["quantised"]
        assert said["held"], said["reason"]
        releases.promote(opened, actor=ME, why="smaller", force=True)
        status = inquiry.status(opened)
    shown = status["models"]["rides"]["served_as"]["compiled"]["quantised"]
    assert shown == msgspec.json.decode(msgspec.json.encode(said))
    told = Console(width=200, file=io.StringIO())
    told.print(render.status(status))
    before, after = said["bytes"]
    assert after < before / 2
    assert f"quantised: {before / 1e3:,.0f} to {after / 1e3:,.0f} kB" in told.file.getvalue()  # type: ignore[attr-defined]


def test_an_adopted_model_without_labels_is_registered_unjudged(project: Project, pickled: Path) -> None:
    with trusting(project) as opened:
        rides = read_table(opened.root, "rides.parquet").drop_columns(["late"])
        done = lifecycle.adopt(opened, str(pickled), rides, actor=ME)
        assert (done.version, done.report.verdict, done.metrics) == (2, Verdict.INCONCLUSIVE, {})
        with pytest.raises(ConflictError, match="did not pass its gate"):
            releases.promote(opened, actor=ME)


def test_what_cannot_be_adopted_is_told(project: Project, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no model at"):
        lifecycle.adopt(project, str(tmp_path / "nothing.onnx"), project.root / "rides.parquet", actor=ME)
    rides = read_table(project.root, "rides.parquet").slice(0, 20)
    far = rides.set_column(3, "distance", pa.array([99.0] * 20))
    with pytest.raises(DataError, match="none of 20 rows keeps the contract"):
        lifecycle.adopt(project, str(tmp_path / "nothing.onnx"), far, actor=ME)


# -- score ----------------------------------------------------------------------------------------------------------


def test_rows_are_scored_in_their_order_and_broken_ones_come_back_with_the_reason(project: Project) -> None:
    rides = read_table(project.root, "rides.parquet").slice(2000, 6)
    distances = [9.5, 99.0, 0.5, None, 5.0, 9.5]
    rides = rides.set_column(3, "distance", pa.array(distances, pa.float64()))
    found = scoring.score(project, rides)
    assert found.drop_columns(["score", "prediction", "reason"]).to_pylist() == rides.to_pylist()
    scores = found["score"].to_pylist()
    assert [score is None for score in scores] == [d is None or d > 10 for d in distances]
    assert scores[0] == scores[5] > scores[4] > scores[2], "this champion knows the distance alone"
    assert found["prediction"].to_pylist() == [
        None if score is None else "1" if score >= 0.5 else "0" for score in scores
    ]
    reasons = found["reason"].to_pylist()
    assert [reason is None for reason in reasons] == [score is not None for score in scores]
    assert "distance>10" in reasons[1]
    with pytest.raises(DataError, match="none of 1 rows keeps the contract"):
        scoring.score(project, rides.slice(1, 1))


def test_a_version_that_is_named_scores_instead_of_the_champion(project: Project) -> None:
    train_as(project, "wide")
    rides = read_table(project.root, "rides.parquet").slice(2000, 50)
    champion, newest = scoring.score(project, rides), scoring.score(project, rides, version=2)
    assert champion["score"].equals(scoring.score(project, rides, version=1)["score"])
    assert not champion["score"].equals(newest["score"])


def test_without_a_champion_the_newest_version_scores(fresh: Project) -> None:
    rides = read_table(fresh.root, "rides.parquet").slice(2000, 5)
    with pytest.raises(NotFoundError, match="has no version; registered: none yet"):
        scoring.score(fresh, rides)
    train(fresh)
    assert scoring.score(fresh, rides)["score"].null_count == 0


# -- retrain --------------------------------------------------------------------------------------------------------


def test_a_retrain_asked_for_is_one_job_and_one_event(project: Project) -> None:
    key = lifecycle.retrain(project, actor=ME, why="it is spring")
    event = project.journal.events()[-1]
    assert (event.kind, event.actor, event.why) == ("retrain.requested", ME, "it is spring")
    (job,) = project.jobs.unfinished(("retrain",))
    assert (job.key, job.payload["model"]) == (key, "rides")
    with redeclared(project, retrain="None") as changed, pytest.raises(DeclarationError, match="declares no `retrain`"):
        lifecycle.retrain(changed, actor=ME, why="again")
