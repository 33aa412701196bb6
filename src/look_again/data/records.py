"""One record of anybody's data set becomes a `Sample`, or an error that names the row, the field and the remedy.

The shapes are those in use: TRL's `prompt`/`completion`, OpenAI's `messages`, LLaVA's `conversations`, and our own flat
`question`/`answer`. Where they leave something open, this file decides:
- a field that is None or empty is absent (tables fill every column of every row);
- one question and at most one response: further turns and system messages are refused, never dropped;
- images come before the question; `<image>` marks are counted, then removed from the question;
- a path must stay inside the folder of the data, judged by its text (a link inside the folder may lead out): a
  downloaded file must not be able to name any image on the machine. `Source(images=…)` names another folder;
- nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from look_again.data.fields import check_text, option_texts, parse_image, plain, reference_text, short, silent_spans
from look_again.data.image_files import ImageSource
from look_again.data.sample import Sample, SampleError

Record = Mapping[str, Any]

IMAGE_FIELDS = ("images", "image", "file_name", "file_names")
REFERENCE_FIELDS = ("reference", "answer", "solution")
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}

_MARK = "<image>"
_MARKS = re.compile(r"(?:(?<!\s)\s+)?<image>(?:\s*<image>)*\s*")  # the look-behind keeps long runs of blanks linear


@dataclass(frozen=True)
class _Exchange:
    """A question and its response. parts: one entry per image part, None where the image lies beside the messages."""

    question: str
    response: str | None
    parts: tuple[Any, ...] = ()


def sample_from_record(record: Record, *, index: int, source: str, split: str = "train", base: Path | None) -> Sample:
    """The sample that a record describes; `index` names one without an id, `base` is where its image paths start.

    Shapes, the first found: `conversations` [{from, value}]; `messages` [{role, content}]; `prompt` with `completion`,
    texts or messages; `question` or `problem` with `response`. Beside any: `images` or `image` or `file_name`,
    `options`, `id`, and one of `reference`, `answer`, `solution` (the last with `prompt` only, where TRL writes it).

    Raises SampleError for a record without a question, fields of odd types, several turns, a system message, images
    that disagree with their placeholders, and image paths outside `base`.
    """
    record = {field: plain(value) for field, value in record.items()}
    row_id = _row_id(record, f"{source}-{index}")
    exchange = _read_exchange(record, row_id)
    question, marks = _without_marks(exchange.question)
    options = option_texts(record.get("options"), row_id)
    return Sample(
        id=row_id,
        images=_images(record, exchange.parts, marks, row_id, base),
        question=question,
        options=options,
        reference=_reference(record, bool(options), row_id),
        response=exchange.response,
        source=source,
        split=split,
        silent=silent_spans(record.get("silent"), row_id),
    )


def samples_from_records(
    records: Iterable[Record | SampleError], *, source: str, split: str, base: Path | None
) -> Iterator[Sample | SampleError]:
    """Each record's sample, or its SampleError as a value, so that one bad record does not end the stream."""
    for index, record in enumerate(records):
        if isinstance(record, SampleError):
            yield record
            continue
        try:
            yield sample_from_record(record, index=index, source=source, split=split, base=base)
        except SampleError as error:
            yield error


def _row_id(record: Record, default: str) -> str:
    if _absent(value := record.get("id")):
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SampleError(default, f"id is {short(value)}: use a text or a whole number, or leave it out")
    return check_text(str(value), default, "id")


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, Sized) and len(value) == 0)


def _read_exchange(record: Record, row_id: str) -> _Exchange:
    for field in ("conversations", "messages"):
        if not _absent(turns := record.get(field)):
            return _from_turns(turns, row_id, field)
    if record.get("prompt") is not None:
        return _from_prompt(record["prompt"], record.get("completion"), row_id)
    for field in ("question", "problem"):
        if record.get(field) is not None:
            response = record.get("response")
            answer = None if response is None else check_text(response, row_id, "response")
            return _Exchange(check_text(record[field], row_id, field), answer)
    keys = ", ".join(sorted(map(str, record)))[:200]
    raise SampleError(row_id, f"no question, prompt, messages or conversations among its fields ({keys}): add one")


def _from_prompt(prompt: object, completion: object, row_id: str) -> _Exchange:
    if isinstance(prompt, str) and isinstance(completion, str | None):
        answer = None if completion is None else check_text(completion, row_id, "completion")
        return _Exchange(check_text(prompt, row_id, "prompt"), answer)
    if isinstance(prompt, list | tuple) and isinstance(completion, list | tuple | None):
        return _from_turns([*prompt, *(completion or ())], row_id, "prompt")
    raise SampleError(
        row_id, f"prompt is {short(prompt)}, completion {short(completion)}: make both texts or both messages"
    )


