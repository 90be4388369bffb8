"""`python -m fcd.synthetic`."""

from fcd.cli import commands, entry

entry.run(commands.draw)
