"""`python -m fcd.synthetic`."""

from fcd.cli import options
from fcd.synthetic.drawing import main

options.run(main)
