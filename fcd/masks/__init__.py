"""Weights -> masks: a score of any scene, a threshold, and the files that hold both."""
