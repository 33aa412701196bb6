"""The long world: valid work of any length between the image and the reflection that looks at it again.

A response states its plan (SUMMARY), lists the objects, with planted mistakes (CAPTION), and then works through one
sub-question after the other over that list (REASONING), each a plan and a pass with marks and a running state, before
it comes to the question that was asked. So nothing is filler, every step follows from what was written, and the
question's own pass can only come last. Longer work begins with the work of every shorter length, so lengths are
compared on the same rows.

A question of the kind "unwritten" asks for what no list states (the size of an object): no token before the reflection
holds its answer, and REASONING has no pass for it. In a row of the kind "swap" one object's colour or shape differs
between the image and the list, nothing else does, and the question's answer hangs on it: the image was exchanged.

Limits of the rows, which keep their bytes: sub-questions are drawn with replacement, so that long plans repeat some,
and the question that was asked may be among them, worked through before its own pass (of 300 listed rows with a mistake
in 14% at 800 pieces, 26% at 1,600, 32% at 2,400; see docs/study.md). Where a swap leaves two rarest values in a list,
its "odd one out" is a tie, which goes to the value that appears last (27 of 300 swap rows).

Lengths are counted in pieces (a word, a place, a number, a mark or a tag), which are the tokens of the tiny model's
tokenizer; another tokenizer takes more.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from look_again.tabletop.oracle import (
    REQUESTS,
    Mistake,
    Written,
    plant,
    write_list,
    write_reflection,
    write_section,
)
from look_again.tabletop.questions import (
    KINDS,
    Question,
    Selector,
    attribute_question,
    compare_question,
    count_question,
    exist_question,
    sample_question,
    subtract_question,
)
from look_again.tabletop.world import (
    COLOURS,
    SHAPES,
    WORLD_SIZES,
    Pair,
    Scene,
    Thing,
    allowed_pairs,
    lay_out,
    shows_heldout_pair,
    stream,
)
from look_again.text.grammar import open_tag

MIN_PIECES, MAX_PIECES = 100, 4000
LONG_KINDS = ("listed", "unwritten", "swap")
PIECE = re.compile(r"</?[A-Z]+>| ?[A-Za-z]+[0-9]?| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+")
REFLECTION = open_tag("REFLECTION")


@dataclass(frozen=True)
class LongSample:
    """One row: `prompt` asks `question`, `written` answers it after work on `sub_questions`.

    pieces: of the response before its reflection.
    """

    id: str
    scene: Scene
    question: Question
    prompt: str
    answer: str
    written: Written
    sub_questions: tuple[Question, ...]
    kind: str = "listed"

    @property
    def described(self) -> str:
        """The answer that follows from the list."""
        return self.question.conclude(self.written.caption)

    @property
    def beginning(self) -> str:
        """The response up to and including `<REFLECTION>`."""
        return self.written.text[: self.written.text.index(REFLECTION) + len(REFLECTION)]

    @property
    def pieces(self) -> int:
        return count_pieces(self.beginning.removesuffix(REFLECTION))

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        return self.written.mistakes


def count_pieces(text: str) -> int:
    """Words, places, numbers, marks and tags of a text."""
    return sum(1 for _ in PIECE.finditer(text))


def make_long_sample(
    split: str,
    seed: int,
    index: int,
    *,
    pieces: int,
    size: str = "small",
    kind: str = "listed",
    error_rate: float = 0.3,
) -> LongSample:
    """Example `index` of a stream with work of about `pieces` before its reflection: to the nearest whole sub-question.

    Scene, question and planted mistakes depend on (split, seed, index, size, kind) alone. ValueError for lengths
    outside MIN_PIECES .. MAX_PIECES and for unknown names.
    """
    _check(pieces, size, kind)
    rng, pairs = stream(split, seed, index), allowed_pairs(split)
    while True:
        scene, question = _draw(rng, pairs, index, size, kind)
        if (split != "heldout" or shows_heldout_pair(scene)) and (kind != "swap" or _swaps(scene, question, pairs)):
            break
    if kind == "swap":
        said = rng.choice(_swaps(scene, question, pairs))
        caption, mistakes = describe_otherwise(scene, said)
    else:
        caption, mistakes = plant(rng, scene, pairs, error_rate, WORLD_SIZES[size].places)
    name = f"tabletop-long-{size}-{kind}-{split}-{seed}-{index}"
    plan = _plan(random.Random(f"{name}/plan"), caption, scene, question, kind, pieces)
    written = _write(scene, question, caption, plan, kind)
    written.mistakes, written.caption = mistakes, tuple(caption)
    prompt = f"{question.text} {REQUESTS['long']}"
    return LongSample(name, scene, question, prompt, question.conclude(scene.things), written, tuple(plan), kind)


def _check(pieces: int, size: str, kind: str) -> None:
    if not MIN_PIECES <= pieces <= MAX_PIECES:
        raise ValueError(f"the work is {MIN_PIECES} to {MAX_PIECES} pieces long, not {pieces}")
    for what, name, known in (("size", size, WORLD_SIZES), ("kind", kind, LONG_KINDS)):
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")


def _draw(rng: random.Random, pairs: list[Pair], index: int, size: str, kind: str) -> tuple[Scene, Question]:
    if size == "small" and kind in ("listed", "swap"):
        return sample_question(rng, KINDS[index % len(KINDS)], pairs)
    world = WORLD_SIZES[size]
    count = rng.randint(world.min_objects, world.max_objects)
    scene = lay_out(rng, [rng.choice(pairs) for _ in range(count)], world)
    if kind == "unwritten":
        return scene, attribute_question(rng.choice(scene.things).place, "size")
    return scene, _any_question(rng, scene.things)


def _swaps(scene: Scene, question: Question, pairs: Sequence[Pair]) -> list[Thing]:
    """The objects with one attribute changed, in a fixed order, that change the question's answer."""
    true, found = question.conclude(scene.things), []
    for thing in scene.things:
        for colour, shape in pairs:
            said = replace(thing, colour=colour, shape=shape)
            if (colour == thing.colour) != (shape == thing.shape):
                listed = [said if one is thing else one for one in scene.things]
                found += [said] if question.conclude(listed) != true else []
    return found


