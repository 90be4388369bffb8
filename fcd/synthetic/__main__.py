"""`python -m fcd.synthetic`."""

from fcd.cli import draw, options

options.run(draw.main)
