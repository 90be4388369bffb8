"""`python -m fcd.cut`."""

from fcd.cli import cut, entry

if __name__ == "__main__":
    entry.run(cut.main)
