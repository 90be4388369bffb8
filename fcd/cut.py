"""`python -m fcd.cut`."""

from fcd.cli import options
from fcd.cli.cut import main

if __name__ == "__main__":
    options.run(main)
