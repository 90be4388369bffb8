"""Flags -> values: what commands share before and around their work.

In: a command line. Out: settings, checked, the device, a run that is written down, an exit code.
It stands on all rooms; the top level alone may enter.

parser       the fields of a frozen dataclass as flags
settings     the settings that commands share
prediction   those of --mode predict
run_folder   config.json, and how a run may go on
modes        test, predict, export, whatever was trained
entry        the device, errors -> one line and an exit code
commands     python -m fcd.cut, fcd.synthetic, fcd.comparison
"""
