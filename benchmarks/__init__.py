"""Our way beside the plain way of the same work: `python -m benchmarks.train_step` and others."""
