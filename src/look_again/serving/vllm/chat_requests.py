"""A sequence as a request to `/v1/chat/completions`, for servers without the token endpoint whose users are trusted.

The server makes the tokens here: a text that spells a control token would become one, so such texts are refused, and
an answer that is resumed is tokenised anew from its text, perhaps otherwise than it was sampled. Visual tokens cannot
be chosen on this way, since pixels and features do not go into one request. The paper serves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from look_again.clients.sequence_requests import find_image_runs
from look_again.clients.vllm_requests import CHAT, GenerateRequest, SentImage
from look_again.core.sequence import DecodedSequence
from look_again.core.slots import Provenance
from look_again.loading import Checkpoint
from look_again.serving.backend import BackendError, Job, RefusedError
from look_again.serving.vllm.servers import UpstreamServer
from look_again.text.chat import Message


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


def build_chat_request(
    checkpoint: Checkpoint, job: Job, sequence: DecodedSequence, sent: Sequence[SentImage], server: UpstreamServer
) -> GenerateRequest:
    """The conversation and the answer so far, to be resumed. BackendError where that ends in half a character."""
    images = iter(sent)
    messages = [_message(message, images, server) for message in checkpoint.renderer.add_instructions(job.messages)]
    answer = _answer(checkpoint.tokenizer, sequence, sent, server)
    options: dict[str, Any] = {"model": server.model}
    if answer:
        messages.append({"role": "assistant", "content": answer})
        options |= {"continue_final_message": True, "add_generation_prompt": False}
    uuids = {image.uuid for image in sent if image.uuid in server.known}
    return GenerateRequest(CHAT, {"messages": messages, **options}, frozenset(uuids), chat=True)


def _message(message: Message, images: Any, server: UpstreamServer) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, str):
        content = [
            _image(next(images), server) if part["type"] == "image" else {"type": "text", "text": part["text"]}
            for part in content
        ]
    return {"role": message["role"], "content": content}


def _image(image: SentImage, server: UpstreamServer) -> dict[str, Any]:
    url = None if image.uuid in server.known else image.url
    return {"type": "image_url", "image_url": {"url": url}, "uuid": image.uuid}


def _answer(
    tokenizer: Any, sequence: DecodedSequence, sent: Sequence[SentImage], server: UpstreamServer
) -> list[dict[str, Any]]:
    """The answer so far as content parts: texts and, between them, the images that were put back."""
    place = sum(provenance == Provenance.PROMPT for provenance in sequence.builder.provenance)
    parts = list[dict[str, Any]]()
    for run in [run for run in find_image_runs(sequence) if run.offset >= place]:
        parts += _text(
            tokenizer, sequence.builder.token_ids[place : run.offset - 1]
        )  # its delimiters are the template's
        parts.append(_image(sent[run.image], server))
        place = run.offset + run.length + 1
    return parts + _text(tokenizer, sequence.builder.token_ids[place:])


def _text(tokenizer: Any, ids: Sequence[int]) -> list[dict[str, Any]]:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if text.endswith("\ufffd"):
        raise BackendError("the answer broke off within a character and cannot be gone on with by chat")
    return [{"type": "text", "text": text}] if text else []
