"""Functions that a model may call: how they are described to it, and how its calls are read out of the CONCLUSION.

A call is written as `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, the form that the models' own families were
trained on. Where a call is required the CONCLUSION is held to JSON instead, so that it cannot be anything else. The
paper's answers call nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from look_again.serving.workers.json_body import BodyError, parse_values

OPEN, CLOSE = "<tool_call>", "</tool_call>"
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Function:
    """parameters: JSON Schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: NO_ARGUMENTS)

    @property
    def call_schema(self) -> dict[str, Any]:
        """JSON Schema of a call."""
        return {
            "type": "object",
            "properties": {"name": {"const": self.name}, "arguments": dict(self.parameters)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Toolbox:
    """The functions of one request. choice: "auto", "required", or the name of the one that has to be called.

    parallel: whether an answer may hold several calls.
    """

    functions: Sequence[Function]
    choice: str = "auto"
    parallel: bool = True

    @property
    def forced(self) -> Function | None:
        """The function that has to be called."""
        return next((function for function in self.functions if function.name == self.choice), None)

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """JSON Schema of the CONCLUSION; None where it is free to be text or calls."""
        if self.choice == "auto":
            return None
        if self.forced is not None:
            return dict(self.forced.parameters)
        calls = {"anyOf": [function.call_schema for function in self.functions]}
        return {"type": "array", "items": calls, "minItems": 1} | ({} if self.parallel else {"maxItems": 1})

    @property
    def instructions(self) -> str:
        """System text: what can be called, and how."""
        lines = [
            json.dumps({"name": f.name, "description": f.description, "parameters": f.parameters}, ensure_ascii=False)
            for f in self.functions
        ]
        call = '{"name": NAME, "arguments": OBJECT}'
        if self.forced is not None:
            how = f"The CONCLUSION is a call of {self.forced.name}: its arguments alone, as a JSON object."
        elif self.choice == "required":
            how = f"The CONCLUSION is a JSON array of one or more calls, each {call}."
        else:
            how = f"To call one, write {OPEN}{call}{CLOSE} as the CONCLUSION, once per call; else answer in words."
        return "\n".join(["These functions can be called, one per line:", *lines, how])


@dataclass(frozen=True)
class Call:
    """arguments: a JSON object, as a string."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


def render_call(name: str, arguments: str) -> str:
    """A call of an earlier answer, as the model reads it."""
    try:
        written = _dump_call(name, parse_values(arguments.encode()))
    except (BodyError, RecursionError):  # what is no strict JSON is shown as the text that it is
        written = _dump_call(name, arguments)
    return f"{OPEN}{written}{CLOSE}"


def _dump_call(name: str, arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


class CallReader:
    """Reads the calls of a CONCLUSION that comes in pieces; text that is no call is passed on."""

    def __init__(self, toolbox: Toolbox) -> None:
        self.toolbox = toolbox
        self._held = ""
        self._free = False

    def feed(self, text: str) -> str:
        """What can be given out as text now."""
        if self._free:
            return text
        self._held += text
        if self.toolbox.choice != "auto" or self._held.startswith(OPEN) or OPEN.startswith(self._held):
            return ""
        self._free, held, self._held = True, self._held, ""
        return held

    def finish(self) -> tuple[list[Call], str]:
        """The calls at the end, and the text that turned out to be none."""
        held, self._held = self._held, ""
        calls = self._parse(held)
        return (calls, "") if calls else ([], held)

    def _parse(self, text: str) -> list[Call]:
        """None of them where any is no call of a known function."""
        toolbox = self.toolbox
        try:
            if toolbox.forced is not None:
                return [Call(toolbox.forced.name, _dump_object(json.loads(text)))]
            values = json.loads(text) if toolbox.choice == "required" else _split_calls(text)
            names = {function.name for function in toolbox.functions}
            calls = [Call(value["name"], _dump_object(value["arguments"])) for value in values]
        except (ValueError, KeyError, TypeError):
            return []
        return calls if all(call.name in names for call in calls) else []


def _split_calls(text: str) -> list[Any]:
    """ValueError for anything but calls and blanks."""
    values = []
    for part in text.split(OPEN)[1:]:
        body, closed, rest = part.partition(CLOSE)
        if not closed or rest.strip():
            raise ValueError("a call that is not closed, or text after it")
        values.append(json.loads(body))
    return values


def _dump_object(value: Any) -> str:
    if not isinstance(value, dict):
        raise ValueError("arguments are an object")
    return json.dumps(value, ensure_ascii=False)
