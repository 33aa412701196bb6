"""What a request wants: which re-attention, by suffix of the model's name or by field, and how tokens are sampled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from look_again.core.reattention import Reattention
from look_again.model import Sampling
from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.limits import Limits
from look_again.serving.http.schema import ChatRequest, LookAgainOptions

SUFFIXES = ("text", "copy", "route-50", "vision")
"""What /v1/models lists behind the name, where the backend can do it; route-0 to route-100 are understood."""

_ROUTE = re.compile(r"route-(0|[1-9][0-9]?|100)")


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Of requests that do not say. everything: the whole tagged text goes into `content`."""

    name: str
    policy: Reattention
    temperature: float = 0.0
    everything: bool = False


def named_policy(asked: str, name: str) -> dict[str, Any]:
    """Fields of `Reattention` that a model name's suffix sets. ApiError 404 for another model, 400 for no suffix."""
    if asked == name:
        return {}
    suffix = asked.removeprefix(f"{name}:")
    if suffix == asked:
        message = f"there is no model {asked[:200]!r} here; there is {name!r}, also as {name}:{SUFFIXES[0]} and others"
        raise ApiError(404, message, param="model", code="model_not_found")
    if suffix in ("text", "copy", "route", "vision"):
        return {"mode": suffix}
    if found := _ROUTE.fullmatch(suffix):
        return {"mode": "route", "keep": int(found[1])}
    raise invalid(
        f"{suffix[:60]!r} is no re-attention: use {name}:text, :copy, :vision or :route-0 to :route-100", "model"
    )


def policy_of(request: ChatRequest, defaults: Defaults) -> Reattention:
    """The re-attention of a request. ApiError 400 where suffix and fields contradict each other or make no sense."""
    named = named_policy(request.model, defaults.name)
    given = _given(request.look_again)
    for field, value in named.items():
        if given.get(field, value) != value:
            message = f"the model name asks for {field} {value!r}, the field look_again for {given[field]!r}"
            raise invalid(message, "look_again", "contradiction")
    try:
        policy = replace(defaults.policy, **named, **{k: v for k, v in given.items() if k not in named})
    except ValueError as error:
        raise invalid(str(error), "look_again") from None
    for field in ("keep", "rule", "layers"):
        if field in given and policy.mode != "route":
            raise invalid(
                f"look_again.{field} belongs to route; this request's is {policy.mode}", f"look_again.{field}"
            )
    return policy


def _given(options: LookAgainOptions | None) -> dict[str, Any]:
    """The options as fields of `Reattention`."""
    if options is None:
        return {}
    given: Mapping[str, Any] = options.model_dump(exclude_none=True, exclude={"content", "rows"})
    renamed = {"mode" if name == "reattention" else name: value for name, value in given.items()}
    return {name: tuple(value) if name == "layers" else value for name, value in renamed.items()}


def everything_of(request: ChatRequest, defaults: Defaults) -> bool:
    asked = request.look_again.content if request.look_again is not None else None
    return defaults.everything if asked is None else asked == "all"


def samplings_of(request: ChatRequest, defaults: Defaults, limits: Limits) -> list[Sampling]:
    """One per choice: choice i samples with (seed + i) mod 2^63. ApiError 400 for values out of range."""
    choices = request.n or 1
    if choices > limits.choices:
        raise invalid(f"n is {choices}; this server gives at most {limits.choices} choices", "n")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options goes with stream: true", "stream_options")
    temperature = defaults.temperature if request.temperature is None else request.temperature
    if request.top_p == 0:  # of all tokens the likeliest alone
        temperature = 0.0
    try:
        sampling = Sampling(
            max_new_tokens=_tokens(request, limits), temperature=temperature, top_p=request.top_p or None
        )
    except ValueError as error:
        raise invalid(str(error), "temperature") from None
    seed = request.seed
    return [replace(sampling, seed=None if seed is None else (seed + i) % 2**63) for i in range(choices)]


def _tokens(request: ChatRequest, limits: Limits) -> int:
    asked = (request.max_completion_tokens, request.max_tokens)
    if None not in asked and asked[0] != asked[1]:
        raise invalid(f"max_completion_tokens is {asked[0]} and max_tokens {asked[1]}: send one", "max_tokens")
    name = "max_tokens" if asked[0] is None else "max_completion_tokens"
    try:
        return limits.tokens(asked[1] if asked[0] is None else asked[0])
    except ValueError as error:
        raise invalid(str(error), name) from None


def stops_of(request: ChatRequest) -> list[str]:
    if request.stop is None:
        return []
    return [request.stop] if isinstance(request.stop, str) else list(request.stop)
