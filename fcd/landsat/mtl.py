"""Metadata of Level-1 scenes: MTL files, as text, JSON or XML."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from fcd.errors import SceneError
from fcd.files import decoded
from fcd.landsat.archives import Member

FORMS = (".txt", ".json", ".xml")  # that say the same; the first one that is there counts
_MAX_METADATA = 1 << 20  # characters; real files have about 10,000
_HEAD = r"\w+_METADATA_FILE"  # the group that holds all others


def parse_mtl(path: Path | Member) -> dict[str, str]:
    """The fields of an MTL file, without quotes and groups; `SceneError` if it is no whole one.

    Of several groups' the first counts: it is the product's, later ones what it was made from.
    """
    try:
        text = decoded(path.read_bytes(), errors="replace")
    except (OSError, ValueError) as error:
        raise SceneError(f"{path} cannot be read: {error}") from error
    if len(text) > _MAX_METADATA:
        raise SceneError(f"{path} is no Landsat metadata: it has {len(text):,} characters")
    read = {".json": _of_json, ".xml": _of_xml}.get(Path(path.name).suffix.lower(), _of_text)
    fields: dict[str, str] = {}
    for key, value in read(text, path):
        fields.setdefault(key, value)
    return fields


def _of_text(text: str, path: Path | Member) -> Iterator[tuple[str, str]]:
    lines = (line.strip() for line in text.splitlines())
    if not re.fullmatch(rf"GROUP\s*=\s*{_HEAD}", next(lines, "")):
        raise SceneError(f"{path} is no Landsat metadata: GROUP = …_METADATA_FILE must come first")
    for line in lines:
        if line.rstrip("\0") == "END":
            return
        key, separator, value = map(str.strip, line.partition("="))
        if separator and key not in ("GROUP", "END_GROUP"):
            yield key, value.strip('"')
    raise SceneError(f"{path} is cut off: its last line is not END; get the scene again")


def _of_json(text: str, path: Path | Member) -> Iterator[tuple[str, str]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or not any(re.fullmatch(_HEAD, key) for key in content):
        raise _damaged(path, "no …_METADATA_FILE in it")
    groups = [content]
    for group in groups:
        for key, value in group.items():
            if isinstance(value, dict):
                groups.append(value)
            else:
                yield key, str(value)


def _of_xml(text: str, path: Path | Member) -> Iterator[tuple[str, str]]:
    if "<!" in re.sub(r"<!--.*?-->", "", text, flags=re.S):  # entities, which could be endless
        raise _damaged(path, "it declares types of its own")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise _damaged(path, error) from error
    if not re.fullmatch(_HEAD, root.tag):
        raise _damaged(path, "no …_METADATA_FILE in it")
    for element in root.iter():
        if not len(element):
            yield element.tag, (element.text or "").strip()


def _damaged(path: Path | Member, reason: object) -> SceneError:
    return SceneError(f"{path} is no Landsat metadata ({reason}); give the scene's _MTL.txt")
