"""Validate: metrics, checks and the gate a candidate must pass before it may see traffic."""
