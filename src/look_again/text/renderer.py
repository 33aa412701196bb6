"""Conversations and responses as token ids: what decoding starts from, what training learns from, and their length.

The one place that turns messages and responses into ids, for answering, serving and training alike, so that a model is
trained on exactly the prompt that it is later asked with. How user text is kept apart from control tokens is in `chat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from look_again.text.chat import Message, encode_chat, encode_response
from look_again.text.grammar import open_tag
from look_again.text.instructions import FORMAT_INSTRUCTIONS
from look_again.text.tags import tag_ids

REPLY = "ok"  # a response that stands for any other


@dataclass(frozen=True)
class RenderedResponse:
    """A supervised response: one entry per token, the last of which is the end of turn.

    spans: the characters of the text that each token stands for, as (start, stop). silent: whether the token is read
    but must not be learned.
    """

    token_ids: list[int]
    spans: list[tuple[int, int]]
    silent: list[bool]


@dataclass(frozen=True)
class Renderer:
    """Renders for one checkpoint.

    tokenizer: a fast tokenizer with a chat template. image_text: the token that stands for a visual token. trained: the
    model writes the response format unprompted; others get the format instructions as system text. placeholder: what
    the template writes for an image, None for `image_text`. video_placeholder: what it writes for a video.
    """

    tokenizer: Any
    image_text: str
    trained: bool = True
    placeholder: str | None = None
    video_placeholder: str | None = None

    def add_instructions(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, behind the format instructions where the model needs them."""
        return [*([] if self.trained else [{"role": "system", "content": FORMAT_INSTRUCTIONS}]), *messages]

    def render_prompt(self, messages: Sequence[Message], shown: Sequence[int] | Sequence[str]) -> list[int]:
        """Token ids of the generation prompt; image i's token stands there `shown[i]` times, or the text `shown[i]`.

        Raises ValueError as `encode_chat` does.
        """
        return encode_chat(
            self.tokenizer,
            self.add_instructions(messages),
            shown,
            image_token=self.image_text,
            placeholder=self.placeholder,
            video_placeholder=self.video_placeholder,
        )

    def render_turn(
        self, messages: Sequence[Message], text: str, shown: Sequence[int] | Sequence[str], *, images: bool
    ) -> list[int]:
        """Token ids that lead from a response to `messages` into the next one: its end, a user turn, a new opening.

        text: what the turn says; with `images` it shows those of the messages again, `shown` as in `render_prompt`.
        Raises ValueError for a template that writes earlier turns in another way once others follow.
        """
        content = [{"type": "image"} for _ in shown] if images else []
        turn = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        before = self.render_prompt(messages, shown)
        spoken = encode_response(self.tokenizer, REPLY, tag_ids(self.tokenizer))[0]
        whole = self.render_prompt(
            [*messages, {"role": "assistant", "content": REPLY}, turn], [*shown, *shown] if images else shown
        )
        begins = [*before, *spoken]
        if whole[: len(begins)] != begins:
            raise ValueError("the chat template changes earlier turns, so that no turn can follow a response as it is")
        return whole[len(begins) :]

    def render_response(self, text: str, silent: Sequence[tuple[int, int]] = ()) -> RenderedResponse:
        """A response with its end of turn. silent: stretches of characters, as (start, stop), that are not learned.

        A token that shares a character with a silent stretch is silent. Raises MissingTagsError for a tokenizer without
        the tags, and ValueError as `encode_text` does.
        """
        ids, spans = encode_response(self.tokenizer, text, tag_ids(self.tokenizer))
        flags = [any(start < b and stop > a for a, b in silent) for start, stop in spans]
        end = (len(text), len(text))
        return RenderedResponse([*ids, self.tokenizer.eos_token_id], [*spans, end], [*flags, False])

    def count_slots(
        self,
        messages: Sequence[Message],
        shown: Sequence[int] | Sequence[str],
        response: str,
        *,
        slots_per_insertion: int = 0,
        max_insertions: int = 0,
    ) -> int:
        """Slots of the whole sequence, by counts alone: prompt, response and what its reflections re-insert."""
        response_ids = self.render_response(response).token_ids
        reflections = response_ids.count(tag_ids(self.tokenizer)[open_tag("REFLECTION")])
        prompt_slots = len(self.render_prompt(messages, shown))
        return prompt_slots + len(response_ids) + min(reflections, max_insertions) * slots_per_insertion
