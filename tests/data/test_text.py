"""Texts are measured as plain columns: how long, in which script, how many words are new; no word is kept."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.profile import Profile
from undrift.data.text import MEASURED, MOST_WORDS, Vocabulary, measured, profile_of
from undrift.errors import DeclarationError

WORDS = [f"word{i}" for i in range(300)]


def notes(n: int, seed: int = 0, words: list[str] = WORDS) -> pa.ChunkedArray:
    """Notes of some 8 words each, frequent ones more often (Zipf)."""
    rng = np.random.default_rng(seed)
    odds = 1 / np.arange(1, len(words) + 1)
    drawn = [rng.choice(words, rng.poisson(7) + 1, p=odds / odds.sum()) for _ in range(n)]
    return pa.chunked_array([[" ".join(each) for each in drawn]])


def told(values: list[str | None], vocabulary: Vocabulary) -> dict[str, Any]:
    found = measured({"note": pa.chunked_array([values], pa.string())}, {"note": vocabulary})
    assert list(found) == [f"note.{each}" for each in MEASURED]
    return {name.removeprefix("note."): column.to_pylist() for name, column in found.items()}


def test_characters_words_and_scripts_are_those_that_a_reader_counts() -> None:
    found = told(["The quick, cat!", "Привет, мир", "東京へ行く", "12 + 3", "", None], Vocabulary())
    assert found["characters"] == [15, 11, 5, 6, 0, None]
    assert found["words"] == [3, 2, 5, 2, 0, None], "where no spaces are, each character is a word"
    assert found["script"] == ["Latin", "Cyrillic", "Han", "none", "none", None]


def test_the_share_of_new_words_is_that_of_all_words_whatever_their_case() -> None:
    known = Vocabulary.of(pa.chunked_array([["red green"] * 5 + ["rare"] * 4]))
    found = told(["Red GREEN blue", "red", "blue rare", "", None], known)
    assert found["unknown"] == [pytest.approx(1 / 3), 0.0, 1.0, None, None], "four rows are too few to keep a word"


def test_a_vocabulary_is_bounded_and_holds_no_word() -> None:
    many = pa.chunked_array([[f"w{i}" for i in range(10_000)] * 5])
    found = Vocabulary.of(many)
    assert len(found.hashes) == 8 * MOST_WORDS
    assert b"w1" not in Vocabulary.of(pa.chunked_array([["w1 w2"] * 9])).hashes
    assert Vocabulary.of(pa.chunked_array([], pa.string())).hashes == b""


def test_profiles_of_what_is_measured_merge_whatever_the_batches() -> None:
    texts, vocabulary = notes(3000), Vocabulary.of(notes(3000, 1))
    whole = Profile.of(measured({"note": texts}, {"note": vocabulary}))
    parts = [
        Profile.of(measured({"note": texts.slice(at, 1000)}, {"note": vocabulary}), edges_from=whole)
        for at in (0, 1000, 2000)
    ]
    added = Profile.total(parts)
    for name, column in whole.columns.items():
        assert added.columns[name].n == column.n
        assert added.columns[name].counts == column.counts
        assert (added.columns[name].minimum, added.columns[name].maximum) == (column.minimum, column.maximum)
    assert added.columns["note.script"].top == whole.columns["note.script"].top == (("Latin", 3000),)
    assert Profile.from_json(added.to_json()) == added


def test_rows_whose_language_was_not_told_do_not_count_as_rows_without_a_value() -> None:
    texts = pa.chunked_array([["The driver was late and the package is broken.", None] * 50])
    words, chosen = {"note": Vocabulary()}, np.arange(100) % 4 < 2
    part = profile_of(measured({"note": texts}, words, chosen), words)
    found = part.columns["note.language"]
    assert (found.n, found.nulls, found.sampled, found.top) == (25, 0, True, (("en", 25),))
    assert (part.n, part.columns["note.words"].n, part.columns["note.words"].nulls) == (100, 100, 50)
    without = msgspec.structs.replace(part, columns={k: v for k, v in part.columns.items() if k != "note.language"})
    for total in (part + without + part, without + part + part, part + part + without):
        found = total.columns["note.language"]
        assert (total.n, found.n, found.nulls, found.top) == (300, 50, 0, (("en", 50),))
        assert total.columns["note.words"].n == 300
        assert Profile.from_json(total.to_json()) == total


def test_another_language_is_new_words_though_the_script_is_the_same() -> None:
    vocabulary = Vocabulary.of(notes(4000, 2))
    same = told(notes(500, 3).to_pylist(), vocabulary)["unknown"]
    other = told(notes(500, 3, [f"mot{i}" for i in range(300)]).to_pylist(), vocabulary)["unknown"]
    assert np.mean(same) < 0.02
    assert np.mean(other) == 1.0


def test_free_text_is_a_string_and_survives_the_standard() -> None:
    for options in ({"type": "number"}, {"type": "string", "categories": ("a",)}):
        with pytest.raises(DeclarationError, match="free text is a string without categories"):
            Field(name="note", text=True, **options)  # type: ignore[arg-type]
    contract = Contract(name="t", fields=(Field(name="note", type="string", text=True),))
    assert Contract.from_odcs(contract.to_odcs()) == contract
    plain = Contract(name="t", fields=(Field(name="note", type="string"),))
    assert plain.diff(contract) == ("compatible: 'note' is now free text",)
    assert plain.hash != contract.hash
