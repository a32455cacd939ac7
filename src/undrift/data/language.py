"""The language of texts by name, as a category for some of the rows.

The one door to py3langid (the extra ``text``), and nothing where that is not installed: who needs to say so asks
`not_installed`. Which rows are looked at is decided by those who know ids and times (monitor/frames.py).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from undrift.errors import MissingExtraError, SettingsError
from undrift.plugins import resolve_path

__all__ = ["NONE", "SHORT", "UNKNOWN", "evenly", "languages", "not_installed"]

NONE: Final = "none"
SHORT: Final = "short"
UNKNOWN: Final = "unknown"
SURE: Final = 0.5
"""The least probability at which a language is named."""
HEAD: Final = 200
"""Characters that are looked at: more of them cost more and change little."""
FEW_LETTERS: Final = 20
MOST: Final = 20_000
"""Texts of a reference that are looked at: a second or two."""


def languages(texts: pa.Array, chosen: NDArray[np.bool_]) -> pa.Array | None:
    """The language of each chosen text; null for others and for nulls. None where py3langid is not installed.

    A naive Bayes classifier of byte sequences says it (M. Lui and T. Baldwin, langid.py: An Off-the-shelf Language
    Identification Tool, ACL 2012 System Demonstrations, 25-30), from the first 200 characters.

    Parameters
    ----------
    texts : (n,) strings.
    chosen : (n,) which of them to look at, some 15,000 to 30,000 in a second; equal ones are looked at once.

    Returns
    -------
    (n,) strings: ISO 639 codes as ``en``; ``none`` for texts without letters; and where no language has a probability
    of a half, ``short`` for texts of fewer than 20 letters and ``unknown`` for others.
    """
    if not_installed():
        return None
    rows = np.flatnonzero(chosen & np.asarray(texts.is_valid().to_numpy(zero_copy_only=False), dtype=bool))
    coded = pc.utf8_slice_codeunits(texts.take(pa.array(rows)), 0, HEAD).dictionary_encode()
    names = np.array([_language(text) for text in coded.dictionary.to_pylist()], dtype=object)
    found = np.full(len(texts), None, dtype=object)
    if len(rows):
        found[rows] = names[coded.indices.to_numpy(zero_copy_only=False)]
    return pa.array(found.tolist(), pa.string())


def evenly(n: int) -> NDArray[np.bool_]:
    """At most 20,000 of n rows, spread evenly."""
    chosen = np.zeros(n, dtype=bool)
    chosen[np.linspace(0, max(n - 1, 0), min(n, MOST)).astype(np.int64)] = n > 0
    return chosen


def not_installed() -> str:
    """Why languages cannot be told, and what to do about it; empty where they can."""
    try:
        _identifier()
    except (MissingExtraError, SettingsError) as error:
        return str(error).replace("\n ", "")
    return ""


@cache
def _identifier() -> Any:
    """The classifier, which takes 0.7 seconds and some 100 MB to load."""
    found = resolve_path("py3langid.langid:LanguageIdentifier", wanted_for="the language of texts", extra="text")
    return found.from_model_file("data/model.npz.xz", norm_probs=True)


def _language(text: str) -> str:
    if not any(letter.isalpha() for letter in text):
        return NONE
    name, probability = _identifier().classify(text)
    if name == "zxx":  # "no linguistic content"
        return NONE
    if probability >= SURE:
        return str(name)
    return SHORT if sum(letter.isalpha() for letter in text) < FEW_LETTERS else UNKNOWN
