"""The body of a chat completion as this server reads it: OpenAI's fields that it honours, and `look_again`.

Types are strict (no "5" for 5) and unknown fields are errors, so that nothing which would change an answer is dropped
in silence. Fields that change no answer are accepted and do nothing; null stands for absent, as with OpenAI. Fields of
OpenAI's and vLLM's interfaces that this server does not honour are refused by name with the reason, unless their value
is the one that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from look_again.serving.http.errors import ApiError, invalid

Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """url: `data:image/png;base64,…` (PNG, JPEG, WebP or GIF), or a web address where the server allows its host.

    detail: "low" scales an image of more than 262,144 pixels down to that; otherwise the checkpoint decides.
    """

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class SystemMessage(Strict):
    """ "developer" is read as "system"."""

    role: Literal["system", "developer"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]


class UserMessage(Strict):
    role: Literal["user"]
    content: str | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(min_length=1)]


class AssistantMessage(Strict):
    """An earlier answer, as it was received: its reasoning_content is not shown to the model again."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # of OpenAI's own servers; here there is none


class LookAgainOptions(Strict):
    """What happens at a reflection (the server's defaults where absent), and how the answer is returned.

    reattention, keep, rule, layout, delimiters, max_reinsertions, layers: as of `look_again.Reattention`.
    content: "conclusion" puts the CONCLUSION into `content` and the rest into `reasoning_content`; "all" puts the whole
    tagged text into `content`. rows: also report the indices of the visual tokens that each reflection put back.
    """

    reattention: Literal["text", "copy", "route", "vision"] | None = None
    keep: Annotated[int, Field(ge=0, le=100)] | None = None
    rule: Literal["paper", "relative"] | None = None
    layout: Literal["grid", "strip"] | None = None
    delimiters: bool | None = None
    max_reinsertions: Annotated[int, Field(ge=0, le=1000)] | None = None
    layers: Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=1, max_length=1000)] | None = None
    content: Literal["conclusion", "all"] | None = None
    rows: bool | None = None


class ChatRequest(Strict):
    """`POST /v1/chat/completions`. model: the served name, also with a suffix: NAME:copy, NAME:route-25, NAME:text,
    NAME:vision. Without `temperature` decoding is greedy unless the server was started otherwise.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    look_again: LookAgainOptions | None = None

    # accepted, without effect on an answer
    user: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What every error looks like."""

    error: ErrorDetail


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


def parse_chat_request(body: Any) -> ChatRequest:
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
        if value is not None and not any(_same(value, accepted) for accepted in neutral):
            raise invalid(f"{name} is not supported: {reason}", name, "unsupported_parameter")
    return kept


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and a truth value only to a truth value: in Python 0 == False."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _first(error: ValidationError, body: Any) -> ApiError:
    """The error deepest in the body: where a field may have several forms, the form that was meant."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    paths = [_path(detail["loc"], body, detail["type"]) for detail in details]
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
