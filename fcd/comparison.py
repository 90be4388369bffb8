"""`python -m fcd.comparison`."""

from fcd.cli import options
from fcd.report.comparison import main

if __name__ == "__main__":
    options.run(main)
