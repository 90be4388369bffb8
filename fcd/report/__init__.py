"""Masks -> figures: one run's evaluation, and many runs side by side."""
