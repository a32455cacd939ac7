"""The fixtures of servers and of the small project, shared by several folders."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are imported by path, so they find each other only like this

from living import alive, tracked, trained, trained_twice, two, untrained
from servers import bundles, routed, serve

__all__ = ["alive", "bundles", "routed", "serve", "tracked", "trained", "trained_twice", "two", "untrained"]
