"""What a version relies on: how far each input moves its score, and the background rows explanations are made against.

Both are made when a model is bundled and travel with it: importance.json for those who rank causes, background.json
for explain.py. Contributions themselves are computed in stats/shapley.py; one answer is explained in explain.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undrift.develop.bundle import Input, Interface
from undrift.develop.performance import mean_interval
from undrift.develop.rows import table_columns
from undrift.errors import CorruptModelError, PredictionError
from undrift.stats.shapley import Mixture, shapley

__all__ = [
    "AGAINST",
    "BACKGROUND_FILE",
    "BACKGROUND_ROWS",
    "IMPORTANCE_FILE",
    "Background",
    "Importance",
    "InputImportance",
    "ask_mixtures",
    "contributions_of",
    "group_of",
    "importance_of",
    "read_importance",
    "target_of",
]

IMPORTANCE_FILE: Final = "importance.json"
BACKGROUND_FILE: Final = "background.json"
BACKGROUND_ROWS: Final = 100
_FEWEST_ALIKE: Final = 5
"""A value of a personal field that fewer rows than this share says something of a person, and is not kept."""

_ROWS: Final = 100
AGAINST: Final = 10
"""Background rows that each row is explained against, here and in monitoring: more would make shares differ."""
_ASKED: Final = (20_000, 200_000)

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]
Raw = Callable[[Columns], Floats]
"""A model's output for encoded columns: shape (n,) for regression, else probabilities by the interface's classes."""


class Background(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that stand for "not knowing" an input: background.json of a bundle.

    ``columns``: the values of each input as the model sees them (rows.py): text, or numbers with null for what is
    absent. ``of``: rows they were drawn from. ``replaced``: personal inputs, of which one typical value stands in all
    rows, so that no person's value is kept.
    """

    columns: dict[str, list[str | float | None]]
    rows: int
    of: int
    replaced: tuple[str, ...] = ()

    @classmethod
    def of_table(
        cls, interface: Interface, table: pa.Table, *, rows: int = BACKGROUND_ROWS, seed: int = 0
    ) -> Background:
        """Rows drawn from those a model was trained on.

        Parameters
        ----------
        rows : how many, all if there are fewer.
        """
        given = table.num_rows
        places = np.sort(np.random.default_rng(seed).choice(given, min(rows, given), replace=False))
        drawn = table_columns(interface.inputs, table.select([i.name for i in interface.inputs]).take(places))
        replaced = tuple(i.name for i in interface.inputs if i.name in interface.personal)
        for name in replaced:
            whole = table_columns([i for i in interface.inputs if i.name == name], table)[name]
            drawn[name] = np.full(len(places), _typical(whole), dtype=whole.dtype)
        columns = {name: [_plain(v) for v in values.tolist()] for name, values in drawn.items()}
        return cls(columns=columns, rows=len(places), of=given, replaced=replaced)

    @classmethod
    def read(cls, folder: Path) -> Background | None:
        """The background of the bundle in a folder; None if it was made before bundles had one.

        Raises
        ------
        CorruptModelError : it cannot be read.
        """
        found: Background | None = _read(folder / BACKGROUND_FILE, cls)
        return found

    def encoded(self, inputs: Sequence[Input]) -> dict[str, NDArray[Any]]:
        """The columns as arrays: text as objects, numbers as float64 with NaN."""
        return {
            i.name: np.asarray(self.columns[i.name], dtype=object if i.type == "string" else np.float64) for i in inputs
        }


class InputImportance(msgspec.Struct, frozen=True, kw_only=True):
    """How far one input moves the score: the mean of its absolute contribution over ``n`` rows.

    ``lower``, ``upper``: 95 % interval of the mean; null where it is not bounded. ``group``: where the input comes from
    (`group_of`). ``share``: of the sum over all inputs.
    """

    name: str
    value: float
    lower: float | None
    upper: float | None
    n: int
    share: float
    group: str


class Importance(msgspec.Struct, frozen=True, kw_only=True):
    """What a version relies on: importance.json of a bundle. ``inputs`` stand in falling order of ``value``.

    ``scale``: what ``value`` is measured in: ``probability`` (of the positive class; of the class answered where there
    are many) or ``value`` (the unit of the label). ``rows`` is what was explained, ``background`` how many rows each
    was compared with.
    """

    scale: str
    inputs: tuple[InputImportance, ...]
    rows: int
    background: int
    method: str = "permutation"
    format_version: int = 1

    @property
    def values(self) -> dict[str, float]:
        """The importance of each input by name."""
        return {given.name: given.value for given in self.inputs}


def read_importance(folder: Path) -> Importance | None:
    """The importance of the bundle in a folder; None if it was made before bundles had one.

    Raises
    ------
    CorruptModelError : it cannot be read.
    """
    found: Importance | None = _read(folder / IMPORTANCE_FILE, Importance)
    return found


def _read(path: Path, kind: type[Any]) -> Any:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise CorruptModelError(f"{path} cannot be read: {error}.") from error


