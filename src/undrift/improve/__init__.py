"""Improve: when to retrain, and when not to."""
