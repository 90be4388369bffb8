"""`python -m fcd.comparison`."""

from fcd.cli import compare, entry

if __name__ == "__main__":
    entry.run(compare.main)
