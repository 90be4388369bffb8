"""Scenes drawn in the layout of the real ones: a seed -> bands, manual mask, QA band, metadata."""
