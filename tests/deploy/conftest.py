"""The fixtures of servers, shared by two folders."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are imported by path, so they find each other only like this

from servers import bundles, routed, serve

__all__ = ["bundles", "routed", "serve"]
