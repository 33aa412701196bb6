"""Runs commands as an installation with one extra alone would: `python one_extra.py EXTRA`.

Whatever neither the package nor that extra depends on cannot be found, as `importlib.metadata` tells of the
installation that this runs in. Reads {packages, commands} from standard input and prints JSON: `there`, those of the
packages that can be imported, and `outcomes`, a {status, error, output} per command.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import re
import sys
import tomllib
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGE = "look-again-vlm"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def wanted(name: str, extras: frozenset[str], found: dict[str, set[str]]) -> None:
    """All distributions that one with these extras depends on, into `found` by their extras."""
    from packaging.requirements import Requirement

    if name in found and extras <= found[name]:
        return
    found.setdefault(name, set()).update(extras)
    for text in list_requirements(name):
        requirement = Requirement(text)
        sets = [{"extra": extra} for extra in (*extras, "")]
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in sets):
            wanted(normal(requirement.name), frozenset(requirement.extras), found)


def list_requirements(name: str) -> list[str]:
    """Of a distribution; this package's own as its source has them now, whenever it was installed."""
    if name == PACKAGE:
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
        optional = project["optional-dependencies"].items()
        return project["dependencies"] + [f'{text}; extra == "{extra}"' for extra, texts in optional for text in texts]
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class OneExtra:
    """The path finder of modules and of distributions, but for those that are not wanted."""

    def __init__(self, extra: str) -> None:
        self.wanted: dict[str, set[str]] = {}
        wanted(PACKAGE, frozenset([extra] if extra else []), self.wanted)
        owners = importlib.metadata.packages_distributions()
        self.absent = {
            module
            for module, names in owners.items()
            if module != "look_again" and not any(normal(name) in self.wanted for name in names)
        }

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.absent else PathFinder.find_spec(name, path, target)

    def find_distributions(self, context):
        found = PathFinder.find_distributions(context)
        return (distribution for distribution in found if normal(distribution.name) in self.wanted)

    def invalidate_caches(self):
        PathFinder.invalidate_caches()


def outcome(arguments: list[str]) -> dict[str, object]:
    """What a command does; anything but a status is named."""
    from look_again.commands.main import main

    output, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        try:
            status: object = main(arguments)
        except SystemExit as ended:
            status = ended.code
        except BaseException as fault:
            status = f"{type(fault).__name__}: {fault}"
    return {"status": status, "error": error.getvalue(), "output": output.getvalue()[-2000:]}


if __name__ == "__main__":
    finder = OneExtra(sys.argv[1])
    sys.meta_path[:] = [finder if one is PathFinder else one for one in sys.meta_path]
    asked = json.load(sys.stdin)
    there = [package for package in asked["packages"] if importlib.util.find_spec(package)]
    json.dump({"there": there, "outcomes": [outcome(arguments) for arguments in asked["commands"]]}, sys.stdout)