def group_of(interface: Interface) -> dict[str, str]:
    """Where each input comes from: ``request``, or the name of a feature view or transform."""
    own = {i.name: "request" for i in interface.inputs}
    looked_up = {f.name: view.name for view in interface.views for f in view.outputs}
    computed = {f.name: transform.name for transform in interface.transforms for f in transform.outputs}
    return {**own, **looked_up, **computed}


def target_of(interface: Interface, raw: Floats, label: str = "") -> int:
    """The column of a raw answer that is explained: of ``label``, else the positive class or the class answered."""
    if label and interface.task == "multiclass":
        return interface.classes.index(label)
    return int(raw.argmax()) if interface.task == "multiclass" else 1


def ask_mixtures(raw: Raw, against: Columns, row: Columns, column: int | None) -> Mixture:
    """The function that `stats.shapley` asks: a model over mixtures of background rows and one row.

    Parameters
    ----------
    against, row : encoded columns; those of ``row`` hold one value each.
    column : of the raw answer, None for regression.
    """
    names = list(against)
    pools = [np.concatenate([against[name], row[name]]) for name in names]  # the row stands last, at place OWN

    def answers(take: NDArray[np.intp]) -> Floats:
        told = raw({name: pool[take[:, place]] for place, (name, pool) in enumerate(zip(names, pools, strict=True))})
        return told if column is None else told[:, column]

    return answers


def importance_of(
    interface: Interface, raw: Raw, background: Background, rows: Columns, *, seed: int = 0
) -> Importance:
    """Mean absolute Shapley values of the score over rows the model was not trained on.

    At most 100 rows are explained, each against 10 background rows, and fewer where there are many inputs: the model
    is asked 4 times as often as there are rows, but at least 20,000 and at most 200,000 times.

    Parameters
    ----------
    raw : the model in the form that serves.
    rows : encoded columns of the rows.

    Raises
    ------
    PredictionError : the model refuses a mixture of rows.
    """
    inputs, n = interface.inputs, len(next(iter(rows.values())))
    rng = np.random.default_rng(seed)
    d, against = len(inputs), min(AGAINST, background.rows)
    budget = min(max(4 * n, _ASKED[0]), _ASKED[1])
    wanted = int(min(_ROWS, n, max(2, budget // (2 * d * against))))
    places = np.sort(rng.choice(n, wanted, replace=False))
    sizes, groups = contributions_of(interface, raw, background, rows, places, rng), group_of(interface)
    total = float(sizes.mean(axis=0).sum())
    listed = []
    for place, given in enumerate(inputs):
        mean = float(sizes[:, place].mean())
        interval = mean_interval(sizes[:, place], np.arange(wanted))
        listed.append(
            InputImportance(
                name=given.name,
                value=mean,
                lower=max(interval.lower, 0.0) if np.isfinite(interval.lower) else None,
                upper=interval.upper if np.isfinite(interval.upper) else None,
                n=wanted,
                share=mean / total if total > 0 else 0.0,
                group=groups[given.name],
            )
        )
    listed.sort(key=lambda each: (-each.value, each.name))
    scale = "value" if interface.task == "regression" else "probability"
    return Importance(scale=scale, inputs=tuple(listed), rows=wanted, background=against)


def contributions_of(
    interface: Interface,
    raw: Raw,
    background: Background,
    rows: Columns,
    places: NDArray[np.intp],
    rng: np.random.Generator,
    *,
    go_on: Callable[[], bool] = lambda: True,
) -> Floats:
    """Absolute Shapley values of the score of some rows, each against `AGAINST` background rows; (rows, inputs).

    Parameters
    ----------
    rows, places : encoded columns, and which of their rows are explained, in this order.
    go_on : asked after each row; where it says no, the rows done so far are returned.

    Raises
    ------
    PredictionError : the model refuses a mixture of rows.
    """
    inputs, against = interface.inputs, min(AGAINST, background.rows)
    pool = background.encoded(inputs)
    found = np.empty((len(places), len(inputs)))
    done = 0
    for line, place in enumerate(places.tolist()):
        row = {i.name: rows[i.name][place : place + 1] for i in inputs}
        column = None if interface.task == "regression" else target_of(interface, raw(row)[0])
        few = rng.choice(background.rows, against, replace=False)
        ask = ask_mixtures(raw, {name: values[few] for name, values in pool.items()}, row, column)
        found[line] = shapley(ask, len(inputs), against, rng, rounds=1).values
        done = line + 1
        if not go_on():
            break
    if not np.isfinite(found[:done]).all():
        raise PredictionError("the model answered NaN or infinity for a mixture of rows.")
    return np.abs(found[:done])


def _plain(value: Any) -> str | float | None:
    return None if isinstance(value, float) and value != value else value


def _typical(values: NDArray[Any]) -> str | float:
    """The median of numbers, or the text seen most often; absent where it would say something of few people."""
    if values.dtype != object:
        known = values[np.isfinite(values)]
        return float(np.median(known)) if len(known) >= _FEWEST_ALIKE else float("nan")
    texts, counts = np.unique(values.astype(str), return_counts=True)
    return str(texts[counts.argmax()]) if counts.max(initial=0) >= _FEWEST_ALIKE else ""
