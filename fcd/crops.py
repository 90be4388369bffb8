"""`python -m fcd.crops`."""

from fcd.cli import commands, entry

if __name__ == "__main__":
    entry.run(commands.crop)
