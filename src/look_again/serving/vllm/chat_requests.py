"""A sequence as a request to `/v1/chat/completions`, for servers without the token endpoint whose users are trusted.

The server makes the tokens here: a text that spells a control token would become one, so such texts are refused, and
an answer that is gone on with is tokenised anew from its text, perhaps otherwise than it was sampled. Rows cannot be
chosen on this way, since pixels and features do not go into one request. The paper serves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from look_again.core.sequence import DecodedSequence
from look_again.core.slots import Provenance
from look_again.loading import Checkpoint
from look_again.serving.backend import BackendError, Job, RefusedError
from look_again.serving.vllm.server import Server
from look_again.serving.vllm.token_requests import Picture, Request, shows_of
from look_again.text.chat import Message

CHAT = "/v1/chat/completions"


def check_texts(tokenizer: Any, messages: Sequence[Message]) -> None:
    """RefusedError for a text that holds the string of an added token."""
    forged = sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip())
    for message in messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        for token in forged:
            if any(token in text for text in texts):
                raise RefusedError(
                    f"this server's vLLM cannot keep {token!r} in a text apart from the token of that name: leave it "
                    "out, or serve vLLM with its token endpoint (--enable-scale-out)"
                )


def by_chat(
    checkpoint: Checkpoint, job: Job, row: DecodedSequence, pictures: Sequence[Picture], server: Server
) -> Request:
    """The conversation and the answer so far, to be gone on with. BackendError where that ends in half a character."""
    images = iter(pictures)
    messages = [_message(message, images, server) for message in checkpoint.renderer.add_instructions(job.messages)]
    answer = _answer(checkpoint.tokenizer, row, pictures, server)
    options: dict[str, Any] = {"model": server.model}
    if answer:
        messages.append({"role": "assistant", "content": answer})
        options |= {"continue_final_message": True, "add_generation_prompt": False}
    uuids = {picture.uuid for picture in pictures if picture.uuid in server.known}
    return Request(CHAT, {"messages": messages, **options}, frozenset(uuids), chat=True)


def _message(message: Message, images: Any, server: Server) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, str):
        content = [
            _image(next(images), server) if part["type"] == "image" else {"type": "text", "text": part["text"]}
            for part in content
        ]
    return {"role": message["role"], "content": content}


def _image(picture: Picture, server: Server) -> dict[str, Any]:
    url = None if picture.uuid in server.known else picture.url
    return {"type": "image_url", "image_url": {"url": url}, "uuid": picture.uuid}


def _answer(tokenizer: Any, row: DecodedSequence, pictures: Sequence[Picture], server: Server) -> list[dict[str, Any]]:
    """The answer so far as content parts: texts and, between them, the images that were put back."""
    place = sum(provenance == Provenance.PROMPT for provenance in row.builder.provenance)
    parts = list[dict[str, Any]]()
    for show in [show for show in shows_of(row) if show.offset >= place]:
        parts += _text(tokenizer, row.builder.token_ids[place : show.offset - 1])  # its delimiters are the template's
        parts.append(_image(pictures[show.image], server))
        place = show.offset + show.length + 1
    return parts + _text(tokenizer, row.builder.token_ids[place:])


def _text(tokenizer: Any, ids: Sequence[int]) -> list[dict[str, Any]]:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if text.endswith("\ufffd"):
        raise BackendError("the answer broke off within a character and cannot be gone on with by chat")
    return [{"type": "text", "text": text}] if text else []
