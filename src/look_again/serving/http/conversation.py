"""OpenAI's messages as the project's: texts and images in their order, images apart, by reference."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from look_again.serving.http.errors import invalid
from look_again.serving.http.image_parts import ImageReference
from look_again.serving.http.limits import Limits
from look_again.serving.http.schema import ImagePart, Message, TextPart


def conversation_of(messages: Sequence[Message], limits: Limits) -> tuple[list[dict[str, Any]], list[ImageReference]]:
    """Messages as `encode_chat` takes them, and their images in order.

    An assistant's `reasoning_content` is left out, as reasoning models are commonly shown earlier turns. ApiError 400
    for more images or text than the limits allow.
    """
    images: list[ImageReference] = []
    taken = [
        {"role": _role(message), "content": _content(message.content, f"messages[{place}].content", images)}
        for place, message in enumerate(messages)
    ]
    if len(images) > limits.images:
        message = f"{len(images)} images were sent; this server takes at most {limits.images} in a request"
        raise invalid(message, images[limits.images].param, "too_many_images")
    characters = sum(_characters(message["content"]) for message in taken)
    if characters > limits.text_characters:
        message = f"the messages have {characters} characters; this server takes at most {limits.text_characters}"
        raise invalid(message, "messages", "context_length_exceeded")
    return taken, images


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _content(
    content: str | Sequence[TextPart | ImagePart], param: str, images: list[ImageReference]
) -> str | list[dict[str, str]]:
    """A message's content; its images are added to `images`."""
    if isinstance(content, str):
        return content
    parts: list[dict[str, str]] = []
    for place, part in enumerate(content):
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        else:
            url = part.image_url
            images.append(ImageReference(url.url, url.detail == "low", f"{param}[{place}].image_url.url"))
            parts.append({"type": "image"})
    return parts


def _characters(content: str | Sequence[dict[str, str]]) -> int:
    return len(content) if isinstance(content, str) else sum(len(part.get("text", "")) for part in content)


def key_of(messages: Sequence[Message]) -> str:
    """The same for requests that begin alike: a digest of everything up to the first user's turn, images included."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(message.model_dump_json(include={"role", "content"}).encode())
        if message.role == "user":
            break
    return digest.hexdigest()
