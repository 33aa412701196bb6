"""The body of OpenAI's Responses API as this server reads it, and the same request as a chat completion.

A response is answered as a chat completion is, so all rules on fields stand in one place. Nothing is stored: earlier
turns come with the request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from look_again.serving.http.schema import FrameUrls, LookAgainOptions, MaxFrames, Name, Rate, Schema, Strict

Role = Literal["user", "system", "developer", "assistant"]


class _Part(Strict):
    """Fields that OpenAI's own output has and that nothing here reads."""

    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: Any = None


class TextInput(_Part):
    type: Literal["input_text", "output_text"]
    text: str


class ImageInput(_Part):
    """image_url: as in a chat completion's `image_url.url`."""

    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class VideoInput(_Part):
    """Ours, for OpenAI's interface has no videos. video_url: a file, as in a chat completion's `video_url.url`. video:
    its frames instead, as in a chat completion's part of that name. fps, max_frames: as there.
    """

    type: Literal["input_video"]
    video_url: Annotated[str, Field(min_length=1)] | None = None
    video: FrameUrls | None = None
    fps: Rate | None = None
    max_frames: MaxFrames | None = None

    @model_validator(mode="after")
    def _check_source(self) -> VideoInput:
        if (self.video_url is None) == (self.video is None):
            raise ValueError("an input_video has a video_url (a file) or a video (a list of frames), one of them")
        if self.video is not None and self.max_frames is not None:
            raise ValueError("max_frames belongs to video_url: of a list of frames all are taken")
        return self


Part = Annotated[TextInput | ImageInput | VideoInput, Field(discriminator="type")]


class InputMessage(Strict):
    type: Literal["message"] | None = None
    role: Role
    content: str | Annotated[list[Part], Field(fail_fast=True)]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class ReasoningInput(Strict):
    """The reasoning of an earlier answer; not shown to the model again."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: str | None = None


class FunctionCallInput(Strict):
    model_config = ConfigDict(extra="ignore")  # clients send back what they received, with fields of their own

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionOutputInput(Strict):
    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[TextInput], Field(fail_fast=True)]
    id: str | None = None
    status: str | None = None


def _item_type(item: Any) -> Any:
    """The type that an item of the input names; one without is a message."""
    named = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return "message" if named is None else named


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[ReasoningInput, Tag("reasoning")]
    | Annotated[FunctionCallInput, Tag("function_call")]
    | Annotated[FunctionOutputInput, Tag("function_call_output")],
    Discriminator(_item_type),
]


class FunctionTool(Strict):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class NamedFunction(Strict):
    type: Literal["function"]
    name: Name


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    json_schema: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(Strict):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(Strict):
    """summary: none is made; the reasoning itself is returned."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(Strict):
    """`POST /v1/responses`. seed, max_reasoning_tokens, look_again: as in a chat completion."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[InputItem], Field(min_length=1, max_length=1000, fail_fast=True)]
    )
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    look_again: LookAgainOptions | None = None

    # accepted, without effect on an answer
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    store: bool | None = None
    stream_options: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


def build_chat_body(request: ResponsesRequest) -> tuple[dict[str, Any], list[int | None]]:
    """The body of the chat completion that answers a request, and the place in `input` of each of its messages."""
    messages, places = _build_messages(request)
    log_probs = bool(request.top_logprobs) or "message.output_text.logprobs" in (request.include or ())
    body = {
        "model": request.model,
        "messages": messages,
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": log_probs or None,
        "response_format": _build_format(request.text.format if request.text else None),
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "tools": [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in request.tools or ()],
        "tool_choice": _build_choice(request.tool_choice),
        "look_again": request.look_again and request.look_again.model_dump(exclude_none=True),
    }
    same = ("temperature", "top_p", "top_logprobs", "stream", "parallel_tool_calls", "seed", "max_reasoning_tokens")
    return body | {name: getattr(request, name) for name in same}, places


def _build_messages(request: ResponsesRequest) -> tuple[list[dict[str, Any]], list[int | None]]:
    messages: list[dict[str, Any]] = []
    places: list[int | None] = []
    if request.instructions:
        messages.append({"role": "developer", "content": request.instructions})
        places.append(None)
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}], [*places, None]
    for place, item in enumerate(request.input):
        if isinstance(item, ReasoningInput):
            continue
        message = _build_message(item)
        if isinstance(item, FunctionCallInput) and messages and messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"] += message["tool_calls"]  # calls of one answer
        else:
            messages.append(message)
            places.append(place)
    return messages, places


def _build_message(item: InputMessage | FunctionCallInput | FunctionOutputInput) -> dict[str, Any]:
    if isinstance(item, FunctionCallInput):
        function = {"name": item.name, "arguments": item.arguments}
        return {"role": "assistant", "tool_calls": [{"id": item.call_id, "type": "function", "function": function}]}
    if isinstance(item, FunctionOutputInput):
        return {"role": "tool", "tool_call_id": item.call_id, "content": _build_content(item.output)}
    return {"role": item.role, "content": _build_content(item.content)}


def _build_content(content: str | list[Any]) -> Any:
    if isinstance(content, str):
        return content
    return [_build_part(part) for part in content]


def _build_part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextInput):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImageInput):
        return {"type": "image_url", "image_url": {"url": part.image_url, "detail": part.detail}}
    if part.video is not None:
        return {"type": "video", "video": part.video, "fps": part.fps}
    return {"type": "video_url", "video_url": {"url": part.video_url, "fps": part.fps, "max_frames": part.max_frames}}


def _build_format(form: TextFormat | None) -> dict[str, Any] | None:
    if form is None or form.type != "json_schema":
        return None if form is None else {"type": form.type}
    named = {"name": form.name, "schema": form.json_schema, "strict": form.strict}
    return {"type": "json_schema", "json_schema": named}


def _build_choice(choice: str | NamedFunction | None) -> Any:
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedFunction) else choice
