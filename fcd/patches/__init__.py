"""Scenes -> patches with image-level labels, and how their pixels become network input."""
