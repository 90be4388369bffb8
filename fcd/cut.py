"""`python -m fcd.cut`."""

from fcd.cli import options
from fcd.patches.labelled import main

if __name__ == "__main__":
    options.run(main)
