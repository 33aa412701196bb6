"""What goes out: completions, chunks of a stream, usage and the report on re-attention, as JSON objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from look_again.core.generate import Reflection
from look_again.core.reattention import Reattention
from look_again.core.sequence import Token
from look_again.serving.backend import ScoredToken
from look_again.serving.choice import Choice, TextPiece
from look_again.serving.tool_calls import Call
from look_again.text.token_bytes import REPLACEMENT, read_token_bytes

JSON = dict[str, Any]
LEAST_LOG_PROB = -9999.0  # JSON knows no infinity; vLLM's number


@dataclass(frozen=True)
class CompletionHeader:
    """Fields of every part of an answer. created: seconds since 1970. model: as it was asked for."""

    id: str
    created: int
    model: str


def completion(head: CompletionHeader, choices: Sequence[Choice], report: JSON, wanted: TokenReport) -> JSON:
    """The whole answer of a request without `stream`."""
    return {
        **_head(head, "chat.completion"),
        "choices": [_choice(index, choice, wanted) for index, choice in enumerate(choices)],
        "usage": usage(choices),
        **wanted.prompt(choices[0]),
        "look_again": report,
    }


def _choice(index: int, choice: Choice, wanted: TokenReport) -> JSON:
    content = choice.text["content"]
    message: JSON = {"role": "assistant", "content": content or (None if choice.calls else ""), "refusal": None}
    if choice.calls:
        message["tool_calls"] = tool_calls(choice.calls)
    if not choice.everything:
        message |= _reasoning(choice.text["reasoning_content"])
    return {"index": index, "message": message, **wanted.tokens(choice), **_finish(choice)}


def _reasoning(text: str) -> JSON:
    """Under both names that clients read: vLLM's of today, and the one that it and others had first."""
    return {"reasoning_content": text, "reasoning": text}


def tool_calls(calls: Sequence[Call], *, stream: bool = False) -> list[JSON]:
    """Calls of functions, with their index in a stream."""
    return [
        {**({"index": index} if stream else {}), "id": call.id, "type": "function"}
        | {"function": {"name": call.name, "arguments": call.arguments}}
        for index, call in enumerate(calls)
    ]


@dataclass(frozen=True)
class TokenReport:
    """What a request wants to know of an answer's tokens. log_probs, token_ids: whether."""

    tokenizer: Any
    log_probs: bool
    token_ids: bool

    def prompt(self, choice: Choice) -> JSON:
        """The prompt's tokens."""
        if not self.token_ids or choice.started is None:
            return {}
        return {"prompt_token_ids": list(choice.started.token_ids)}

    def tokens(self, choice: Choice, field: str | None = None) -> JSON:
        """The tokens that were not reported before: of one field of the message, or all."""
        pairs = choice.report_tokens(field)
        ids = {"token_ids": [token.token_id for _, token in pairs]} if self.token_ids else {}
        return {"logprobs": self._log_probs(pairs) if self.log_probs else None, **ids}

    def _log_probs(self, pairs: Sequence[tuple[str, Token]]) -> JSON | None:
        entries: dict[str, list[JSON]] = {"content": [], "reasoning_content": []}
        for field, token in pairs:
            if isinstance(token, ScoredToken):
                top = [self._entry(*pair) for pair in token.likeliest]
                entries[field].append({**self._entry(token.token_id, token.log_prob), "top_logprobs": top})
        return {"content": entries["content"], "refusal": None, "reasoning_content": entries["reasoning_content"]}

    def _entry(self, token_id: int, log_prob: float) -> JSON:
        text = self.tokenizer.decode([token_id], skip_special_tokens=False)
        raw = read_token_bytes(self.tokenizer, token_id) if REPLACEMENT in text else text.encode()
        return {"token": text, "logprob": max(log_prob, LEAST_LOG_PROB), "bytes": None if raw is None else list(raw)}


def _finish(choice: Choice) -> JSON:
    return {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}


def opening(head: CompletionHeader, index: int) -> JSON:
    """The first chunk of a choice."""
    return chunk(head, index, {"role": "assistant", "content": ""})


def closing(head: CompletionHeader, index: int, choice: Choice, report: JSON | None, tokens: JSON) -> JSON:
    """The last chunk of a choice. report: of all choices, with the last of them."""
    last = chunk(head, index, {}, report)
    last["choices"][0].update({**tokens, **_finish(choice)})
    return last


def text_chunk(head: CompletionHeader, index: int, piece: TextPiece, tokens: JSON) -> JSON:
    """A chunk with more text."""
    delta = {"content": piece.text} if piece.field == "content" else _reasoning(piece.text)
    return chunk(head, index, delta, tokens=tokens)


def chunk(
    head: CompletionHeader,
    index: int,
    delta: Mapping[str, Any],
    look_again: JSON | None = None,
    tokens: JSON | None = None,
) -> JSON:
    choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": None, **(tokens or {})}
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
    reasoning = [choice.sampled if choice.reasoning_tokens is None else choice.reasoning_tokens for choice in choices]
    known = [choice.cached_tokens for choice in choices if choice.cached_tokens is not None]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": sum(known)} if known else None,
        "completion_tokens_details": {"reasoning_tokens": sum(reasoning)},
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


def models(names: Sequence[str], created: int, max_model_len: int) -> JSON:
    """The answer of /v1/models. max_model_len: tokens of the context."""
    common = {"object": "model", "created": created, "owned_by": "look_again", "max_model_len": max_model_len}
    return {"object": "list", "data": [{"id": name, **common} for name in names]}


def _head(head: CompletionHeader, kind: str) -> JSON:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}
