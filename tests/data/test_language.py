"""Languages are told by name, of the rows that are chosen, and not at all where the library is not installed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from undrift.data import language
from undrift.data.language import MOST, evenly, languages, not_installed
from undrift.data.text import MEASURED, Vocabulary, measured

SAID = {
    "The driver was late and the package is broken.": "en",
    "Le chauffeur est en retard et le colis est cassé.": "fr",
    "Der Fahrer kam zu spät und das Paket ist kaputt.": "de",
    "El conductor llegó tarde y el paquete está roto.": "es",
    "東京へ行く": "ja",
    "ok": "short",
    "12 + 3": "none",
    "": "none",
}


def told(texts: list[str | None], chosen: list[bool] | None = None) -> list[str | None]:
    found = languages(pa.array(texts, pa.string()), np.array(chosen or [True] * len(texts)))
    assert found is not None
    return list(found.to_pylist())


def test_a_language_is_named_where_a_text_says_enough() -> None:
    assert told(list(SAID)) == list(SAID.values())


def test_a_long_text_in_no_language_is_unknown() -> None:
    assert told(["Meyer Rossi Dupont Nowak Silva Hansen"]) == ["unknown"]


def test_rows_that_were_not_chosen_and_nulls_have_none() -> None:
    english = next(iter(SAID))
    assert told([english, english, None], [True, False, True]) == ["en", None, None]
    assert told([english], [False]) == [None]
    assert languages(pa.array([], pa.string()), np.zeros(0, bool)) == pa.array([], pa.string())


def test_a_long_text_costs_no_more_than_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(language, "_language", lambda text: seen.append(text) or "en")
    assert told(["é" * 10_000, "short", "short"]) == ["en"] * 3
    assert [len(text) for text in seen] == [200, 5], "and equal texts are looked at once"


def test_of_a_reference_so_many_rows_are_looked_at_and_they_are_spread_evenly() -> None:
    assert evenly(3).tolist() == [True] * 3
    assert evenly(0).tolist() == []
    many = np.flatnonzero(evenly(10 * MOST))
    assert (len(many), many[0], many[-1]) == (MOST, 0, 10 * MOST - 1)
    assert set(np.diff(many)) == {10, 11} or set(np.diff(many)) == {10}


@pytest.mark.usefixtures("without_languages")
def test_without_the_library_there_is_no_column_and_the_reason_says_what_to_install() -> None:
    assert languages(pa.array(["a"]), np.ones(1, bool)) is None
    found = measured({"note": pa.chunked_array([["The driver was late."]])}, {"note": Vocabulary()})
    assert list(found) == [f"note.{each}" for each in MEASURED if each != "language"]
    assert "pip install 'undrift[text]'" in not_installed()


def test_nothing_is_loaded_before_a_text_is_looked_at() -> None:
    program = "import sys, undrift.data.text, undrift.monitor.watch; print('py3langid' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
