"""Develop: training, tracking, the registry, and the bundle a model version travels in."""