def _from_turns(turns: object, row_id: str, field: str) -> _Exchange:
    """A user's message and, if there is one, the assistant's."""
    if not isinstance(turns, list | tuple):
        raise SampleError(row_id, f"{field} is {short(turns)}: a list of messages is needed")
    messages = [_message(turn, row_id, f"{field}[{i}]") for i, turn in enumerate(turns)]
    roles = [role for role, _, _ in messages]
    if roles not in (["user"], ["user", "assistant"]):
        advice = "split it into one row per question" if len(roles) > 2 else "start with the question"
        raise SampleError(row_id, f"{field} has the turns {', '.join(roles[:6])}; a row is user, assistant: {advice}")
    _, question, parts = messages[0]
    response = messages[1][1] if len(messages) > 1 else None
    if len(messages) > 1 and messages[1][2]:
        raise SampleError(row_id, f"{field}[1] has a picture in the response: leave it out")
    return _Exchange(question, response, tuple(parts))


def _message(turn: object, row_id: str, field: str) -> tuple[str, str, list[Any]]:
    """Role, text and image parts of one message."""
    if not isinstance(turn, Mapping):
        raise SampleError(row_id, f"{field} is {short(turn)}: a message with role and content is needed")
    role = turn.get("role") or turn.get("from")
    if role in ("system", "developer"):
        raise SampleError(
            row_id, f"{field} is a {role} message, which a row has no place for: put it into the question"
        )
    if not isinstance(role, str) or role not in ROLES:
        raise SampleError(row_id, f"{field} is said by {short(role)}: use user and assistant, or human and gpt")
    content = turn["content"] if turn.get("content") is not None else turn.get("value")
    if not isinstance(content, list | tuple):
        return ROLES[role], check_text(content, row_id, field), []
    texts: list[str] = []
    images: list[Any] = []
    for i, part in enumerate(content):
        _take_part(part, texts, images, row_id, f"{field}.content[{i}]")
    return ROLES[role], "\n".join(texts), images


def _take_part(part: object, texts: list[str], images: list[Any], row_id: str, field: str) -> None:
    """Add a content part to the texts or images so far. Keys that are None are a table's, not the message's."""
    given = {k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else {}
    kind = given.get("type")
    if kind == "text":
        texts.append(check_text(given.get("text"), row_id, field))
    elif kind == "image":
        images.append(next((given[key] for key in ("image", "path", "url") if key in given), None))
    elif kind == "image_url":
        link = given.get("image_url")
        images.append((link.get("url") if isinstance(link, Mapping) else link) or "")
    else:
        raise SampleError(row_id, f"{field} is {short(part)}: parts are of type text, image or image_url")


def _without_marks(text: str) -> tuple[str, int]:
    """The text without `<image>` and how often it stood there; around one, a line break or a blank is left."""
    if not (marks := text.count(_MARK)):
        return text, 0
    return _MARKS.sub(lambda match: "\n" if "\n" in match[0] else " ", text).strip(), marks


def _images(
    record: Record, parts: tuple[Any, ...], marks: int, row_id: str, base: Path | None
) -> tuple[ImageSource, ...]:
    inside = [part for part in parts if part is not None]
    given = [field for field in IMAGE_FIELDS if not _absent(record.get(field))]
    if len(given) + bool(inside) > 1:
        where = [*given, *(["the messages"] if inside else [])]
        raise SampleError(row_id, f"pictures in {' and '.join(where)}: keep one place")
    values: Any = record[given[0]] if given else inside
    if not isinstance(values, list | tuple):
        values = [values]
    placeholders = len(parts) + marks
    if placeholders and placeholders != len(values):
        raise SampleError(row_id, f"{placeholders} image placeholders for {len(values)} images: make the numbers agree")
    field = given[0] if given else "messages"
    return tuple(parse_image(value, row_id, f"{field}[{i}]", base) for i, value in enumerate(values))


def _reference(record: Record, has_options: bool, row_id: str) -> str | None:
    fields = REFERENCE_FIELDS if record.get("prompt") is not None else REFERENCE_FIELDS[:2]
    given = {field: record[field] for field in fields if record.get(field) is not None}
    texts = {reference_text(value, has_options, row_id, field) for field, value in given.items()}
    if len(texts) > 1:
        raise SampleError(row_id, f"{' and '.join(given)} disagree: keep one")
    return texts.pop() if texts else None
