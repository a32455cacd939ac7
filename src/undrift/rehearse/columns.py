"""What a scenario asks of a model's columns: which matter most, how they are spread, who is in which group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from undrift.declarations import Model
from undrift.develop.importance import read_importance
from undrift.project import Project
from undrift.rehearse.material import Material
from undrift.rehearse.row import Row

__all__ = ["Columns", "Group", "answers_like", "same_answer"]


class Group(NamedTuple):
    """A part of the traffic: the rows with a value in a column, or above its median; and its share of the rows."""

    column: str
    value: Any
    above: float | None
    share: float

    def holds(self, row: Row) -> bool:
        """Whether a row is in it."""
        found = row.value(self.column)
        if self.above is not None:
            return found is not None and float(found) > self.above
        return bool(found == self.value)

    def __str__(self) -> str:
        return f"{self.column}={self.value}" if self.above is None else f"{self.column} above {self.above:.4g}"


class Columns:
    """The columns of the champion as the material shows them."""

    def __init__(self, project: Project, model: Model, material: Material) -> None:
        route = project.route(model.name)
        assert route is not None, "the copy was made with a champion"
        self.interface = project.manifest(route["champion"]).interface
        self._rows = material.rows
        fields = {field.name for field in self.interface.contract.fields}
        self._segments = tuple(name for name in model.segments if name in fields and name not in model.bands)
        known = read_importance(project.bundle_path(route["champion"]))
        self.importance: dict[str, float] = {} if known is None else dict(known.values)
        inputs = self.interface.inputs
        self._types = {given.name: given.type for given in inputs}
        self.numeric = self._by_importance([i.name for i in inputs if i.type in ("number", "integer")])
        self.categorical = self._by_importance([i.name for i in inputs if i.type == "string"])
        self._groups: list[Group] = []
        self.sourced = {
            o.name: view.source for view in self.interface.views if not view.aggregates for o in view.outputs
        }
        self.units = {field.name: field.unit for field in self.interface.contract.fields}
        sources = project.known_sources()
        for name, source in self.sourced.items():
            if source in sources:
                self.units |= {f.name: f.unit for f in sources[source].contract.fields if f.name == name}

    def _by_importance(self, names: list[str]) -> list[str]:
        spread = [name for name in names if len({row.value(name) for row in self._rows[:500]}) > 1]
        return sorted(spread, key=lambda name: -self.importance.get(name, 0.0))

    def numbers(self, column: str) -> Any:
        """The values of a numeric column, absent ones left out."""
        values = [row.value(column) for row in self._rows]
        return np.array([float(v) for v in values if v is not None])

    def groups(self) -> list[Group]:
        """The values of the first declared segment that is no number (else of a categorical input, else both sides of
        the median of the number that matters most).
        """
        self._groups = self._groups or self._made_groups()
        return self._groups

    def _made_groups(self) -> list[Group]:
        for column in (*self._segments, *self.categorical):
            values, counts = np.unique([str(row.value(column)) for row in self._rows], return_counts=True)
            if len(values) > 1:
                order = np.argsort(-counts, kind="stable")
                total = counts.sum()
                return [Group(column, str(values[i]), None, float(counts[i] / total)) for i in order]
        column = self.numeric[0]
        middle = float(np.median(self.numbers(column)))
        return [Group(column, None, middle, float(np.mean(self.numbers(column) > middle)))]

    def middling(self) -> Group:
        """The group that is nearest to a fifth of the rows."""
        return min(self.groups(), key=lambda group: abs(group.share - 0.2))

    def like(self, column: str, value: float) -> float | int:
        """A number in the type of its column."""
        return round(value) if self._types[column] == "integer" else float(value)

    def other_labels(self, hit: list[Row], rows: list[Row], rng: np.random.Generator) -> list[Row]:
        """All the rows, some with another outcome: another class, or in regression that of the mirrored rank."""
        classes = self.interface.classes or sorted({str(row.label) for row in self._rows})
        ordered = np.sort([row.label for row in self._rows]) if self.interface.task == "regression" else None
        for row in hit:
            row.touched = True
            if ordered is not None:
                place = int(np.searchsorted(ordered, row.label))
                row.label = float(ordered[len(ordered) - 1 - min(place, len(ordered) - 1)])
            else:
                row.label = str(rng.choice([name for name in classes if name != row.label]))
        return rows

    def wrong_answers(self, given: Any, hit: list[bool], group: Callable[[Row], bool], strength: float) -> Any:
        """Answers in which the rows hit (a share of them below strength 1) have one that is unlike their group.

        In classification the class that is rarest in the group; in regression a value from the other end.
        """
        mine = [row for row in self._rows if group(row)]
        order = np.argsort(np.asarray(given.score), kind="stable")
        if self.interface.task == "regression":
            high = np.mean([row.label for row in mine]) >= np.mean([row.label for row in self._rows])
            place = int(order[round((0.05 if high else 0.95) * (len(order) - 1))])
        else:
            rarest = min(sorted({str(row.label) for row in self._rows}), key=lambda name: _share(mine, name))
            low = self.interface.task == "binary" and rarest == self.interface.classes[0]
            places = [int(i) for i in order if given.label[i] == rarest] or [int(order[0] if low else order[-1])]
            place = places[0] if low else places[-1]
        taken = [each and (number * 0.618) % 1 < strength for number, each in enumerate(hit)]
        return answers_like(given, [place if each else number for number, each in enumerate(taken)])


def _share(rows: list[Row], label: Any) -> float:
    return float(sum(row.label == label for row in rows)) / max(len(rows), 1)


def answers_like(given: Any, places: list[int]) -> Any:
    """Answers in which each row has that of the row at a place."""
    return type(given)(
        score=[given.score[i] for i in places],
        scores=None if given.scores is None else [given.scores[i] for i in places],
        label=None if given.label is None else [given.label[i] for i in places],
    )


def same_answer(given: Any, hit: list[bool], quantile: float) -> Any:
    """Answers in which the rows hit have that of one row: of the one at a quantile of the scores, in [0, 1]."""
    order = np.argsort(np.asarray(given.score), kind="stable")
    place = int(order[round(quantile * (len(order) - 1))])
    return answers_like(given, [place if each else number for number, each in enumerate(hit)])
