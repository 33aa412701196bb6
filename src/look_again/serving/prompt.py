"""A job as a model reads it: token ids, pixels of one vision pass, grids. One definition for both backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from look_again.core.families import Grid
from look_again.core.inputs import process_images
from look_again.loading import Checkpoint
from look_again.serving.backend import Job
from look_again.text.chat import Message


@dataclass(frozen=True)
class EncodedPrompt:
    """token_ids: image i's token repeated once per visual token. grids: merged, (frames, rows, columns) per image.

    pixels: the image processor's tensors, empty without images.
    """

    token_ids: list[int]
    grids: list[Grid]
    pixels: Mapping[str, Any]

    @property
    def visual_tokens(self) -> int:
        return sum(frames * rows * columns for frames, rows, columns in self.grids)


def build_prompt(checkpoint: Checkpoint, job: Job, config: Any, max_context: int) -> EncodedPrompt:
    """The prompt of a job, prepared once for all jobs of its request.

    config: the model's. A model that was not trained on the format gets it as system text, before the caller's own.
    Raises ValueError for messages that make no prompt and for one that fills the context; texts that fill it however
    they are tokenised are refused before they are.
    """
    return job.prepared.get("prompt", lambda: _build(checkpoint, job, config, max_context))


def _build(checkpoint: Checkpoint, job: Job, config: Any, max_context: int) -> EncodedPrompt:
    least = count_least_tokens(checkpoint.tokenizer, job.messages)
    if least >= max_context:
        raise ValueError(f"the messages take at least {least} tokens; the model's context is {max_context}")
    images = process_images(checkpoint.image_processor, config, job.images)
    ids = checkpoint.renderer.render_prompt(job.messages, images.shown)
    if len(ids) >= max_context:
        raise ValueError(f"the messages and their images take {len(ids)} tokens; the model's context is {max_context}")
    return EncodedPrompt(ids, images.grids, images.tensors)


def count_least_tokens(tokenizer: Any, messages: Sequence[Message]) -> int:
    """Tokens that the messages' texts have at least: their bytes by those of the longest token.

    A text may lose two thirds of its bytes before it is tokenised, where its characters are composed (NFC).
    """
    contents = [message["content"] for message in messages]
    texts = [text for content in contents for text in ([content] if isinstance(content, str) else _texts(content))]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return size // (3 * _longest_token_bytes(tokenizer))


def _texts(content: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(part.get("text", "")) for part in content]


@lru_cache(maxsize=8)
def _longest_token_bytes(tokenizer: Any) -> int:
    """Of a byte-level vocabulary, which writes each byte as one character."""
    return max(map(len, tokenizer.get_vocab()))
