"""The oracle of Tabletop: responses in the grammar, with planted mistakes that looking again can mend.

SUMMARY states a plan, CAPTION lists the objects, REASONING goes through that list with marks and a running state ("b3
red ball yes 2"), and each REFLECTION goes through the image again. Mistakes are planted in CAPTION (a hallucinated
object, a wrong colour, a wrong shape) and, more rarely, in REASONING; what follows from a mistake is consistent with
it. Reflections and CONCLUSION are always right. Planted characters are reported, so that training need not learn to
make mistakes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from look_again.tabletop.questions import Question
from look_again.tabletop.world import PLACES, Pair, Scene, Thing
from look_again.text.grammar import close_tag, open_tag

LENGTHS = ("brief", "normal", "long")
REQUESTS = {"brief": "Answer briefly.", "normal": "Think step by step.", "long": "Think at length."}
REFLECTIONS = {"brief": (1,), "normal": (1, 1, 2), "long": (2, 3)}
CROWDED = 5  # objects from which an image tempts to a cursory reflection
NO_QUESTION, NO_IMAGE = "no question that I learned", "no image that I learned"
REASONING_SLIP_SHARE = 0.25  # of the error rate: mistakes that REASONING adds to those of CAPTION


@dataclass(frozen=True)
class Mistake:
    """A planted mistake: `kind` is "object", "colour" or "shape"; `said` is what was written at `place`."""

    kind: str
    place: str
    said: Thing


@dataclass
class Written:
    """A response: its text, character spans of planted mistakes, and what was planted in CAPTION."""

    text: str = ""
    planted_spans: list[tuple[int, int]] = field(default_factory=list)
    mistakes: tuple[Mistake, ...] = ()
    caption: tuple[Thing, ...] = ()

    def add(self, text: str, *, planted: bool = False) -> None:
        if planted:
            self.planted_spans.append((len(self.text), len(self.text) + len(text)))
        self.text += text


def write_response(
    rng: random.Random,
    scene: Scene,
    question: Question,
    pairs: Sequence[Pair],
    *,
    length: str = "normal",
    reflections: int | None = None,
    error_rate: float = 0.2,
    cursory: float = 0.0,
) -> Written:
    """A full response. `error_rate` is the chance of a mistake per object; `reflections` None draws 1 to 3.

    `cursory`: the chance, on images of CROWDED objects or more, that the last reflection names the answer without
    going through the image. ValueError for an unknown length or a rate outside 0..1.
    """
    if length not in LENGTHS:
        raise ValueError(f"unknown length {length!r}; known: {', '.join(LENGTHS)}")
    if not 0 <= error_rate <= 1 or not 0 <= cursory <= 1:
        raise ValueError(f"error_rate and cursory are probabilities, not {error_rate} and {cursory}")
    count = rng.choice(REFLECTIONS[length]) if reflections is None else reflections
    caption, mistakes = plant(rng, scene, pairs, error_rate)
    reasoning = _slip(rng, caption, pairs, error_rate * REASONING_SLIP_SHARE)
    after_caption = sum(rng.random() < 0.5 for _ in range(max(0, count - 1)))
    out = Written(mistakes=mistakes, caption=tuple(caption))
    write_section(out, "SUMMARY", lambda: out.add(f" {question.goal}"))
    write_section(out, "CAPTION", lambda: write_list(out, caption, scene.things))
    for _ in range(after_caption):
        _early_reflection(out, rng, question, scene)
    write_section(out, "REASONING", lambda: _reason(out, question, reasoning, caption, length))
    for _ in range(max(0, count - 1) - after_caption):
        _early_reflection(out, rng, question, scene)
    if count > 0:
        before = None if length == "brief" else question.conclude(reasoning)
        skims = cursory > 0 and len(scene.things) >= CROWDED and rng.random() < cursory
        looked = [] if skims else scene.things
        write_section(out, "REFLECTION", lambda: write_reflection(out, question, looked, before, scene.things))
    answer = question.conclude(scene.things)
    write_section(out, "CONCLUSION", lambda: out.add(f" {answer}"))
    return out


def write_unanswered(goal: str | None, scene: Scene | None, caption: Sequence[Thing], answer: str) -> Written:
    """A response without an answer: to a question that is none of Tabletop's, or about an image that is none of its.

    goal: of a question that is known, None for one that is not. scene: None for a foreign image; else `caption` is what
    CAPTION lists of it, with mistakes or without. answer: what CONCLUSION says.
    """
    out = Written(caption=tuple(caption))
    things = scene.things if scene else ()
    seen = out.add if scene is None else None
    write_section(out, "SUMMARY", lambda: out.add(f" {goal or NO_QUESTION}"))
    write_section(out, "CAPTION", lambda: seen(f" {NO_IMAGE}") if seen else write_list(out, caption, things))
    write_section(out, "REASONING", lambda: out.add(" look at each object"))
    write_section(out, "REFLECTION", lambda: seen(f" {NO_IMAGE}") if seen else write_list(out, things, things))
    write_section(out, "CONCLUSION", lambda: out.add(f" {answer}"))
    return out


def plant(
    rng: random.Random, scene: Scene, pairs: Sequence[Pair], rate: float, places: Sequence[str] = PLACES
) -> tuple[list[Thing], tuple[Mistake, ...]]:
    """The list that CAPTION will give, with mistakes, and the mistakes. places: all of the table's, in order."""
    mistakes: list[Mistake] = []
    listed = []
    for thing in scene.things:
        said = _corrupt(rng, thing, pairs) if rng.random() < rate else thing
        if said != thing:
            mistakes.append(Mistake("colour" if said.colour != thing.colour else "shape", thing.place, said))
        listed.append(said)
    if rng.random() < min(1.0, 2 * rate):
        free = sorted(set(places) - {thing.place for thing in scene.things})
        colour, shape = rng.choice(list(pairs))
        invented = Thing(rng.choice(free), colour, shape)
        mistakes.append(Mistake("object", invented.place, invented))
        listed.append(invented)
    return sorted(listed, key=lambda thing: places.index(thing.place)), tuple(mistakes)


