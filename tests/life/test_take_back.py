"""An incident with the action `roll_back` takes the release back by itself, on a living project."""

from __future__ import annotations

from undrift import lifecycle, releases
from undrift.project import Project

from living import ME, Alive, redeclared  # isort: skip
from town import PARTS, TRAINED_DAYS, Town  # isort: skip


def test_a_release_that_is_followed_by_an_incident_is_taken_back(two: Project, alive: Alive) -> None:
    asking = PARTS["monitors"].replace("kind='silent'", "kind='silent', actions=('roll_back',)")
    with redeclared(two, monitors=asking) as changed:
        lifecycle.apply(changed, actor=ME)
    with redeclared(two, monitors=asking) as project:
        life = alive(project, Town(TRAINED_DAYS + 20))
        life.play(5)
        releases.promote(project, version=2, actor=ME, why="looks fine")
        life.service.follow()
        day = life.town.day(life.now)
        kinds = life.play_day(day._replace(rides=day.rides[::16]))
        assert kinds[:2] == ["alert.opened", "revision.promoted"]
        route = project.route("rides")
        assert route is not None
        assert route["champion_version"] == 1
        taken = project.journal.events(kinds=("revision.promoted",))[-1]
        assert taken.actor == "work"
        assert "days after the release" in taken.why
        assert list(route["withdrawn"]) == [project.version("rides", 2)["revision"]]
        assert life.play() == ["alert.resolved"], "it is taken back once"
