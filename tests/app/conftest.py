"""The fixtures of the small project, shared by several folders."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are imported by path, so they find each other only like this

from living import alive, fresh, project, tracked, trained, trained_twice, two, untrained

__all__ = ["alive", "fresh", "project", "tracked", "trained", "trained_twice", "two", "untrained"]
