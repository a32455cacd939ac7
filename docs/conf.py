"""Sphinx: Markdown by MyST, theme furo. `make docs` builds with warnings as errors and runs the code blocks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

_project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

project = _project["name"]
author = "The undrift maintainers"
copyright = "the undrift maintainers, Apache-2.0"
release = version = _project["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # signatures show them; docstrings say what they mean
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False

_SECTION = re.compile(r"^(Parameters|Raises)$")
_ENTRY = re.compile(r"^(?P<names>[\w*]+(?:, [\w*]+)*) : (?P<text>\S.*)$")


def _meanings(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings here say ``name : meaning``, NumPy's ``name : type``: put the meaning where it is looked for."""
    out: list[str] = []
    inside = False
    for place, line in enumerate(lines):
        if place + 1 < len(lines) and lines[place + 1].startswith("---"):
            inside = bool(_SECTION.match(line))
        entry = _ENTRY.match(line) if inside else None
        out += [entry["names"], f"    {entry['text']}"] if entry else [line]
    lines[:] = out


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _meanings, priority=100)  # before napoleon
