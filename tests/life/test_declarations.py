"""Declarations: read back as they were written, refused with one clear message, shown as a diff."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from undrift.declarations import Model, differences, load_declarations, read_anew, resolve_function
from undrift.errors import DeclarationError

from town import DECLARATIONS, PARTS  # isort: skip

WHOLE = DECLARATIONS.format(**PARTS)


def load(folder: Path, text: str) -> Any:
    (folder / "declarations.py").write_text(text)
    return load_declarations(folder, "declarations.py")


def refused(folder: Path, text: str) -> DeclarationError:
    with pytest.raises(DeclarationError) as caught:
        load(folder, text)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_declaration_reads_back_from_the_log_as_it_was_written(tmp_path: Path) -> None:
    model = load(tmp_path, WHOLE).model()
    again = msgspec.convert(msgspec.json.decode(msgspec.json.encode(model.declared())), Model)
    assert again.hash == model.hash
    assert differences(model.declared(), again.declared()) == ()
    assert again.interface() == model.interface()
    assert (again.rollout, again.gate, again.monitors, again.retrain) == (
        model.rollout,
        model.gate,
        model.monitors,
        model.retrain,
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name="rides",\n    task', 'name="My rides",\n    task', "name 'My rides' must be lower-case"),
        ('key="ride"', 'key="rides"', "key = 'rides' is no field of the contract (at, distance, quote, ride, zone)"),
        ('unit="ride"', 'unit="rider"', "unit = 'rider' is no field"),
        ('time="at",\n    views', 'time="then",\n    views', "time = 'then' is no field"),
        ('time="at",\n    views', "views", "needs a `time` field"),
        ('segments=("zone",)', 'segments=("area",)', "segment 'area' is no field"),
        ('segments=("zone",)', 'segments=("zone", "zone & area")', "segment 'area' is no field"),
        ('segments=("zone",)', 'segments=("zone & zone",)', "segment 'zone & zone' names a field twice"),
        ('segments=("zone",)', 'segments=("zone & ride",), bands={"zone & ride": (1.0,)}', "declare those of its"),
        ('source="weather"', 'source="wether"', "view 'rain': no source 'wether' is declared"),
        (
            'entity="zone", features',
            'entity="area", features',
            "view 'rain': its entity 'area' is no field",
        ),
        ('name="rain"),)', 'name="snow"),)', "'snow'"),
        ('column="late"', 'column="delay"', "'delay'"),
        ('column="late"', 'column="zone"', "no mean of 'zone', which is a string"),
        ('inputs=("at",)', 'inputs=("when",)', "transform 'calendar': input 'when' is no field"),
        ('name="weekend"),)', 'name="distance"),)', "input 'distance' is defined twice"),
        ('maturity="6h"', 'maturity="soon"', "maturity: "),
        ("holdout=0.3", "holdout='much'", "model 'rides': Expected `float`, got `str` - at `$.holdout`"),
        ("holdout=0.3", "holdout=1.0", "holdout must lie in (0, 1) and folds be 0 or more, not 1.0 and 0"),
        ("folds=0", "folds=-1", "folds be 0 or more"),
        ('train="train:narrow"', 'train=""', "retrain needs a `train` function"),
        ("name='quality'", "name='answers'", "two monitors are named 'answers'"),
        ("histories = {", 'histories = {"traffic": "x.csv", ', "histories names the source 'traffic'"),
        ("monitors=(", "monitors=(ud.Monitor(name='x', kind='silent', window='a while'),", "monitor 'x': "),
        (
            "monitors=(",
            "monitors=(ud.Monitor(name='x', kind='drift', columns=('zone.words',)),",
            "monitor 'x': 'zone.words' is no column (at, distance, label, late_3d, quote, rain, ride, score",
        ),
        ("steps=(40, 70, 100)", "steps=(70, 40)", "steps must be percentages that grow"),
        ('segments=("zone",)', 'segments=("zone",), bands={"zone": (1,)}', "bands of 'zone', which is no number"),
        ('segments=("zone",)', 'segments=("distance",), bands={"distance": (2, 1)}', "must be numbers that grow"),
        ('segments=("zone",)', 'segments=("zone",), rare={"ride": ("x",)}', "rare of 'ride', which is no segment"),
        ("segment_minimum=100", "objective='luck'", "no metric is named 'luck'"),
        ('time="seen_at"', 'time="rain"', "source 'weather': the column 'rain' must be a timestamp, it is a number"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_message(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert WHOLE.count(old) >= 1, "the test would change nothing"
    assert said in refused(tmp_path, WHOLE.replace(old, new, 1)).message


def test_a_monitor_of_drift_may_name_free_text_and_what_is_measured_of_it(tmp_path: Path) -> None:
    wanted = "('note', 'note.words', 'note.language', 'distance', 'rain', 'score', 'label')"
    text = WHOLE.replace("monitors=(", f"monitors=(ud.Monitor(name='x', kind='drift', columns={wanted}),", 1)
    fields = 'ud.Field(name="distance"'
    assert WHOLE.count(fields) == 1
    assert "'note' is no column" in refused(tmp_path, text).message
    assert load(tmp_path, text.replace(fields, f'ud.Field(name="note", type="string", text=True), {fields}')).models


def test_all_contradictions_are_told_at_once(tmp_path: Path) -> None:
    text = WHOLE.replace('key="ride"', 'key="x"').replace('segments=("zone",)', 'segments=("y",)')
    message = refused(tmp_path, text.replace('maturity="6h"', 'maturity="z"')).message
    assert message.startswith("model 'rides': ")
    assert all(part in message for part in ("key = 'x'", "segment 'y'", "maturity"))


def test_a_module_that_raises_says_where(tmp_path: Path) -> None:
    message = refused(tmp_path, "import undrift as ud\n\n1 / 0\n").message
    assert "ZeroDivisionError: division by zero (declarations.py:3)" in message
    message = refused(tmp_path, "import undrift as ud\n\nmodel = ud.Model(\n").message
    assert "SyntaxError: '(' was never closed (declarations.py:3)" in message
    message = refused(tmp_path, "import undrift as ud\nmodel = ud.Modle()\n").message
    assert "has no attribute 'Modle' (declarations.py:2)" in message
    error = refused(tmp_path, "import undrift as ud\nrollout = ud.Rollout(steps=(70, 40))\n")
    assert "declarations.py:2" in error.message
    assert "steps=(5, 10, 25, 50, 100)" in error.hint


def test_values_that_are_equal_are_one_declaration(tmp_path: Path) -> None:
    hashes = {
        load(tmp_path, WHOLE.replace("(40, 70, 100)", steps)).model().hash
        for steps in ("(40, 70, 100)", "(40.0, 70.0, 100.0)")
    }
    assert len(hashes) == 1


def test_a_module_without_a_model_or_without_a_file_says_so(tmp_path: Path) -> None:
    assert "declares no model" in refused(tmp_path, "import undrift as ud\n").message
    with pytest.raises(DeclarationError, match=r"nothing\.py does not exist, but undrift\.toml names it"):
        load_declarations(tmp_path, "nothing.py")


def test_two_different_models_of_one_name_are_refused_and_the_same_one_twice_is_not(tmp_path: Path) -> None:
    two = "\nimport msgspec\nother = msgspec.structs.replace(model, seed=7)\n"
    assert "two different models are both named 'rides'" in refused(tmp_path, WHOLE + two).message
    assert list(load(tmp_path, WHOLE + "\nmodels = [model]\n").models) == ["rides"]


def test_a_model_is_found_by_name_or_by_being_the_only_one(tmp_path: Path) -> None:
    one = load(tmp_path, WHOLE)
    assert one.model() is one.model("rides")
    with pytest.raises(DeclarationError, match="no model 'trips' is declared; declared: rides"):
        one.model("trips")
    both = load(tmp_path, WHOLE + "\nimport msgspec\nother = msgspec.structs.replace(model, name='trips')\n")
    with pytest.raises(DeclarationError, match="which model"):
        both.model()


def test_a_contract_may_stand_in_a_file(tmp_path: Path) -> None:
    declared = load(tmp_path, WHOLE).model()
    (tmp_path / "contract.yaml").write_text(declared.contract.to_odcs())
    start = WHOLE.index('    contract=ud.Contract(\n        name="rides"')
    text = WHOLE[:start] + '    contract="contract.yaml",\n' + WHOLE[WHOLE.index('    key="ride"') :]
    assert load(tmp_path, text).model().contract.fields == declared.contract.fields
    (tmp_path / "contract.yaml").write_text("kind: DataContract\n  broken: [")
    assert "contract.yaml" in refused(tmp_path, text).message
    (tmp_path / "contract.yaml").unlink()
    assert "cannot be read" in refused(tmp_path, text).message


def test_a_function_is_found_in_the_project_or_told_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "learning.py").write_text("def fit(data):\n    return 1\nlimit = 3\n")
    assert resolve_function(tmp_path, "learning:fit", what="train")(None) == 1
    for path, said in [
        ("learning", "train = 'learning' is not `module:function`"),
        ("learning:fti", "learning.py has no function 'fti'"),
        ("learning:limit", "has no function 'limit'"),
        ("nothing_here:fit", "No module named 'nothing_here'"),
    ]:
        with pytest.raises(DeclarationError, match=said.replace("(", r"\(")):
            resolve_function(tmp_path, path, what="train")
    assert resolve_function(tmp_path, len, what="train") is len


def test_projects_do_not_see_each_others_modules_and_see_their_own_anew(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "learning.py").write_text(f"def fit(data):\n    return {name!r}\n")
    found = [resolve_function(tmp_path / name, "learning:fit", what="train")(None) for name in ("one", "two", "one")]
    assert found == ["one", "two", "one"]
    (tmp_path / "one" / "learning.py").write_text("def fit(data):\n    return 'one, changed'\n")
    read_anew(tmp_path / "one")
    assert resolve_function(tmp_path / "one", "learning:fit", what="train")(None) == "one, changed"
    sys.modules.pop("learning", None)


def test_a_diff_has_one_line_per_value_and_names_list_entries() -> None:
    old = {"seed": 1, "gate": {"margin": 0.0}, "monitors": [{"name": "a", "window": "1d"}], "owner": "ann"}
    new = {"seed": 1, "gate": {"margin": 0.1}, "monitors": [{"name": "b", "window": "1d"}], "team": "x"}
    assert differences(old, new) == (
        "~ gate.margin: 0.0 -> 0.1",
        "- monitors[a].name (was 'a')",
        "- monitors[a].window (was '1d')",
        "+ monitors[b].name = 'b'",
        "+ monitors[b].window = '1d'",
        "- owner (was 'ann')",
        "+ team = 'x'",
    )
    assert differences(old, old) == ()
    assert differences(None, {"seed": 1}) == ("+ seed = 1",)
