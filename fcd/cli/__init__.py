"""Flags -> values: what commands share before and around their work.

In: a command line. Out: settings, checked, the device, a run that is written down, an exit code.
It stands on all rooms; the top level alone may enter.

parser       the fields of a frozen dataclass as flags
settings     the settings that commands share
device       the device a command computes on
run_folder   config.json, and how a run may go on
modes        test, predict, export, whatever was trained
entry        errors -> one line and an exit code
cut          python -m fcd.cut
draw         python -m fcd.synthetic
compare      python -m fcd.comparison
"""
