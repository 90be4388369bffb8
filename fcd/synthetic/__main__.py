"""`python -m fcd.synthetic`."""

from fcd import options
from fcd.synthetic.drawing import main

options.run(main)
