"""One word, one meaning: the nouns of the design and every public name stand in the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import undrift

PAGE = Path("docs/reference/glossary.md")

# section 2 of the design: declared, made by running, placed, grammar
NOUNS = {
    *("Model", "Contract", "FeatureView", "Gate", "Rollout", "Monitor", "Retrain"),
    *("Dataset", "Run", "ModelVersion", "Profile", "Prediction", "Label", "Report"),
    *("Endpoint", "Variant", "Revision"),
    *("Measurement", "Rule", "Finding", "Verdict", "Event", "Decision"),
}


def _terms(page: str) -> list[str]:
    """The terms of all glossary blocks: the lines that are not indented."""
    blocks = re.findall(r"^```\{glossary\}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith(" ")]


def _named(page: str) -> set[str]:
    """Terms, and what stands in backticks."""
    return {*_terms(page), *re.findall(r"`([A-Za-z_]+)`", page)}


def test_every_noun_of_the_design_is_a_term(root: Path) -> None:
    missing = NOUNS - set(_terms((root / PAGE).read_text(encoding="utf-8")))
    assert not missing, f"no term of {PAGE}: {sorted(missing)}"


def test_no_term_is_told_twice(root: Path) -> None:
    terms = _terms((root / PAGE).read_text(encoding="utf-8"))
    assert len(terms) > 40
    assert sorted(terms) == sorted(set(terms))


def test_every_public_name_is_in_the_glossary(root: Path) -> None:
    named = _named((root / PAGE).read_text(encoding="utf-8"))
    missing = [name for name in undrift.__all__ if not name.startswith("__") and name not in named]
    assert not missing, f"public, but not in {PAGE}: {missing}"