def _corrupt(rng: random.Random, thing: Thing, pairs: Sequence[Pair]) -> Thing:
    """The object with a wrong colour or a wrong shape, never a pair that may not occur."""
    wrong_colours = [replace(thing, colour=c) for c, s in pairs if s == thing.shape and c != thing.colour]
    wrong_shapes = [replace(thing, shape=s) for c, s in pairs if c == thing.colour and s != thing.shape]
    return rng.choice(rng.choice([wrong_colours, wrong_shapes]))


def _slip(rng: random.Random, things: Sequence[Thing], pairs: Sequence[Pair], rate: float) -> list[Thing]:
    return [_corrupt(rng, thing, pairs) if rng.random() < rate else thing for thing in things]


def write_section(out: Written, tag: str, fill: Callable[[], None]) -> None:
    """A section of the grammar around what `fill` writes."""
    out.add(open_tag(tag))
    fill()
    out.add(close_tag(tag))


def write_list(out: Written, things: Sequence[Thing], truth: Sequence[Thing], question: Question | None = None) -> None:
    """`things` as " a2 red ball, ...", with the question's marks and states if one is given.

    What differs from `truth` is planted.
    """
    by_place = {thing.place: thing for thing in truth}
    marks = question.marks(things) if question else [("", "", "")] * len(things)
    for i, (thing, (place_mark, colour_mark, shape_mark)) in enumerate(zip(things, marks, strict=True)):
        true = by_place.get(thing.place)
        out.add(f" {thing.place}", planted=true is None)
        out.add(_spaced(place_mark))
        out.add(f" {thing.colour}", planted=true is None or true.colour != thing.colour)
        out.add(_spaced(colour_mark))
        out.add(f" {thing.shape}", planted=true is None or true.shape != thing.shape)
        out.add(_spaced(shape_mark))
        if question:
            out.add(f" {question.states(things)[i]}")
        if i + 1 < len(things):
            out.add(",")


def _spaced(mark: str) -> str:
    return f" {mark}" if mark else ""


def _reason(out: Written, question: Question, things: list[Thing], caption: list[Thing], length: str) -> None:
    if length == "brief":
        out.add(" look at each object")
        return
    for i in range(1 if length == "normal" else 2):
        out.add(", again" if i else "")
        write_list(out, things, caption if i == 0 else things, question)
        out.add(f", so {question.conclude(things)}")


def write_reflection(
    out: Written, question: Question, looked: Sequence[Thing], before: str | None, things: Sequence[Thing]
) -> None:
    """The evidence in the image, the answer it gives and, where REASONING gave one, whether that one holds."""
    answer = question.conclude(things)
    write_list(out, looked, looked, question)
    out.add(f", so {answer}" if looked else f" so {answer}")
    if before is not None:
        out.add(", as before" if before == answer else f", not {before}")


def _early_reflection(out: Written, rng: random.Random, question: Question, scene: Scene) -> None:
    """A reflection before the last one: it may be empty (the model just looks)."""
    empty = rng.random() < 0.5
    write_section(
        out, "REFLECTION", lambda: None if empty else write_reflection(out, question, scene.things, None, scene.things)
    )
