"""A roll-back takes contract, feature versions and threshold along: answers are as if nothing had changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undrift import lifecycle, releases
from undrift.project import Project, open_project

from living import ME, Alive, Life, copy_of, train  # isort: skip
from town import TRAINED_DAYS, Town, write_declarations  # isort: skip

WHY = "roll-back drill"


def redeclare(project: Project) -> None:
    """Another contract, another version of a feature view, and another threshold."""
    write_declarations(project.root, train="wide", gate="margin=-0.1, segment_minimum=100, segment_margin=0.3")
    file = project.root / "declarations.py"
    text = file.read_text()
    for old, new in (
        ("minimum=0, maximum=10, on_violation", "minimum=0, maximum=5, on_violation"),
        ('column="late", window="3d"', 'column="late", window="1d"'),
        ("folds=0,", "folds=0, threshold=0.9,"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text)


def told(life: Life, rides: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    found = life.service.post("/v1/models/rides:predict", {"instances": rides})
    answers = zip(found["rows"], found["predictions"], strict=True)
    return [(row["version"], round(answer["score"], 9), answer["label"]) for row, answer in answers]


def test_after_a_roll_back_answers_are_those_of_a_project_that_never_changed(
    two: Project, alive: Alive, trained_twice: Path, tmp_path: Path
) -> None:
    days = 3
    with copy_of(trained_twice, tmp_path / "calm") as calm:
        releases.promote(calm, version=2, actor=ME, why=WHY)
        undisturbed = Life(calm, Town(TRAINED_DAYS + 10))
        try:
            undisturbed.play(days)
            rides = undisturbed.town.day(undisturbed.now).rides[:40]
            expected = told(undisturbed, rides)
        finally:
            undisturbed.close()
    assert {version for version, _, _ in expected} == {2}

    releases.promote(two, version=2, actor=ME, why=WHY)
    life = alive(two, Town(TRAINED_DAYS + 10))
    life.play()
    redeclare(two)
    with open_project(two.root) as changed:
        made = train(changed)
        assert made.version == 3, made.report.to_text()
        lifecycle.apply(changed, actor=ME)
        releases.promote(changed, version=3, actor=ME, why=WHY)
    life.service.follow()
    day = life.town.day(life.now)
    near = [ride for ride in day.rides if ride["distance"] <= 5]
    answers = told(life, near)
    assert {version for version, _, _ in answers} == {3}
    assert all((label == "1") == (score >= 0.9) for _, score, label in answers), "its own threshold"
    far = next(ride for ride in rides if ride["distance"] > 5)
    status, refused = life.service.ask("/v1/models/rides:predict", {"instances": [far]})
    assert status == 400, refused
    assert "distance" in str(refused), "its own contract"
    life.play_day(day._replace(rides=near))

    with open_project(two.root) as changed:
        releases.roll_back(changed, actor=ME, why=WHY)
    life.service.follow()
    assert told(life, [far])[0][0] == 2, "what the old contract allows is answered again"
    life.play()
    after = told(life, rides)
    assert after == expected
    assert any(label == "1" and score < 0.9 for _, score, label in after), "the old threshold"
