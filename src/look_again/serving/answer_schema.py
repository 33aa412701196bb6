"""JSON Schemas that an answer is held to: closed, bounded and checked, before any grammar is made of one.

llguidance takes exponential time to find out whether patterns that are joined leave anything, and stops at no limit, so
that part (`validate_schema`) runs where it can be ended. The paper's answers are free text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from look_again.extras import require

MAX_SCHEMA_CHARACTERS = 50_000
MAX_DEPTH = 32
SEPARATORS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Blanks as `json.dumps` writes them: where any number is allowed, a model may write nothing else."""


class SchemaError(ValueError):
    """A schema that cannot be followed."""


def close_objects(schema: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """The schema, where objects hold the properties that are named and no others, unless it says otherwise.

    Left open, a model that errs once may add properties without end. Parts of an `allOf` stay as they are. SchemaError
    for a schema nested deeper than MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise SchemaError(f"the schema is nested deeper than {MAX_DEPTH} levels")
    closed = dict(schema)
    for name in ("properties", "$defs", "definitions"):
        if isinstance(closed.get(name), Mapping):
            closed[name] = {key: _close(value, depth) for key, value in closed[name].items()}
    for name in ("items", "additionalProperties", "anyOf", "oneOf", "prefixItems"):
        if name in closed:
            closed[name] = _close(closed[name], depth)
    if "properties" in closed and not {"allOf", "patternProperties", "additionalProperties"} & closed.keys():
        closed["additionalProperties"] = False
    return closed


def _close(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return close_objects(value, depth + 1)
    return [_close(one, depth + 1) for one in value] if isinstance(value, list) else value


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > 2 * MAX_DEPTH:
        raise SchemaError(f"the schema is nested deeper than {MAX_DEPTH} levels")
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_depth(inner, depth + 1)


def write_schema(schema: Mapping[str, Any]) -> str:
    """The schema as text. SchemaError for one that is too long or nested too deeply; MissingExtraError."""
    require("llguidance", extra="serve")
    _check_depth(schema)
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise SchemaError(f"the schema has {len(text)} characters; at most {MAX_SCHEMA_CHARACTERS} are accepted")
    return text


def build_grammar(text: str) -> str:
    """llguidance's grammar of a schema's text."""
    from llguidance import LLMatcher

    grammar: str = LLMatcher.grammar_from_json_schema(text, defaults=SEPARATORS)
    return grammar


def validate_schema(text: str) -> None:
    """SchemaError for a schema that llguidance cannot follow. Takes any time: see `WorkerPool.check_schema`."""
    from llguidance import LLMatcher

    message = LLMatcher.validate_grammar(build_grammar(text))
    if message:
        raise SchemaError(f"the schema cannot be followed: {str(message)[:300]}")


def check_schema(schema: Mapping[str, Any], validate: Callable[[str], None] = validate_schema) -> None:
    """SchemaError for a schema that is too long, nested too deeply, or that llguidance cannot follow."""
    validate(write_schema(schema))
