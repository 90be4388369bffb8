"""`python -m fcd.folds`."""

from fcd.cli import commands, entry

if __name__ == "__main__":
    entry.run(commands.fold)
