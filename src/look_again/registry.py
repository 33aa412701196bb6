"""Names to things that are imported when they are asked for: tables of "module:attribute".

What stands on top of a room (Tabletop on data, training and evaluation) is known below by such a name alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def resolve(target: str) -> Any:
    """The attribute that "module:attribute" names; imports the module."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def lookup(table: Mapping[str, str], name: str, *, what: str) -> Any:
    """What `table` has under `name`. ValueError, listing the known names, for any other; `what` is the noun in it."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return resolve(table[name])
