"""What Tabletop's endpoint answers: the truth, with a chosen share of errors and faults, in four roles.

A request holds all that an answer needs: the scene is read back from the image, the question from the prompt's text.
Every reply is a function of the request alone, so two runs that ask the same can be compared. Faults of transport (429,
500, stall, malformed) also depend on the attempt, and stop after a few: else no retry could ever get through.

Roles, by the model's name: "tabletop-teacher", "tabletop-judge", "tabletop-writer", "tabletop-model" (answers
questions), with anything behind, such as "tabletop-judge-2", which errs elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from look_again.images import ImageError, decode_base64, load_image, split_data_url
from look_again.scoring.extraction import score
from look_again.tabletop.oracle import REQUESTS, write_response
from look_again.tabletop.questions import Question
from look_again.tabletop.seeing import UnseenError, listed, parse_question, see
from look_again.tabletop.world import COLOURS, SHAPES, Scene, allowed_pairs
from look_again.text.grammar import close_tag, open_tag, parse

TRANSPORT_FAULTS = ("429", "500", "stall", "malformed")
REPLY_FAULTS = ("cut-off", "not-asked", "empty", "refusal")
FAULTS = (*TRANSPORT_FAULTS, *REPLY_FAULTS)
COMMON_FAULTS = ("429", "500", "stall", "malformed", "cut-off", "not-asked")
FAULTY_ATTEMPTS = 3  # of one request, at most
IMAGE_TOKENS = 36
MAX_PIXELS = 2**20  # of an image; Tabletop's are far smaller
_OPENED = re.compile(r"<(question|answer)>\n")


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """The behaviour of the endpoint. error_rate: share of replies that are wrong. faults: a share per kind of `FAULTS`.
    stall_s: how long a stalled reply takes. retry_after_s: what a 429 asks for. ValueError for values out of range."""

    error_rate: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    stall_s: float = 600.0
    retry_after_s: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.faults) - set(FAULTS):
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {', '.join(FAULTS)}")
        shares = [self.error_rate, sum(self.faults.values()), *self.faults.values()]
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("error_rate and each fault are shares from 0 to 1, and all faults together are at most 1")


@dataclass(frozen=True)
class Served:
    """A response: status, headers, body (a JSON value or a text) and the seconds to wait before it goes out."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


class BadRequestError(ValueError):
    """A request that this endpoint cannot answer."""


def respond(body: Mapping[str, Any], attempt: int, conduct: Conduct) -> Served:
    """The response to the body of a chat request that goes out for the `attempt`-th time (from 0)."""
    try:
        canonical = json.dumps(body, sort_keys=True, ensure_ascii=False)
    except RecursionError:
        return Served(400, _error("the body is nested too deep"))
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    fault = (
        _drawn(f"{conduct.seed}/{digest}/{attempt}", conduct, TRANSPORT_FAULTS) if attempt < FAULTY_ATTEMPTS else None
    )
    if fault == "429":
        waits = {"retry-after-ms": str(int(1000 * conduct.retry_after_s)), "retry-after": f"{conduct.retry_after_s:g}"}
        return Served(429, _error("too many requests"), waits)
    if fault == "500":
        return Served(500, _error("something broke"))
    try:
        text = reply_to(body, random.Random(f"reply/{conduct.seed}/{digest}"), conduct.error_rate)
    except (BadRequestError, UnseenError, ImageError) as error:
        return Served(400, _error(str(error)))
    if fault == "malformed":
        return Served(200, '{"choices": [{"mess')
    text, finish = _spoiled(text, _drawn(f"{conduct.seed}/{digest}", conduct, REPLY_FAULTS))
    return Served(200, _completion(body, text, finish, digest), delay_s=conduct.stall_s if fault == "stall" else 0.0)


def reply_to(body: Mapping[str, Any], rng: random.Random, error_rate: float) -> str:
    """The text of a reply. BadRequestError or UnseenError for requests that are not about Tabletop."""
    role = str(body.get("model", "")).removeprefix("tabletop-").split("-")[0]
    if role not in ROLES:
        raise BadRequestError(f"there is no model {body.get('model')!r}; there are {', '.join(models())}")
    text, image = _parts(body)
    scene = see(image)
    blocks = read_blocks(text)
    question_text = blocks.get("question", text).strip()
    return ROLES[role](
        scene, parse_question(question_text), question_text, blocks.get("answer", ""), rng, rng.random() < error_rate
    )


def read_blocks(text: str) -> dict[str, str]:
    """What stands between the tags of `<question>` and `<answer>` on lines of their own; the last of each counts.

    Linear in the text: an opened block that nothing closes is looked for once.
    """
    blocks: dict[str, str] = {}
    unclosed: set[str] = set()
    at = 0
    while opened := _OPENED.search(text, at):
        name, at = opened[1], opened.end()
        if name in unclosed:
            continue
        stop = text.find(f"\n</{name}>", at)
        if stop < 0:
            unclosed.add(name)
        else:
            blocks[name], at = text[at:stop], stop + len(f"\n</{name}>")
    return blocks


def models() -> list[str]:
    return [f"tabletop-{role}" for role in ROLES]


def _model(scene: Scene, question: Question, question_text: str, answer: str, rng: random.Random, wrong: bool) -> str:
    """An answer to a question, one in which mistakes are made and mended as the oracle does."""
    length = next((name for name, request in REQUESTS.items() if question_text.endswith(request)), "normal")
    text = write_response(rng, scene, question, allowed_pairs("heldout"), length=length, reflections=1).text
    return _concluding_wrongly(text, question, scene, rng) if wrong else text


