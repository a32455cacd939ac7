"""undrift: takes a model to production and keeps it right there. Measure, judge, act."""

from __future__ import annotations

__version__ = "0.1.0"
__all__: list[str] = ["__version__"]
