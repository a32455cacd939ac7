"""Data: contracts, profiles, features (point in time, offline and online), labels and dataset versions."""
