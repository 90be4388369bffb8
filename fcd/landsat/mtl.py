"""MTL files: the metadata that come with a Landsat scene."""

import re
from pathlib import Path

from fcd.errors import UserError
from fcd.landsat.archives import Member

MAX_CHARACTERS = 1 << 20  # real files have about 10,000


def parse_mtl(path: Path | Member) -> dict[str, str]:
    """The fields of an MTL file as field -> value, without quotes; groups are flattened.

    Of a field that occurs in several groups the first counts: it describes the product itself,
    later groups what it was made from. Raises `UserError` if `path` is no whole MTL file.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{path} is no Landsat metadata: it has {len(text):,} characters")
    fields: dict[str, str] = {}
    lines = (line.strip() for line in text.splitlines())
    if not re.fullmatch(r"GROUP = \w+_METADATA_FILE", next(lines, "")):
        raise UserError(f"{path} is no Landsat metadata: GROUP = …_METADATA_FILE must come first")
    for line in lines:
        if line.rstrip("\0") == "END":
            return fields
        key, separator, value = line.partition(" = ")
        if separator and key not in ("GROUP", "END_GROUP"):
            fields.setdefault(key, value.strip('"'))
    raise UserError(f"{path} is cut off: its last line is not END; get the scene again")
