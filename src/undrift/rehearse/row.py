"""What a rehearsal is made of: the rows of its days, what is seen of a fault, and what a stage asks of a scenario."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

import msgspec

__all__ = ["Row", "Script", "Sighting"]


class Row(msgspec.Struct):
    """One request to be: its fields, its looked-up and computed features, and the outcome that will be told.

    ``label`` is None where none will come. ``touched`` says that the fault acts on it; such rows count as exposed.
    ``computed``: the features it acts on, which are no fields of the request. ``at``: its own event time, if known.
    """

    inputs: dict[str, Any]
    features: dict[str, Any]
    label: Any
    touched: bool = False
    computed: tuple[str, ...] = ()
    at: datetime | None = None

    def again(self) -> Row:
        """The row as it was, to be changed apart from this one."""
        return Row(inputs=dict(self.inputs), features=dict(self.features), label=self.label, at=self.at)

    def value(self, column: str) -> Any:
        """The value of an input of the model, wherever it stands."""
        return self.features[column] if column in self.features else self.inputs.get(column)

    def put(self, column: str, value: Any) -> None:
        """Change the value of an input of the model."""
        self.computed += (column,) if column in self.features else ()
        (self.features if column in self.features else self.inputs)[column] = value
        self.touched = True


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """That a fault was seen: when, by what (a monitor, a rollout, the contract), and what was said."""

    at: datetime
    by: str
    what: str


class Script(Protocol):
    """What a stage asks of the scenario that is played on it; see `scenario.Scenario`."""

    def change(self, rows: list[Row], stage: Any, strength: float) -> list[Row]:
        """The rows of a day after the onset."""
        ...

    def lesson(self, rows: list[Row], stage: Any, strength: float) -> list[Row]:
        """The rows of a day from which a candidate learns."""
        ...

    def worth(self, revision: str, name: str, stage: Any, strength: float) -> float:
        """What a unit did after an answer."""
        ...

    def spoil(self, column: str, value: Any, strength: float) -> Any:
        """A value of a source's row after the onset."""
        ...

    def answers(self, revision: str, rows: list[Row], given: Any, stage: Any, strength: float) -> Any:
        """What a revision answers after the onset."""
        ...