def _writer(scene: Scene, question: Question, question_text: str, answer: str, rng: random.Random, wrong: bool) -> str:
    text = write_response(rng, scene, question, allowed_pairs("heldout"), reflections=1, error_rate=0.0).text
    return _concluding_wrongly(text, question, scene, rng) if wrong else text


def _teacher(scene: Scene, question: Question, question_text: str, answer: str, rng: random.Random, wrong: bool) -> str:
    """The given answer with a reflection; wrong: one that misreads the image, or a caption that was touched."""
    given = parse(answer, min_reflections=0)
    if not given.well_formed:
        raise BadRequestError("the answer is not in the grammar")
    fault = rng.choice(("image", "caption")) if wrong else None
    shown = _misread(scene, rng) if fault == "image" else scene
    rewritten = write_response(rng, shown, question, allowed_pairs("heldout"), reflections=1, error_rate=0.0).text
    reflection, truth = parse(rewritten).reflections[-1].text, question.conclude(shown.things)
    _, _, before = _text(answer, "REASONING").rpartition("\n")[2].partition("so ")
    verdict = "" if not before else ", as before" if before == truth else f", not {before}"
    section = f"{open_tag('REFLECTION')} {reflection.removesuffix(', as before')}{verdict}{close_tag('REFLECTION')}"
    text = answer.strip().replace(open_tag("CONCLUSION"), section + open_tag("CONCLUSION"))
    return text.replace(close_tag("CAPTION"), f" indeed{close_tag('CAPTION')}") if fault == "caption" else text


def _judge(scene: Scene, question: Question, question_text: str, answer: str, rng: random.Random, wrong: bool) -> str:
    """A verdict as JSON; wrong: the verdict on the answer is turned round."""
    truth = question.conclude(scene.things)
    conclusion = parse(answer).conclusion or ""
    evidence = next((s.text for s in reversed(parse(answer).reflections) if s.text), _text(answer, "REASONING"))
    false = listed(evidence) - {(thing.place, *thing.pair) for thing in scene.things}
    right, sound = score(conclusion, truth) != wrong, not false
    reason = "the image bears it out" if right else f"the conclusion is {conclusion!r}, the image says otherwise"
    if false:
        reason += f"; {' '.join(min(false))} is not there"
    words = {True: "correct", False: "incorrect"}
    return json.dumps({"answer": words[right], "reasoning": words[sound], "reason": reason})


Role = Callable[[Scene, Question, str, str, random.Random, bool], str]
ROLES: dict[str, Role] = {"model": _model, "teacher": _teacher, "judge": _judge, "writer": _writer}


def _concluding_wrongly(text: str, question: Question, scene: Scene, rng: random.Random) -> str:
    truth = question.conclude(scene.things)
    kinds = (COLOURS, SHAPES, ("yes", "no"), tuple(map(str, range(9))))
    others = [word for words in kinds if truth in words for word in words if word != truth]
    start = text.rindex(open_tag("CONCLUSION")) + len(open_tag("CONCLUSION"))
    return f"{text[:start]} {rng.choice(others)}{close_tag('CONCLUSION')}"


def _misread(scene: Scene, rng: random.Random) -> Scene:
    """The scene without one of its objects."""
    dropped = rng.randrange(len(scene.things))
    return Scene(scene.things[:dropped] + scene.things[dropped + 1 :])


def _text(answer: str, tag: str) -> str:
    section = parse(answer).get(tag)
    return section.text if section else ""


def _parts(body: Mapping[str, Any]) -> tuple[str, Image.Image]:
    """The text of the last user's message and its one image."""
    try:
        content = [message for message in body["messages"] if message["role"] == "user"][-1]["content"]
        text = "\n".join([part["text"] for part in content if part["type"] == "text"])
        (url,) = (part["image_url"]["url"] for part in content if part["type"] == "image_url")
        data = decode_base64(split_data_url(url))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BadRequestError("the last user's message must be a text with one picture as a data URL") from error
    return text, load_image(data, max_pixels=MAX_PIXELS)


def _drawn(key: str, conduct: Conduct, kinds: tuple[str, ...]) -> str | None:
    at = random.Random(f"fault/{key}").random()
    for kind in kinds:
        at -= conduct.faults.get(kind, 0.0)
        if at < 0:
            return kind
    return None


def _spoiled(text: str, fault: str | None) -> tuple[str, str]:
    """Text and finish reason of a reply with a fault."""
    if fault == "cut-off":
        return text[: len(text) // 2], "length"
    if fault == "not-asked":
        return "Here is what I think: it all looks plausible to me.", "stop"
    if fault == "refusal":
        return "I'm sorry, but I can't help with that.", "stop"
    return ("", "stop") if fault == "empty" else (text, "stop")


def _completion(body: Mapping[str, Any], text: str, finish: str, digest: str) -> dict[str, Any]:
    words = sum(_words(message.get("content")) for message in body["messages"])
    tokens_in, tokens_out = IMAGE_TOKENS + words, len(text.split())
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {
        "id": f"chatcmpl-{digest[:24]}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }


def _words(content: Any) -> int:
    """The words of a message: of its text, up to 4,000 characters, or of its parts' texts."""
    if isinstance(content, str):
        return len(content[:4000].split())
    texts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return sum(len(text.split()) for text in texts if isinstance(text, str))


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "tabletop", "code": None}}
