"""Prompts as token ids, put together so that a user's text can never turn into control tokens or tags.

Rendering a chat template to one string and tokenising that lets a user forge the end of a turn, an image or a
tag by typing it: forged image tokens make image features and image tokens disagree, and a forged REFLECTION
tag would trigger a re-insertion of visual tokens. Here only what the template itself writes may become added
tokens; every user text stays ordinary pieces. On texts that hold no such strings the ids are those of
`tokenizer.apply_chat_template`, with one departure: templates that trim or inspect texts see a placeholder,
so texts stay exactly as given. The paper does not discuss prompts; the answer with its tags is not a message
here but is assembled by the grammar.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from look_again.text.grammar import split_at_tags

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles accepted: templates write the role into the prompt as it stands, so a free one could forge a turn."""

LONG_CHARACTERS = 10_000
"""A text of so many is encoded so that other threads run meanwhile."""

Message = Mapping[str, Any]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of `text` with no added token recognised: tags and control tokens in it become plain pieces.

    Equals `tokenizer.encode(text, add_special_tokens=False)` for texts that hold no added token's string.
    Raises ValueError when the tokenizer has no fast backend, for text that is not valid Unicode (lone
    surrogates), and when the tokenizer's model makes an added token out of plain text.
    """
    return _encode_plain(tokenizer, text, at_start=True)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    shown: Sequence[int] | Sequence[str],
    *,
    image_token: str,
    placeholder: str | None = None,
    video_placeholder: str | None = None,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Token ids of a conversation, with image i's `image_token` repeated `shown[i]` times.

    In families that show an image by more than its tokens, `shown` are the texts that stand for the images; they are
    the family's own, so added tokens in them count. Videos stand among the images, each by its text. placeholder: what
    the template writes for an image, None for `image_token`. video_placeholder: what it writes for a video.

    Messages are `{"role", "content"}` with content a string or a list of `{"type": "text", "text": …}`,
    `{"type": "image"}` and, with a `video_placeholder`, `{"type": "video"}`. Raises ValueError when images and counts
    disagree, the template drops a text or an image or refuses the messages, the tokenizer has no chat template,
    `image_token` is not one of its added tokens, or a message has a role, key or content outside this shape; and as
    `encode_text` does.
    """
    image_id = _image_id(tokenizer, image_token)
    hidden = _Hidden(videos=video_placeholder is not None)
    placeholders = [hidden.message(message) for message in messages]
    _check_counts(shown, hidden.n_images)
    parts = hidden.split(_render(tokenizer, placeholders, add_generation_prompt))
    counts = [image for image in shown if isinstance(image, int)]
    texts = [image for image in shown if isinstance(image, str)]
    if texts:
        known = [placeholder or image_token, *([video_placeholder] if video_placeholder else [])]
        parts[::2] = _write_images(parts[::2], known, texts)
    pieces = _merge_texts(_pieces(tokenizer, parts, hidden.texts))
    written = pieces.count(image_id)
    if not texts and written != hidden.n_images:
        raise ValueError(f"the chat template writes {written} {image_token!r} for {hidden.n_images} images")
    repeats = iter(counts or [1] * written)
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, str):
            ids += _encode_plain(tokenizer, piece, at_start=not ids)
        else:
            ids += [piece] * (next(repeats) if piece == image_id else 1)
    return ids


def _write_images(template_texts: Sequence[str], placeholders: Sequence[str], images: Sequence[str]) -> list[str]:
    """The template's texts with its placeholders replaced by the texts of images and videos, in order."""
    known = re.compile("|".join(map(re.escape, sorted(placeholders, key=len, reverse=True))))
    written = sum(len(known.findall(text)) for text in template_texts)
    if written != len(images):
        names = " and ".join(map(repr, placeholders))
        raise ValueError(f"the chat template writes {written} {names} for {len(images)} images")
    following = iter(images)
    return [known.sub(lambda found: next(following), text) for text in template_texts]


