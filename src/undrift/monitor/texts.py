"""Free text as monitors of drift see it: what is measured of it, and the languages that cannot be told here.

What is measured stands in data/text.py. Here it is decided of which rows the language is told, which costs the most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from undrift.data.language import not_installed
from undrift.data.sketch import text_hashes
from undrift.data.text import Vocabulary, language_of, measured
from undrift.finding import Finding, Verdict, Window
from undrift.monitor.cells import Reference
from undrift.monitor.frames import micros
from undrift.monitor.monitors import Monitor, found

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["judge_untold", "untold", "with_texts"]

MOST_OF_A_DAY: Final = 1_000
"""Texts of a day (UTC) whose language is told, which takes some 50 milliseconds."""
DAY: Final = 86_400_000_000


def with_texts(rows: pa.Table, vocabularies: Mapping[str, Vocabulary]) -> pa.Table:
    """The rows, with what is measured of free text among the inputs instead of the texts.

    The language is told of the 1,000 rows of each day (UTC) whose ids have the least hashes, the same ones whoever
    asks, and null for the others.
    """
    import pyarrow as pa

    if not vocabularies or "inputs" not in rows.column_names or not rows.num_rows:
        return rows
    whole = pa.concat_arrays(rows["inputs"].chunks)
    names = [field.name for field in whole.type]
    found = measured(dict(zip(names, whole.flatten(), strict=True)), vocabularies, _some_of_each_day(rows))
    inputs = pa.StructArray.from_arrays(list(found.values()), list(found))
    return rows.set_column(rows.column_names.index("inputs"), "inputs", inputs)


def _some_of_each_day(rows: pa.Table) -> NDArray[np.bool_]:
    import pyarrow as pa

    hashes = text_hashes(pa.concat_arrays(rows["prediction_id"].cast(pa.string()).chunks))
    days = micros(rows, "event_time") // DAY
    order = np.lexsort([hashes, days])
    place = np.arange(len(order)) - np.searchsorted(days[order], days[order])  # within the day
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[place < MOST_OF_A_DAY]] = True
    return chosen


def untold(texts: Iterable[str], reference: Mapping[str, Reference]) -> dict[str, str]:
    """The columns of languages that cannot be judged here, with the reason: a reference without, or no library.

    Parameters
    ----------
    texts : names of columns of free text.
    reference : of the champion, by column.
    """
    columns = [language_of(name) for name in texts]
    problem = not_installed() if any(column in reference for column in columns) else ""
    found = {}
    for column in columns:
        if column not in reference:
            found[column] = "the version has no reference of it: train it where undrift[text] is installed"
        elif problem:
            found[column] = problem
    return found


def judge_untold(
    monitor: Monitor, problems: Mapping[str, str], reference: Mapping[str, Reference], now: datetime
) -> list[Finding]:
    """That languages are not judged, where there is a reference to judge them by or they were asked for by name; pure.

    Parameters
    ----------
    problems : from `untold`.
    """
    asked = [
        column
        for column in sorted(problems)
        if column in monitor.columns or (column in reference and (monitor.watches(column) or not monitor.columns))
    ]
    window = Window(now - monitor.span, now)
    return [
        found(
            monitor,
            Verdict.INCONCLUSIVE,
            f"{column}: not judged, {problems[column]}",
            name="drift",
            value=0.0,
            n=0,
            window=window,
            column=column,
        )
        for column in asked
    ]
