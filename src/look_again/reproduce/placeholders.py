"""What stands in braces in a plan and in its recipes: `{out}`, `{recipe}`, `{NAME}`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_][A-Za-z0-9_.-]*)\}")
OWN = ("out", "recipe", "seed", "shipped", "plan")
"""What every stage has of its own; other names are those of stages, and of the plan's values."""


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with the placeholders that `values` names replaced."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def put(part: Any, values: Mapping[str, Any]) -> Any:
    """A structure of mappings and lists with values in its texts; a text that is one placeholder becomes the value."""
    if isinstance(part, str):
        alone = PLACEHOLDER.fullmatch(part)
        texts = {name: str(value) for name, value in values.items()}
        return values[alone[1]] if alone and alone[1] in values else fill(part, texts)
    if isinstance(part, Mapping):
        return {key: put(value, values) for key, value in part.items()}
    return type(part)(put(value, values) for value in part) if isinstance(part, list | tuple) else part


def find_placeholders(part: Any) -> list[str]:
    """Names in all texts of a structure, each once, in order."""
    return list(dict.fromkeys(name for text in walk_texts(part) for name in PLACEHOLDER.findall(text)))


def walk_texts(value: Any) -> Iterator[str]:
    """Every string in a structure of mappings and lists, keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from walk_texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from walk_texts(part)
