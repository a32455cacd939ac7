"""Capture: what was answered, kept before the answer leaves, and brought to the lake exactly once."""
