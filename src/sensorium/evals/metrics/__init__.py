"""Metrics by their owners' rules; each takes plain texts or arrays and knows nothing of models."""