def describe_otherwise(scene: Scene, said: Thing) -> tuple[list[Thing], tuple[Mistake, ...]]:
    """A list that says `said` of its place and is true elsewhere, and that one mistake."""
    listed = [said if thing.place == said.place else thing for thing in scene.things]
    true = next(thing for thing in scene.things if thing.place == said.place)
    return listed, (Mistake("colour" if said.colour != true.colour else "shape", said.place, said),)


def _any_question(rng: random.Random, things: Sequence[Thing]) -> Question:
    """A question that any list of objects answers; half of the selectors match one of them."""
    named = rng.choice(things)
    colour, shape = (named.colour, named.shape) if rng.random() < 0.5 else (rng.choice(COLOURS), rng.choice(SHAPES))
    selector = rng.choice([Selector(colour=colour), Selector(shape=shape), Selector(colour, shape)])
    more, than = rng.sample(rng.choice((COLOURS, SHAPES)), 2)
    makers: tuple[Callable[[], Question], ...] = (
        lambda: count_question(selector),
        lambda: subtract_question(selector),
        lambda: exist_question(selector),
        lambda: compare_question(more, than),
        lambda: attribute_question(named.place, rng.choice(("colour", "shape"))),
    )
    return rng.choice(makers)()


def _plan(
    rng: random.Random, caption: Sequence[Thing], scene: Scene, question: Question, kind: str, pieces: int
) -> list[Question]:
    """The sub-questions whose work brings a response nearest to `pieces`."""
    written = _write(scene, question, caption, [], kind).text
    length, plan = count_pieces(written[: written.index(REFLECTION)]), list[Question]()
    while True:
        sub_question = _any_question(rng, caption)
        work = Written()
        _work_through(work, sub_question, caption)
        longer = length + count_pieces(work.text) + 2  # ", again"
        if abs(longer - pieces) > abs(length - pieces):
            return plan
        plan, length = [*plan, sub_question], longer


def _write(scene: Scene, question: Question, caption: Sequence[Thing], plan: Sequence[Question], kind: str) -> Written:
    """The whole response; its reflection and conclusion are true."""
    out = Written()
    write_section(out, "SUMMARY", lambda: out.add(f" {question.goal}"))
    write_section(out, "CAPTION", lambda: write_list(out, caption, scene.things))
    write_section(out, "REASONING", lambda: _reason(out, question, caption, plan, kind))
    before = None if kind == "unwritten" else question.conclude(caption)
    seen = [thing for thing in scene.things if kind != "unwritten" or f"at {thing.place}?" in question.text]
    write_section(out, "REFLECTION", lambda: write_reflection(out, question, seen, before, scene.things))
    write_section(out, "CONCLUSION", lambda: out.add(f" {question.conclude(scene.things)}"))
    return out


def _reason(out: Written, question: Question, caption: Sequence[Thing], plan: Sequence[Question], kind: str) -> None:
    for place, sub_question in enumerate(plan):
        out.add(", again" if place else "")
        _work_through(out, sub_question, caption)
    if kind != "unwritten":
        out.add(", again" if plan else "")
        write_list(out, caption, caption, question)
        out.add(f", so {question.conclude(caption)}")


def _work_through(out: Written, question: Question, caption: Sequence[Thing]) -> None:
    """One sub-question: its plan, a pass over the list, its answer."""
    out.add(f" {question.goal},")
    write_list(out, caption, caption, question)
    out.add(f", so {question.conclude(caption)}")
