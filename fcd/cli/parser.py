"""Settings as a command line: the fields of a frozen dataclass are the flags.

A field says everything about its flag once: name, type and default, and in `Annotated` its range
(of annotated_types), what reads its text (a function), its other names (`Flag`) and, as a plain
string, the sentence of `--help`, such as

    patch_size: Annotated[int, Ge(1), "patch side in pixels"] = 128

`MAY_CHANGE` marks what a run that goes on may have otherwise. A field that is a dataclass is a
group, whose flags stand beside the others.

Of libraries, jsonargparse takes `yes` for True, no list of words and no other names, and says
errors in several lines; simple-parsing adds a --noX to each boolean and reads `--nodata` without a
value.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Interval

from fcd.errors import UserError
from fcd.files import read_json
from fcd.processes import failing

T = TypeVar("T")
MAY_CHANGE = "may differ when a run goes on"
"""Marks a setting that says how a run is carried out, not what it computes."""


@dataclass(frozen=True)
class Flag:
    """What else argparse has to know: a second name, the value's name in --help, no name at all."""

    alias: str | None = None
    metavar: str | None = None
    positional: bool = False


def settings_of(kind: Any, given: Any = MISSING) -> Iterator[tuple[type, str, Any, Any]]:
    """Group, name, type and default (MISSING: none) of all settings of the dataclass `kind`.

    given: an instance whose values are the defaults.
    """
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        default = field.default if given is MISSING else getattr(given, field.name)
        if given is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()  # type: ignore[operator]
        if is_dataclass(hint):
            yield from settings_of(hint, default)
        else:
            yield kind, field.name, hint, default


def _add(parser: Any, name: str, hint: Any, default: Any) -> None:
    """Add the flag of a setting to `parser`, a parser or a group of one."""
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    some = [part for part in get_args(kind) if part is not NoneType]
    kind = some[0] if NoneType in get_args(kind) and len(some) == 1 else kind
    flag = next((note for note in notes if isinstance(note, Flag)), Flag())
    sentence = next((n for n in notes if isinstance(n, str) and n != MAY_CHANGE), "")
    options: dict[str, Any] = {"help": sentence.replace("%", "%%"), "metavar": flag.metavar}
    if get_origin(kind) is list:  # each of whose values is one of its kind
        options["nargs"], kind = "+", get_args(kind)[0]
    if get_origin(kind) is Literal:
        options |= {"choices": get_args(kind)}
    elif bool in (kind, *some):
        reading = next((note for note in notes if callable(note)), boolean)
        options |= {"nargs": "?", "const": True, "type": reading}
        options["metavar"] = flag.metavar or "BOOL"
    elif kind in (int, float):
        options |= {"type": lambda text: number(kind, notes, text)}
    else:
        options |= {"type": next((note for note in notes if callable(note)), kind)}
    if flag.positional:
        parser.add_argument(name, **options)
        return
    options |= {"required": True} if default is MISSING else {"default": default}
    names = [f"--{name}", *([flag.alias] if flag.alias else [])]
    parser.add_argument(*names, dest=name, **options)


def boolean(text: str) -> bool:
    """`True` or `False` in any case; anything else is refused."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def number(kind: type, notes: Sequence[Any], text: str) -> Any:
    """The number `text` of the type `kind` in the ranges among `notes`."""
    whole = kind is int
    try:
        value = kind(text)
    except ValueError:
        told = f"{text!r} is no {'whole ' * whole}number"
        raise argparse.ArgumentTypeError(told) from None
    for note in notes:
        if isinstance(note, Interval) and note.lt is not None and not note.ge <= value < note.lt:
            raise argparse.ArgumentTypeError(
                f"{text} is not at least {note.ge} and below {note.lt}"
            )
        if isinstance(note, Interval) and note.le is not None and not note.ge <= value <= note.le:
            raise argparse.ArgumentTypeError(f"{text} is not in [{note.ge}, {note.le}]")
        if isinstance(note, Ge) and not note.ge <= value < math.inf:
            finite = "" if whole else "a finite number of "
            raise argparse.ArgumentTypeError(f"{text} is not {finite}at least {note.ge}")
    return value


def _built(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass `kind`, groups and all, of the values of its flags."""
    built = {}
    for name, hint in get_type_hints(kind).items():
        built[name] = _built(hint, values) if is_dataclass(hint) else values[name]  # type: ignore[arg-type]
    return kind(**built)


def flat(settings: Any) -> dict[str, Any]:
    """All settings by the name of their flag, as JSON holds them."""
    values: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        values |= flat(value) if is_dataclass(value) else {field.name: _plain(value)}
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def may_change(kind: Any) -> set[str]:
    """The settings of `kind` that a run which goes on may have otherwise."""
    return {n for _, n, hint, _ in settings_of(kind) if MAY_CHANGE in get_args(hint)}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with exit code 2, and whose help shows defaults."""

    def __init__(self, **kwargs: Any) -> None:
        shown = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=shown, **kwargs)
        # Before Python 3.14 argparse takes a negative number with an exponent for a flag.
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        """Print `message` in one line and exit with code 2."""
        with failing() as first:
            if first:
                line = f"error: {message} (all flags: python {self.prog} --help)\n"
                self._print_message(line, sys.stderr)
        self.exit(2)


def build_parser(kind: type, prog: str | None = None) -> Parser:
    """The command line of the settings `kind`; its docstring describes the command."""
    parser = Parser(prog=prog, description=kind.__doc__)
    groups: dict[type, Any] = {kind: parser}
    for group, name, hint, default in settings_of(kind):
        if group not in groups:
            title = (group.__doc__ or "").splitlines()[0].rstrip(".")
            groups[group] = parser.add_argument_group(title)
        _add(groups[group], name, hint, default)
    return parser


def parse(kind: type[T], args: Sequence[str] | None = None, prog: str | None = None) -> T:
    """The settings `kind` of the command line `args`; None: that of the process.

    A setting `config` names the config.json of a run, whose flags come before those of `args`.
    """
    parser = build_parser(kind, prog)
    args = sys.argv[1:] if args is None else args
    flags = parser.parse_args(args)
    if getattr(flags, "config", None) is not None:
        flags = parser.parse_args([*_stored_arguments(flags.config), *args])
    return _built(kind, vars(flags))


def flags_of(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The flags in the content of a run's config.json; `UserError` if it is no such."""
    flags = config.get("flags")
    if not isinstance(flags, dict):
        raise UserError(f"{path} holds no flags; give the config.json of a run")
    return flags


def _stored_arguments(path: Path) -> list[str]:
    """The flags in a run's config.json as a command line; `UserError` if it is no such file."""
    flags = flags_of(read_json(path), path)
    # What --overwrite removes must be asked for on the command line.
    kept = {n: v for n, v in flags.items() if v is not None and n not in ("config", "overwrite")}
    return [
        text
        for name, value in kept.items()
        for text in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]
