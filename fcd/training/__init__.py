"""Patches -> weights: what a training loop needs besides networks and batches."""
