"""Print the licence of every library that requirements.txt names, and of what those need.

python scripts/licences.py
"""

import re
from importlib import metadata
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHORT = {"Apache Software License": "Apache-2.0", "BSD License": "BSD", "MIT License": "MIT"}


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: metadata.Distribution) -> str:
    """What the package says of its licence, short."""
    fields = package.metadata
    if expression := fields.get("License-Expression"):
        return expression
    classifiers = [c for c in fields.get_all("Classifier") or () if c.startswith("License ::")]
    named = [SHORT.get(c.split(" :: ")[-1], c.split(" :: ")[-1]) for c in classifiers]
    text = (fields.get("License") or "").strip().splitlines()
    return " and ".join(named) or (text[0] if text else "not stated")


def needed(lines: list[str]) -> list[metadata.Distribution]:
    """The installed packages that requirement `lines` name, and all that those need."""
    found, waiting = {}, lines
    while waiting:
        match = NAME.match(waiting.pop())
        name = normal(match[0]) if match else ""
        if not name or name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # needed on another system
            continue
        waiting += [r for r in found[name].requires or () if "extra ==" not in r]
    return [found[name] for name in sorted(found)]


if __name__ == "__main__":
    requirements = Path(__file__).parent.parent / "requirements.txt"
    print("| package | version | licence |\n| :-- | :-- | :-- |")
    for package in needed(requirements.read_text(encoding="utf-8").splitlines()):
        print(f"| {package.name} | {package.version} | {licence(package)} |")
