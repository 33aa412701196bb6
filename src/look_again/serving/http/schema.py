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
    tagged text into `content`. rows: also report which visual rows each reflection put back.
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
