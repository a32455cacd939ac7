"""Inference: rows in, answers out: which variant, which features, which batch, which model."""
