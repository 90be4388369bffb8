"""FCD: weakly-supervised cloud detection for Landsat-8/9 (helpers of the entry scripts)."""

__version__ = "0.1.0"
