"""A JSON object as a request, or a 400 that names the field and says what it should be.

Fields of OpenAI's and vLLM's interfaces that this server does not honour are refused by name with the reason, unless
their value is the one that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.schema import ChatRequest

_SAMPLER = "tokens are chosen by temperature, top_p, top_k, min_p, penalties and seed"
_FORMAT = "use response_format, which holds the CONCLUSION to a JSON Schema"
_TEMPLATE = "the chat template takes no options"
_WHOLE = "prompts are never cut: what does not fit gets an error"

T = TypeVar("T", bound=BaseModel)

MESSAGE_CHARACTERS = 300  # it may quote the caller, who may have sent any length

UNSUPPORTED: Mapping[str, tuple[str, Sequence[Any]]] = {
    "logit_bias": (_SAMPLER, [{}]),
    "use_beam_search": (_SAMPLER, [False]),
    "best_of": (_SAMPLER, [1]),
    "length_penalty": (_SAMPLER, [1]),
    "early_stopping": (_SAMPLER, [False]),
    "bad_words": (_SAMPLER, [[]]),
    "allowed_token_ids": (_SAMPLER, [[]]),
    "logits_processors": (_SAMPLER, [[]]),
    "stop_token_ids": ("use stop, which takes strings", [[]]),
    "include_stop_str_in_output": ("a stop string is never returned", [False]),
    "prompt_logprobs": ("log-probabilities of the prompt are not returned", []),
    "return_tokens_as_token_ids": ("use return_token_ids", [False]),
    "functions": ("use tools", [[]]),
    "function_call": ("use tool_choice", ["none", "auto"]),
    "web_search_options": ("this server searches nothing", []),
    "structured_outputs": (_FORMAT, [{}]),
    "guided_json": (_FORMAT, []),
    "guided_regex": (_FORMAT, []),
    "guided_choice": (_FORMAT, [[]]),
    "guided_grammar": (_FORMAT, []),
    "modalities": ("answers are text", [["text"]]),
    "audio": ("answers are text", []),
    "prediction": ("predicted outputs are not implemented", []),
    "verbosity": ("how much it says is the model's own; bound it with max_tokens", ["medium"]),
    "include_reasoning": ("the reasoning is always returned, apart from the answer", [True]),
    "chat_template": (_TEMPLATE, []),
    "chat_template_kwargs": (_TEMPLATE, [{}]),
    "documents": (_TEMPLATE, [[]]),
    "add_special_tokens": (_TEMPLATE, [False]),
    "mm_processor_kwargs": ("the image processor is the checkpoint's; bound images with detail", [{}]),
    "truncate_prompt_tokens": (_WHOLE, []),
    "skip_special_tokens": ("special tokens are never shown; the tags are ordinary text", [True]),
    "spaces_between_special_tokens": ("special tokens are never shown", [True, False]),
    "detokenize": ("answers are text; return_token_ids gives the tokens as well", [True]),
    "echo": ("the prompt is not repeated", [False]),
    "add_generation_prompt": ("an answer is always a new message", [True]),
    "continue_final_message": ("an answer is always a new message", [False]),
    "cache_salt": ("caches are not salted", []),
    "vllm_xargs": ("there are no further arguments", [{}]),
    "kv_transfer_params": ("caches are not handed on", []),
}
"""Field -> (why it is refused, values that change nothing and are accepted)."""


def parse_chat_request(body: Any) -> ChatRequest:
    """Raises ApiError 400, about the first field that is wrong."""
    return parse_model(ChatRequest, _supported(body) if isinstance(body, dict) else body)


def parse_model(model: type[T], body: Any, *, name_types: bool = False) -> T:
    """A body as a request. Raises ApiError 400, about the first field that is wrong.

    name_types: what is of an unknown type is named by its field `type`, else as a whole.
    """
    if not isinstance(body, dict):
        raise invalid(f"the body is a JSON object, not {_kind(body)}")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _first(error, body, name_types) from None


def _supported(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without fields whose value changes nothing."""
    kept = dict(body)
    for name, (reason, neutral) in UNSUPPORTED.items():
        if name not in kept:
            continue
        value = kept.pop(name)
        if value is not None and not any(_same(value, accepted) for accepted in neutral):
            raise invalid(f"{name} is not supported: {reason}", name, "unsupported_parameter")
    return kept


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and a truth value only to a truth value: in Python 0 == False."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _first(error: ValidationError, body: Any, name_types: bool) -> ApiError:
    """The error deepest in the body: where a field may have several forms, the form that was meant."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    named: dict[str, list[int | str]] = {"union_tag_invalid": ["type"]} if name_types else {}
    paths = [_path(detail["loc"], body, detail["type"]) + named.get(detail["type"], []) for detail in details]
    depth = max(map(len, paths))
    path = next(path for path in paths if len(path) == depth)
    same = [detail for detail, other in zip(details, paths, strict=True) if other == path]
    messages = dict.fromkeys(detail["msg"] for detail in same)
    param = _written(path)
    if any(detail["type"] == "extra_forbidden" for detail in same):
        return invalid(f"{param} is not a field this server knows", param, "unknown_parameter")
    return invalid(f"{param}: {'; or: '.join(message[:MESSAGE_CHARACTERS] for message in messages)}", param)


def _path(loc: Sequence[int | str], body: Any, kind: str) -> list[int | str]:
    """pydantic's location without the names of union members, which are not in the body."""
    path: list[int | str] = []
    here, tag_follows = body, True
    for place, step in enumerate(loc):
        tags = (here.get("type"), here.get("role")) if isinstance(here, dict) else ()
        if tag_follows and step in tags and step != "function":  # tools are no union
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
