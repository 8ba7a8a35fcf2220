"""Metrics, logs and timings: what the rooms count and say, without a secret in it."""
