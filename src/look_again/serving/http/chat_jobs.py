"""A ChatRequest as jobs for a backend: its conversation and images, its re-attention, how tokens are sampled.

Re-attention is chosen by a suffix of the model's name or by fields of `look_again`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from look_again.core.reattention import Reattention
from look_again.model import Sampling
from look_again.serving.backend import Job
from look_again.serving.http.answer_options import bound_reasoning, wants_schema
from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.image_parts import FramesReference, ImageReference, Reference, VideoReference
from look_again.serving.http.limits import Limits
from look_again.serving.http.payloads import TokenReport
from look_again.serving.http.schema import (
    AssistantMessage,
    ChatRequest,
    FramesPart,
    ImagePart,
    LookAgainOptions,
    Message,
    TextPart,
    ToolMessage,
    VideoPart,
)
from look_again.serving.tool_calls import Toolbox, render_call

SUFFIXES = ("text", "copy", "route-50", "vision")
"""What /v1/models lists behind the name, where the backend can do it; route-0 to route-100 are understood."""

_ROUTE = re.compile(r"route-(0|[1-9][0-9]?|100)")


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Options of requests that leave them out. everything: the whole tagged text goes into `content`."""

    name: str
    policy: Reattention
    temperature: float = 0.0
    everything: bool = False


@dataclass(frozen=True)
class ChatJobs:
    """A request that can be answered, a job per choice. notes: what a caller is told, as far as it is known before."""

    request: ChatRequest
    policy: Reattention
    jobs: Sequence[Job]
    stops: Sequence[str]
    everything: bool
    notes: Sequence[str]
    toolbox: Toolbox | None
    token_report: TokenReport

    @property
    def stream(self) -> bool:
        return bool(self.request.stream)

    @property
    def include_usage(self) -> bool:
        options = self.request.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def attention(self) -> bool:
        options = self.request.look_again
        return options is not None and bool(options.attention)

    @property
    def rows(self) -> bool:
        options = self.request.look_again
        return options is not None and bool(options.rows)


def parse_model_name(requested: str, name: str) -> dict[str, Any]:
    """Fields of `Reattention` that a model name's suffix sets. ApiError 404 for another model, 400 for no suffix."""
    if requested == name:
        return {}
    suffix = requested.removeprefix(f"{name}:")
    if suffix == requested:
        message = (
            f"there is no model {requested[:200]!r} here; there is {name!r}, also as {name}:{SUFFIXES[0]} and others"
        )
        raise ApiError(404, message, param="model", code="model_not_found")
    if suffix in ("text", "copy", "route", "vision"):
        return {"mode": suffix}
    if match := _ROUTE.fullmatch(suffix):
        return {"mode": "route", "keep": int(match[1])}
    raise invalid(
        f"{suffix[:60]!r} is no re-attention: use {name}:text, :copy, :vision or :route-0 to :route-100", "model"
    )


def choose_reattention(request: ChatRequest, defaults: Defaults) -> Reattention:
    """The re-attention of a request. ApiError 400 where suffix and fields contradict each other or make no sense."""
    named = parse_model_name(request.model, defaults.name)
    given = _given(request.look_again)
    for field, value in named.items():
        if given.get(field, value) != value:
            message = f"the model name asks for {field} {value!r}, the field look_again for {given[field]!r}"
            raise invalid(message, "look_again", "contradiction")
    try:
        policy = replace(defaults.policy, **named, **{k: v for k, v in given.items() if k not in named})
    except ValueError as error:
        raise invalid(str(error), "look_again") from None
    for field in ("keep", "rule", "layers", "count_copies", "keep_frames"):
        if field in given and policy.mode != "route":
            raise invalid(
                f"look_again.{field} belongs to route; this request's is {policy.mode}", f"look_again.{field}"
            )
    return policy


def _given(options: LookAgainOptions | None) -> dict[str, Any]:
    """The options as fields of `Reattention`."""
    if options is None:
        return {}
    given: Mapping[str, Any] = options.model_dump(exclude_none=True, exclude={"content", "rows", "attention"})
    renamed = {"mode" if name == "reattention" else name: value for name, value in given.items()}
    return {name: tuple(value) if name == "layers" else value for name, value in renamed.items()}


def wants_everything(request: ChatRequest, defaults: Defaults) -> bool:
    """Whether the whole tagged text goes into `content`."""
    content = request.look_again.content if request.look_again is not None else None
    if request.tools or wants_schema(request):
        if content == "all":
            raise invalid(
                "a structured answer is the CONCLUSION alone: leave look_again.content out", "look_again.content"
            )
        return False
    return defaults.everything if content is None else content == "all"


def build_samplings(request: ChatRequest, defaults: Defaults, limits: Limits) -> list[Sampling]:
    """One per choice: choice i samples with (seed + i) mod 2^63. ApiError 400 for values out of range."""
    choices = request.n or 1
    if choices > limits.choices:
        raise invalid(f"n is {choices}; this server gives at most {limits.choices} choices", "n")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options goes with stream: true", "stream_options")
    temperature = defaults.temperature if request.temperature is None else request.temperature
    if request.top_p == 0:  # of all tokens the likeliest alone
        temperature = 0.0
    tokens = _tokens(request, limits)
    try:
        sampling = Sampling(max_new_tokens=tokens, temperature=temperature, top_p=request.top_p or None)
    except ValueError as error:
        raise invalid(str(error), "temperature") from None
    sampling = replace(sampling, max_reasoning_tokens=bound_reasoning(request, tokens))
    seed = request.seed
    return [replace(sampling, seed=None if seed is None else (seed + i) % 2**63) for i in range(choices)]


