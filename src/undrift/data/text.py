"""Free text as columns that can be profiled: characters, words, script, language, and the share of new words.

A text is nobody's category: each is another one. What is measured of it are plain columns, so profiles of them merge,
take constant memory and are compared as any other. Of the words themselves hashes are kept, and only of words that
several rows share. Languages are named where the extra ``text`` is installed (language.py), of a sample of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from undrift.data.language import evenly, languages
from undrift.data.profile import Profile
from undrift.data.sketch import text_hashes

__all__ = ["LANGUAGE", "MEASURED", "Vocabulary", "language_of", "measured", "profile_of"]

LANGUAGE: Final = "language"
MEASURED: Final = ("characters", "words", "script", "unknown", LANGUAGE)
"""What is measured of a text column; of ``note`` they are named ``note.characters`` and so on."""
MOST_WORDS: Final = 8192
FEWEST_ROWS: Final = 5
"""A word that fewer rows share says something of a person, and is not kept even as a hash."""
SCRIPTS: Final = (
    "Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Bengali", "Tamil", "Thai", "Hangul", "Han",
    "Hiragana", "Katakana",
)  # fmt: skip
_ALONE: Final = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]"
"""Scripts without spaces: each character counts as a word."""


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """The words of a text column, as the sorted hashes (8 bytes each) of at most 8,192 that are in the most rows."""

    hashes: bytes = b""

    @classmethod
    def of(cls, values: Any) -> Vocabulary:
        """The vocabulary of a string column; words are lower case, and apart where no letter or digit stands."""
        words, rows = _words(values)
        coded = words.dictionary_encode()
        codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        pairs = np.unique(np.column_stack([codes, rows]), axis=0) if len(codes) else np.zeros((0, 2), dtype=np.int64)
        counts = np.bincount(pairs[:, 0], minlength=len(coded.dictionary))
        order = np.argsort(-counts, kind="stable")[:MOST_WORDS]
        kept = coded.dictionary.take(pa.array(order[counts[order] >= FEWEST_ROWS]))
        return cls(hashes=np.unique(text_hashes(kept)).astype("<u8").tobytes())

    def unknown(self, values: Any) -> pa.Array:
        """The share of each text's words that are not in the vocabulary, [0, 1]; null for texts without words."""
        words, rows = _words(values)
        coded = words.dictionary_encode()
        known = np.isin(text_hashes(coded.dictionary), np.frombuffer(self.hashes, dtype="<u8"))
        strange = ~known[coded.indices.to_numpy(zero_copy_only=False)] if len(words) else np.zeros(0, dtype=bool)
        total = np.bincount(rows, minlength=len(values))
        share = np.bincount(rows, weights=strange, minlength=len(values)) / np.maximum(total, 1)
        return pa.array(share, pa.float64(), mask=total == 0)


def language_of(name: str) -> str:
    """The column of the languages of a text column."""
    return f"{name}.{LANGUAGE}"


def measured(
    columns: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary], chosen: NDArray[np.bool_] | None = None
) -> dict[str, Any]:
    """The columns, with each text column replaced by what is measured of it; null where a text is null.

    Parameters
    ----------
    chosen : (n,) the rows whose language is told, null for all others: it costs more than all else. At
        most 20,000, spread evenly, if left out. Without the extra ``text`` there is no column of languages.
    """
    found: dict[str, Any] = {}
    for name, values in columns.items():
        if name not in vocabularies:
            found[name] = values
            continue
        texts = _texts(values)
        found[f"{name}.characters"] = pc.utf8_length(texts).cast(pa.int64())
        rows = _words(texts)[1]
        count = np.bincount(rows, minlength=len(texts))
        absent = np.asarray(texts.is_null().to_numpy(zero_copy_only=False), dtype=bool)
        found[f"{name}.words"] = pa.array(count, pa.int64(), mask=absent)
        found[f"{name}.script"] = _script(texts)
        found[f"{name}.unknown"] = vocabularies[name].unknown(texts)
        told = languages(texts, evenly(len(texts)) if chosen is None else chosen)
        if told is not None:
            found[language_of(name)] = told
    return found


def profile_of(columns: Any, vocabularies: Mapping[str, Vocabulary], *, edges_from: Profile | None = None) -> Profile:
    """The profile of a table in which free text is `measured`: rows whose language was not told do not count there."""
    whole = Profile.of(columns, edges_from=edges_from)
    return whole.of_samples(language_of(name) for name in vocabularies)


def _texts(values: Any) -> pa.Array:
    plain = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(plain, pa.ChunkedArray):  # no chunks at all
        plain = pa.array([], pa.string())
    return plain.cast(pa.string())


def _words(values: Any) -> tuple[pa.Array, NDArray[np.int64]]:
    """All words of all texts, and the row of each."""
    texts = pc.fill_null(pc.utf8_lower(_texts(values)), "")
    texts = pc.replace_substring_regex(texts, pattern=_ALONE, replacement=r" \\0 ")
    texts = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, pattern=r"[^\p{L}\p{M}\p{N}]+", replacement=" "))
    lists = pc.split_pattern(texts, " ")
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = pc.list_flatten(lists)
    held = np.asarray(pc.not_equal(flat, "").to_numpy(zero_copy_only=False), dtype=bool)
    return flat.filter(pa.array(held)), rows[held]


def _script(texts: pa.Array) -> pa.Array:
    """The script that most letters of a text are of; "none" for texts without letters of those known."""
    counts = np.column_stack(
        [pc.fill_null(pc.count_substring_regex(texts, pattern=f"\\p{{{name}}}"), 0).to_numpy() for name in SCRIPTS]
    )
    names = np.array([*SCRIPTS, "none"], dtype=object)
    top = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), len(SCRIPTS))
    absent = np.asarray(texts.is_null().to_numpy(zero_copy_only=False), dtype=bool)
    return pa.array(names[top], pa.string(), mask=absent)