def encode_response(
    tokenizer: PreTrainedTokenizerBase, text: str, tag_ids: Mapping[str, int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and character spans of a response: tags of the grammar become their tokens, all else plain pieces.

    Raises ValueError as `encode_text` does.
    """
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    cursor = 0
    for part in split_at_tags(text):
        if part in tag_ids:
            ids.append(tag_ids[part])
            spans.append((cursor, cursor + len(part)))
        else:
            part_ids, part_spans = _encode_with_spans(tokenizer, part, at_start=not ids)
            ids += part_ids
            spans += [(cursor + start, cursor + stop) for start, stop in part_spans]
        cursor += len(part)
    return ids, spans


def decode_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a response: tags kept (they are ordinary), special tokens removed, spaces untouched."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str, *, at_start: bool) -> list[int]:
    encoding, skipped = _plain_encoding(tokenizer, text, at_start=at_start)
    ids: list[int] = encoding.ids
    return ids[1:] if skipped else ids


def _encode_with_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, *, at_start: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character spans."""
    encoding, skipped = _plain_encoding(tokenizer, text, at_start=at_start, spans=True)
    first = 1 if skipped else 0
    return encoding.ids[first:], [(start - skipped, stop - skipped) for start, stop in encoding.offsets[first:]]


def _plain_encoding(
    tokenizer: PreTrainedTokenizerBase, text: str, *, at_start: bool, spans: bool = False
) -> tuple[Any, int]:
    """A text's encoding by the tokenizer's own model, with none of its added tokens, and characters to skip with it.

    Tokenizers of the SentencePiece kind put a space before a text's first piece only. Inside a prompt
    (`at_start` false) the text therefore follows a throw-away token, whose random name no text can hold. Other threads
    need not wait for a long text: one of a million characters takes a second.
    """
    if not isinstance(text, str):
        raise ValueError(f"a text must be a string, got {type(text).__name__}")
    plain = _without_added_tokens(tokenizer)
    marker = "" if at_start else f"<{secrets.token_hex(16)}>"
    if marker:
        plain.add_special_tokens([AddedToken(marker, normalized=False)])
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the text is not valid Unicode: {error}") from error
    if len(text) < LONG_CHARACTERS:
        encoding = plain.encode(marker + text, add_special_tokens=False)
    else:  # batches alone release the interpreter's lock
        encode = plain.encode_batch if spans else plain.encode_batch_fast
        (encoding,) = encode([marker + text], add_special_tokens=False)
    if forged := _control_ids(tokenizer).intersection(encoding.ids[bool(marker) :]):
        token = tokenizer.convert_ids_to_tokens(min(forged))
        raise ValueError(
            f"this tokenizer makes the control token {token!r} out of plain text; it cannot be used safely"
        )
    return encoding, len(marker)


def _without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer's model and rules alone. They are shared, not copied, so this takes microseconds."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(f"{type(tokenizer).__name__} has no fast backend; load the fast tokenizer")
    plain = Tokenizer(backend.model)
    plain.normalizer = backend.normalizer
    plain.pre_tokenizer = backend.pre_tokenizer
    plain.decoder = backend.decoder
    return plain


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of added tokens, without the runs of blanks that some tokenizers (Gemma's) list as added."""
    added = tokenizer.added_tokens_decoder.items()
    return {id for id, token in added if token.content.replace("▁", " ").strip()}


def _image_id(tokenizer: PreTrainedTokenizerBase, image_token: str) -> int:
    added = {token.content: id for id, token in tokenizer.added_tokens_decoder.items()}
    if image_token not in added:
        raise ValueError(f"image token {image_token!r} is not an added token of this tokenizer")
    return added[image_token]


@dataclass
class _Hidden:
    """Replaces texts by placeholders no text can contain, keeping the texts and counting the images."""

    key: str = field(default_factory=lambda: f"text{secrets.token_hex(16)}n")
    texts: list[str] = field(default_factory=list)
    n_images: int = 0
    videos: bool = False

    def message(self, message: Message) -> dict[str, Any]:
        role, content = _role_and_content(message)
        if isinstance(content, list | tuple):
            return {"role": role, "content": [self.item(item) for item in content]}
        return {"role": role, "content": self.text(content)}

    def item(self, item: object) -> dict[str, str]:
        match item:
            case {"type": "text", "text": text, **rest} if not rest:
                return {"type": "text", "text": self.text(text)}
            case {"type": "image", **rest} if set(rest) <= {"image"}:
                self.n_images += 1
                return {"type": "image"}
            case {"type": "video", **rest} if not rest and self.videos:
                self.n_images += 1
                return {"type": "video"}
        raise ValueError(f"content items are {{'type': 'text', 'text': …}} or {{'type': 'image'}}, got {_short(item)}")

    def text(self, text: object) -> str:
        if not isinstance(text, str):
            raise ValueError(f"a text must be a string, got {_short(text)}")
        self.texts.append(text)
        return f"{self.key}{len(self.texts) - 1}x"

    def split(self, rendered: str) -> list[str]:
        """Template texts (even places) and the indices of the texts between them (odd places)."""
        parts = re.split(rf"{self.key}(\d+)x", rendered)
        dropped = set(range(len(self.texts))) - {int(index) for index in parts[1::2]}
        if dropped:
            raise ValueError(f"the chat template drops the text {_short(self.texts[min(dropped)])}")
        return parts


def _short(value: object) -> str:
    return repr(value)[:200]


def _role_and_content(message: Message) -> tuple[str, Any]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise ValueError(f"a message has the keys 'role' and 'content' and no others, got {_short(message)}")
    if message["role"] not in ROLES:
        raise ValueError(f"role must be one of {ROLES}, got {_short(message['role'])}")
    return message["role"], message["content"]


def _check_counts(shown: Sequence[int] | Sequence[str], n_images: int) -> None:
    if len(shown) != n_images:
        raise ValueError(f"{len(shown)} visual token counts for {n_images} images in the messages")
    if any(isinstance(count, int) and count < 1 for count in shown):
        raise ValueError(f"every image needs at least one visual token, got counts {list(shown)}")


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise ValueError("this tokenizer has no chat template; set tokenizer.chat_template")
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # a template is a program of the checkpoint's: it raises anything
        raise ValueError(f"the chat template refuses these messages: {error}") from error
    assert isinstance(rendered, str)
    return rendered


def _pieces(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str], texts: Sequence[str]) -> Iterator[int | str]:
    """`parts` alternates template and text index; yield the template's added tokens as ids, else text."""
    for position, part in enumerate(parts):
        if position % 2:
            yield texts[int(part)]
        else:
            yield from _split_added_tokens(tokenizer, part)


def _split_added_tokens(tokenizer: PreTrainedTokenizerBase, template_text: str) -> Iterator[int | str]:
    control_ids = _control_ids(tokenizer)
    encoding = tokenizer(template_text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    cursor = 0
    for id, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        if id in control_ids:
            yield template_text[cursor:start]
            yield id
            cursor = end
    yield template_text[cursor:]


def _merge_texts(pieces: Iterator[int | str]) -> list[int | str]:
    """Join neighbours, so that template and user text are tokenised across their border as one string is."""
    merged: list[int | str] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        else:
            merged.append(piece)
    return [piece for piece in merged if piece != ""]
