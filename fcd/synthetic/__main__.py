"""`python -m fcd.synthetic`."""

from fcd.cli import draw, entry

entry.run(draw.main)
