"""A JSON object as a ChatRequest, or a 400 that names the field and says what it should be.

Fields of OpenAI's and vLLM's interfaces that this server does not honour are refused by name with the reason, unless
their value is the one that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.schema import ChatRequest

_TOOLS = "this model calls no tools"
_PENALTY = "penalties are not implemented: they would change how a reflection repeats what was seen"
_SAMPLER = "sampling is by temperature, top_p and seed alone"
_FORMAT = "answers have the model's own tagged format"

MESSAGE_CHARACTERS = 300  # it may quote the caller, who may have sent any length

UNSUPPORTED: Mapping[str, tuple[str, Sequence[Any]]] = {
    "frequency_penalty": (_PENALTY, [0]),
    "presence_penalty": (_PENALTY, [0]),
    "repetition_penalty": (_PENALTY, [1]),
    "logit_bias": (_SAMPLER, [{}]),
    "top_k": (_SAMPLER, [-1, 0]),
    "min_p": (_SAMPLER, [0]),
    "use_beam_search": (_SAMPLER, [False]),
    "best_of": (_SAMPLER, [1]),
    "min_tokens": (_SAMPLER, [0]),
    "ignore_eos": (_SAMPLER, [False]),
    "stop_token_ids": ("use stop, which takes strings", [[]]),
    "logprobs": ("log-probabilities are not returned", [False]),
    "top_logprobs": ("log-probabilities are not returned", [0]),
    "prompt_logprobs": ("log-probabilities are not returned", []),
    "tools": (_TOOLS, [[]]),
    "tool_choice": (_TOOLS, ["none", "auto"]),
    "functions": (_TOOLS, [[]]),
    "function_call": (_TOOLS, ["none", "auto"]),
    "web_search_options": (_TOOLS, []),
    "response_format": (_FORMAT, [{"type": "text"}]),
    "structured_outputs": (_FORMAT, []),
    "guided_json": (_FORMAT, []),
    "guided_regex": (_FORMAT, []),
    "guided_choice": (_FORMAT, [[]]),
    "modalities": ("answers are text", [["text"]]),
    "audio": ("answers are text", []),
    "prediction": ("predicted outputs are not implemented", []),
    "reasoning_effort": ("how long it reasons is the model's own; bound it with max_tokens", []),
    "verbosity": ("how much it says is the model's own; bound it with max_tokens", ["medium"]),
    "chat_template_kwargs": ("the chat template takes no options", [{}]),
    "mm_processor_kwargs": ("the image processor is the checkpoint's; bound images with detail", [{}]),
    "skip_special_tokens": ("special tokens are never shown; the tags are ordinary text", [True]),
    "echo": ("the prompt is not repeated", [False]),
    "add_generation_prompt": ("an answer is always a new message", [True]),
    "continue_final_message": ("an answer is always a new message", [False]),
}
"""Field -> (why it is refused, values that change nothing and are accepted)."""


def chat_request(body: Any) -> ChatRequest:
    """Raises ApiError 400, about the first field that is wrong."""
    if not isinstance(body, dict):
        raise invalid(f"the body is a JSON object, not {_kind(body)}")
    try:
        return ChatRequest.model_validate(_supported(body))
    except ValidationError as error:
        raise _first(error, body) from None


def _supported(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without fields whose value changes nothing."""
    kept = dict(body)
    for name, (reason, neutral) in UNSUPPORTED.items():
        if name not in kept:
            continue
        value = kept.pop(name)
        if value is not None and not any(_same(value, one) for one in neutral):
            raise invalid(f"{name} is not supported: {reason}", name, "unsupported_parameter")
    return kept


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and a truth value only to a truth value: in Python 0 == False."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _first(error: ValidationError, body: Any) -> ApiError:
    """The error deepest in the body: where a field may have several forms, the form that was meant."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    paths = [_path(one["loc"], body, one["type"]) for one in found]
    depth = max(map(len, paths))
    path = next(path for path in paths if len(path) == depth)
    messages = dict.fromkeys(one["msg"] for one, other in zip(found, paths, strict=True) if other == path)
    param = _written(path)
    if any(one["type"] == "extra_forbidden" and other == path for one, other in zip(found, paths, strict=True)):
        return invalid(f"{param} is not a field this server knows", param, "unknown_parameter")
    return invalid(f"{param}: {'; or: '.join(message[:MESSAGE_CHARACTERS] for message in messages)}", param)


def _path(loc: Sequence[int | str], body: Any, kind: str) -> list[int | str]:
    """pydantic's location without the names of union members, which are not in the body."""
    path: list[int | str] = []
    here, tag_follows = body, True
    for place, step in enumerate(loc):
        if tag_follows and isinstance(here, dict) and step in (here.get("type"), here.get("role")):
            tag_follows = False  # which member of a union it is; a field may have the same name
        elif _has(here, step):
            here, tag_follows = here[step], True
            path.append(step)
        elif kind == "missing" and place == len(loc) - 1:
            path.append(step)
    return path


def _has(value: Any, step: int | str) -> bool:
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, dict) and step in value


def _written(path: Sequence[int | str]) -> str:
    """`messages[0].content`; the names of unknown fields are the caller's and may have any length."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in path)
    return text.lstrip(".").encode("utf-8", "replace").decode("utf-8")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
