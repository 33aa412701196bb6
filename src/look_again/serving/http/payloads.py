"""What goes out: completions, chunks of a stream, usage and the report on re-attention, as JSON objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from look_again.core.generate import Reflection
from look_again.core.reattention import Reattention
from look_again.serving.choice import Choice

JSON = dict[str, Any]


@dataclass(frozen=True)
class CompletionHeader:
    """Fields of every part of an answer. created: seconds since 1970. model: as it was asked for."""

    id: str
    created: int
    model: str


def completion(head: CompletionHeader, choices: Sequence[Choice], report: JSON) -> JSON:
    """The whole answer of a request without `stream`."""
    return {
        **_head(head, "chat.completion"),
        "choices": [_choice(index, choice) for index, choice in enumerate(choices)],
        "usage": usage(choices),
        "look_again": report,
    }


def _choice(index: int, choice: Choice) -> JSON:
    message: JSON = {"role": "assistant", "content": choice.text["content"], "refusal": None}
    if not choice.everything:
        message["reasoning_content"] = choice.text["reasoning_content"]
    return {"index": index, "message": message, "logprobs": None, **_finish(choice)}


def _finish(choice: Choice) -> JSON:
    return {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}


def opening(head: CompletionHeader, index: int) -> JSON:
    """The first chunk of a choice."""
    return chunk(head, index, {"role": "assistant", "content": ""})


def closing(head: CompletionHeader, index: int, choice: Choice, report: JSON | None) -> JSON:
    """The last chunk of a choice. report: of all choices, with the last of them."""
    last = chunk(head, index, {}, report)
    last["choices"][0].update(_finish(choice))
    return last


def chunk(head: CompletionHeader, index: int, delta: Mapping[str, str], look_again: JSON | None = None) -> JSON:
    choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": None}
    plain = {**_head(head, "chat.completion.chunk"), "choices": [choice]}
    return plain if look_again is None else {**plain, "look_again": look_again}


def usage_chunk(head: CompletionHeader, choices: Sequence[Choice]) -> JSON:
    """The chunk that `stream_options.include_usage` asks for, the last one."""
    return {**_head(head, "chat.completion.chunk"), "choices": [], "usage": usage(choices)}


def usage(choices: Sequence[Choice]) -> JSON:
    """Tokens. The prompt, with its visual tokens, counts once; what was sampled, over all choices.

    cached_tokens: as the engine reports it, of the prompt and of resumed requests. look_again: visual tokens put back,
    and tokens that were written without being sampled, are in none of OpenAI's counts.
    """
    started = next((choice.started for choice in choices if choice.started is not None), None)
    prompt = started.prompt_tokens if started else 0
    sampled = sum(choice.sampled for choice in choices)
    known = [choice.cached_tokens for choice in choices if choice.cached_tokens is not None]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": sum(known)} if known else None,
        "look_again": {
            "visual_tokens": started.visual_tokens if started else 0,
            "reinserted_tokens": sum(choice.reinserted for choice in choices),
            "forced_tokens": sum(choice.forced for choice in choices),
        },
    }


def report(policy: Reattention, choices: Sequence[Choice], notes: Sequence[str], *, rows: bool) -> JSON:
    """What re-attention did, over all choices, and what a caller should be told."""
    all_notes = [*notes, *(note for choice in choices for note in choice.notes)]
    settings: JSON = {"reattention": policy.mode} | ({"keep": policy.keep} if policy.mode == "route" else {})
    reflections = [
        describe_reflection(index, reflection, rows=rows)
        for index, choice in enumerate(choices)
        for reflection in choice.reflections
    ]
    return {**settings, "reflections": reflections, "notes": list(dict.fromkeys(all_notes))}


def describe_reflection(index: int, reflection: Reflection, *, rows: bool) -> JSON:
    """A `<REFLECTION>` of choice `index`. at: response tokens before it. skipped: why nothing was put back."""
    described: JSON = {
        "choice": index,
        "mode": reflection.mode,
        "at": reflection.at,
        "reinserted_tokens": reflection.reinserted_tokens,
        "skipped": reflection.skipped,
    }
    return {**described, "rows": list(reflection.visual_indices)} if rows else described


def models(names: Sequence[str], created: int) -> JSON:
    """The answer of /v1/models."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": created, "owned_by": "look_again"} for name in names],
    }


def _head(head: CompletionHeader, kind: str) -> JSON:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}