def _tokens(request: ChatRequest, limits: Limits) -> int:
    new, old = request.max_completion_tokens, request.max_tokens
    if new is not None and old is not None and new != old:
        raise invalid(f"max_completion_tokens is {new} and max_tokens {old}: send one", "max_tokens")
    name = "max_tokens" if new is None else "max_completion_tokens"
    try:
        return limits.tokens(old if new is None else new)
    except ValueError as error:
        raise invalid(str(error), name) from None


def list_ignored(messages: Sequence[Message]) -> list[str]:
    """Notes on fields of messages that do nothing."""
    fields = {"name": "names of messages are not shown to the model", "cache_control": "cache_control is ignored"}
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    given = {field for field in fields for part in [*messages, *parts] if getattr(part, field, None) is not None}
    return [note for field, note in fields.items() if field in given]


def read_stops(request: ChatRequest) -> list[str]:
    """The stop strings of a request."""
    if request.stop is None:
        return []
    return [request.stop] if isinstance(request.stop, str) else list(request.stop)


def split_conversation(messages: Sequence[Message], limits: Limits) -> tuple[list[dict[str, Any]], list[Reference]]:
    """Messages as `encode_chat` takes them, and their images and videos in order.

    An assistant's `reasoning_content` is left out, as reasoning models are commonly shown earlier turns. ApiError 400
    for more images or text than the limits allow.
    """
    images: list[Reference] = []
    converted = [
        {"role": _role(message), "content": _message_content(message, f"messages[{place}].content", images)}
        for place, message in enumerate(messages)
    ]
    if len(images) > limits.images:
        message = f"{len(images)} images were sent; this server takes at most {limits.images} in a request"
        raise invalid(message, images[limits.images].param, "too_many_images")
    check_characters(converted, limits)
    return converted, images


def check_characters(messages: Sequence[Mapping[str, Any]], limits: Limits) -> None:
    """ApiError 400 for messages, in the form of `encode_chat`, with more text than the limits allow."""
    characters = count_characters(messages)
    if characters > limits.text_characters:
        message = f"the messages have {characters} characters; this server takes at most {limits.text_characters}"
        raise invalid(message, "messages", "context_length_exceeded")


def count_characters(messages: Sequence[Mapping[str, Any]]) -> int:
    """Characters of all texts of messages."""
    return sum(_characters(message["content"]) for message in messages)


def _role(message: Message) -> str:
    """Results of tools come in users' turns: a template need not know the role."""
    return {"developer": "system", "tool": "user"}.get(message.role, message.role)


def _message_content(message: Message, param: str, images: list[Reference]) -> str | list[dict[str, str]]:
    """A message's content, its tool calls written out; its images are added to `images`."""
    if isinstance(message, ToolMessage):
        return f"<tool_response>{_text(message.content)}</tool_response>"
    if isinstance(message, AssistantMessage):
        if not message.tool_calls:
            return "" if message.content is None else _content(message.content, param, images)
        calls = [render_call(call.function.name, call.function.arguments) for call in message.tool_calls]
        return "\n".join([*filter(None, [_text(message.content or "")]), *calls])
    return _content(message.content, param, images)


def _text(content: str | Sequence[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _content(
    content: str | Sequence[TextPart | ImagePart | VideoPart | FramesPart], param: str, images: list[Reference]
) -> str | list[dict[str, str]]:
    """A message's content; its images and videos are added to `images`."""
    if isinstance(content, str):
        return content
    parts: list[dict[str, str]] = []
    for place, part in enumerate(content):
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        else:
            images.append(_reference(part, f"{param}[{place}]"))
            parts.append({"type": "image" if isinstance(part, ImagePart) else "video"})
    return parts


def _reference(part: ImagePart | VideoPart | FramesPart, param: str) -> Reference:
    if isinstance(part, ImagePart):
        return ImageReference(part.image_url.url, part.image_url.detail == "low", f"{param}.image_url.url")
    if isinstance(part, VideoPart):
        video = part.video_url
        return VideoReference(video.url, video.fps, video.max_frames, f"{param}.video_url.url")
    frames = [ImageReference(url, False, f"{param}.video[{i}]") for i, url in enumerate(part.video)]
    return FramesReference(tuple(frames), part.fps, f"{param}.video")


def _characters(content: str | Sequence[dict[str, str]]) -> int:
    return len(content) if isinstance(content, str) else sum(len(part.get("text", "")) for part in content)


def digest_beginning(messages: Sequence[Message]) -> str:
    """The same for requests that begin alike: a digest of everything up to the first user's turn, images included."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(message.model_dump_json(include={"role", "content"}).encode())
        if message.role == "user":
            break
    return digest.hexdigest()
