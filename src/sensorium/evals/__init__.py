"""Figures: metrics, baselines, the starter suite, the report."""
