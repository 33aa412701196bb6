"""The body of a chat completion as this server reads it: OpenAI's fields that it honours, and `look_again`.

Types are strict (no "5" for 5) and unknown fields are errors, so that nothing which would change an answer is dropped
in silence. Fields that change no answer are accepted and do nothing; null stands for absent, as with OpenAI.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


CacheControl = dict[str, Any]
"""Anthropic's and OpenRouter's mark on a part, which is ignored: what is cached does not depend on it."""


class TextPart(Strict):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


class ImageUrl(Strict):
    """url: `data:image/png;base64,…` (PNG, JPEG, WebP or GIF), or a web address where the server allows its host.

    detail: "low" scales an image of more than 262,144 pixels down to that; otherwise the checkpoint decides.
    """

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl
    cache_control: CacheControl | None = None


Rate = Annotated[float, Field(ge=0.001, le=1000)]
MaxFrames = Annotated[int, Field(ge=1, le=10_000)]
FrameUrls = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1000)]


class VideoUrl(Strict):
    """url: `data:video/mp4;base64,…` (MP4, MOV, WebM, Matroska or AVI). fps: frames taken per second (2). max_frames:
    taken at most, evenly over the whole video (the server's bound).
    """

    url: Annotated[str, Field(min_length=1)]
    fps: Rate | None = None
    max_frames: MaxFrames | None = None


class VideoPart(Strict):
    type: Literal["video_url"]
    video_url: VideoUrl
    cache_control: CacheControl | None = None


class FramesPart(Strict):
    """A video as a list of its frames, image URLs as of `image_url`, all of one size. fps: of the list (2)."""

    type: Literal["video"]
    video: FrameUrls
    fps: Rate | None = None
    cache_control: CacheControl | None = None


UserPart = Annotated[TextPart | ImagePart | VideoPart | FramesPart, Field(discriminator="type")]


class _Message(Strict):
    """name, cache_control: not shown to the model."""

    name: Annotated[str, Field(max_length=256)] | None = None
    cache_control: CacheControl | None = None


class SystemMessage(_Message):
    """ "developer" is read as "system"."""

    role: Literal["system", "developer"]
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]


class UserMessage(_Message):
    role: Literal["user"]
    content: str | Annotated[list[UserPart], Field(min_length=1, fail_fast=True)]


class CalledFunction(Strict):
    """arguments: a JSON object, as a string."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str


class ToolCall(Strict):
    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class AssistantMessage(_Message):
    """An earlier answer, as it was received: its reasoning is not shown to the model again, its tool calls are.

    content: null for one that only called tools, or that was cut off before its CONCLUSION.
    """

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None


class ToolMessage(_Message):
    """The result of a tool call; shown to the model in a user's turn."""

    role: Literal["tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
    tool_call_id: Annotated[str, Field(max_length=256)]


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]

Schema = dict[str, Any]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]


class NamedSchema(Strict):
    """name, description: shown to nobody. strict: always so. schema: JSON Schema of the answer."""

    model_config = ConfigDict(protected_namespaces=())

    name: Annotated[str, Field(max_length=256)] | None = None
    description: str | None = None
    json_schema: Annotated[Schema, Field(alias="schema")]
    strict: bool | None = None


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ToolFunction(Strict):
    """parameters: JSON Schema of the arguments, an object; absent is an object without any."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: ToolFunction
    cache_control: CacheControl | None = None


class ChosenFunction(Strict):
    name: Name


class ToolChoice(Strict):
    type: Literal["function"]
    function: ChosenFunction


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # of OpenAI's own servers; here there is none


class LookAgainOptions(Strict):
    """What happens at a reflection (the server's defaults where absent), and how the answer is returned.

    reattention, keep, rule, layout, delimiters, max_reinsertions, layers, count_copies, keep_frames: as of
    `look_again.Reattention`.
    content: "conclusion" puts the CONCLUSION into `content` and the rest into `reasoning_content`; "all" puts the whole
    tagged text into `content`. rows: also report the indices of the visual tokens that each reflection put back.
    attention: also report where the answer looked, per section and per reflection; a request with one choice.
    """

    reattention: Literal["text", "copy", "route", "vision"] | None = None
    keep: Annotated[int, Field(ge=0, le=100)] | None = None
    rule: Literal["paper", "relative"] | None = None
    layout: Literal["grid", "strip"] | None = None
    delimiters: bool | None = None
    max_reinsertions: Annotated[int, Field(ge=0, le=1000)] | None = None
    layers: Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=1, max_length=1000)] | None = None
    count_copies: bool | None = None
    keep_frames: bool | None = None
    content: Literal["conclusion", "all"] | None = None
    rows: bool | None = None
    attention: bool | None = None


class ChatRequest(Strict):
    """`POST /v1/chat/completions`. model: the served name, also with a suffix: NAME:copy, NAME:route-25, NAME:text,
    NAME:vision. Without `temperature` decoding is greedy unless the server was started otherwise.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    ignore_eos: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    return_token_ids: bool | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
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
    priority: int | None = None
    request_id: Annotated[str, Field(max_length=256)] | None = None


class TokenizeRequest(Strict):
    """`POST /tokenize`: a text, or a conversation as the model reads it. add_special_tokens: there are none to add."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: Literal[True] | None = None
    return_token_strs: bool | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What every error looks like."""

    error: ErrorDetail
