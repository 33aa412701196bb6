"""Questions about Tabletop scenes: six kinds, each answered by one pass over the objects with a running state.

A plan says word by word what counts ("count every ball: ball yes cube no ..."); marks repeat it at the words of each
object, and after every object comes the running state. So each line is one look-up in the image, one in the plan and
one small step, and can be checked. The same functions give the true answer (from the scene's objects) and the answer
that a mistaken list leads to (from the list).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from look_again.tabletop.world import COLOURS, MAX_OBJECTS, SHAPES, Pair, Scene, Thing, draw_pair, lay_out

Marks = tuple[str, str, str]
PLURAL = {shape: f"{shape}s" for shape in SHAPES}
KINDS = ("count", "subtract", "exist", "compare", "attribute", "odd")


@dataclass(frozen=True)
class Selector:
    """A colour, a shape or both; None matches anything."""

    colour: str | None = None
    shape: str | None = None

    def matches(self, pair: Pair) -> bool:
        return self.colour in (None, pair[0]) and self.shape in (None, pair[1])

    def marks(self, pair: Pair) -> Marks:
        """Whether each word of a pair is what is asked for; nothing behind a word that does not matter."""
        return "", _mark(self.colour, pair[0]), _mark(self.shape, pair[1])

    @property
    def plan(self) -> str:
        """What counts, word by word: "red yes green no ..."."""
        words = [(self.colour, colour) for colour in COLOURS if self.colour]
        words += [(self.shape, shape) for shape in SHAPES if self.shape]
        return " ".join(f"{word} {_mark(asked, word)}" for asked, word in words)

    @property
    def plural(self) -> str:
        noun = PLURAL[self.shape] if self.shape else "objects"
        return f"{self.colour} {noun}" if self.colour else noun

    @property
    def singular(self) -> str:
        return f"{self.colour} {self.shape or 'object'}" if self.colour else f"{self.shape or 'object'}"


def _mark(asked: str | None, word: str) -> str:
    return "" if asked is None else "yes" if word == asked else "no"


@dataclass(frozen=True)
class Question:
    """A question: its `kind`, its `text`, the `goal` a SUMMARY states, and its rules as functions of a list of objects.

    `states(things)` gives the running state after each object; `conclude(things)` the answer; `marks(things)` what
    stands behind each object's place, colour and shape: "yes", "no", the side of a comparison, a count, or nothing.
    """

    kind: str
    text: str
    goal: str
    states: Callable[[Sequence[Thing]], list[str]]
    conclude: Callable[[Sequence[Thing]], str]
    marks: Callable[[Sequence[Thing]], list[Marks]]


def sample_question(rng: random.Random, kind: str, pairs: list[Pair]) -> tuple[Scene, Question]:
    """A scene and a question of `kind` about it, answers balanced within the kind."""
    if kind not in _SAMPLERS:
        raise ValueError(f"unknown kind of question {kind!r}; known: {', '.join(KINDS)}")
    return _SAMPLERS[kind](rng, pairs)


def _running_count(counts: Callable[[Pair], bool]) -> Callable[[Sequence[Thing]], list[str]]:
    def states(things: Sequence[Thing]) -> list[str]:
        total, out = 0, []
        for thing in things:
            total += counts(thing.pair)
            out.append(str(total))
        return out

    return states


def _marks(selector: Selector) -> Callable[[Sequence[Thing]], list[Marks]]:
    return lambda things: [selector.marks(thing.pair) for thing in things]


def _behind(index: int, mark: str) -> Marks:
    """A mark behind an object's colour (0) or its shape (1)."""
    return ("", mark, "") if index == 0 else ("", "", mark)


def _last(states: Callable[[Sequence[Thing]], list[str]]) -> Callable[[Sequence[Thing]], str]:
    return lambda things: states(things)[-1]


def _draw_selector(rng: random.Random) -> Selector:
    colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
    return rng.choice([Selector(colour=colour), Selector(shape=shape), Selector(colour, shape)])


def _usable_selector(rng: random.Random, pairs: list[Pair]) -> Selector:
    """A selector that at least one allowed pair satisfies (held-out pairs are not asked for in training)."""
    while True:
        selector = _draw_selector(rng)
        if any(selector.matches(pair) for pair in pairs):
            return selector


def _scene_with(rng: random.Random, pairs: list[Pair], selector: Selector, hits: int, total: int) -> Scene:
    """`total` objects, exactly `hits` of which the selector matches."""
    chosen = [draw_pair(rng, pairs, selector.matches) for _ in range(hits)]
    chosen += [draw_pair(rng, pairs, lambda pair: not selector.matches(pair)) for _ in range(total - hits)]
    return lay_out(rng, chosen)


def _count(rng: random.Random, pairs: list[Pair]) -> tuple[Scene, Question]:
    selector, hits = _usable_selector(rng, pairs), rng.randint(0, 5)
    scene = _scene_with(rng, pairs, selector, hits, rng.randint(max(2, hits), MAX_OBJECTS))
    return scene, count_question(selector)


def count_question(selector: Selector) -> Question:
    """How many objects a selector matches."""
    states = _running_count(selector.matches)
    text = f"How many {selector.plural} are there?"
    goal = f"count every {selector.singular}: {selector.plan}"
    return Question("count", text, goal, states, _last(states), _marks(selector))


def _subtract(rng: random.Random, pairs: list[Pair]) -> tuple[Scene, Question]:
    selector, left = _usable_selector(rng, pairs), rng.randint(0, 5)
    total = rng.randint(max(2, left), MAX_OBJECTS)
    return _scene_with(rng, pairs, selector, total - left, total), subtract_question(selector)


def subtract_question(selector: Selector) -> Question:
    """How many objects are left without those that a selector matches."""
    states = _running_count(lambda pair: not selector.matches(pair))
    text = f"Subtract all {selector.plural}. How many objects are left?"
    goal = f"subtract every {selector.singular}: {selector.plan}"
    return Question("subtract", text, goal, states, _last(states), _marks(selector))


def _exist(rng: random.Random, pairs: list[Pair]) -> tuple[Scene, Question]:
    selector, total = _usable_selector(rng, pairs), rng.randint(2, MAX_OBJECTS)
    scene = _scene_with(rng, pairs, selector, rng.randint(1, min(2, total)) if rng.random() < 0.5 else 0, total)
    return scene, exist_question(selector)


def exist_question(selector: Selector) -> Question:
    """Whether a selector matches any object."""

    def states(things: Sequence[Thing]) -> list[str]:
        hits = _running_count(selector.matches)(things)
        return ["no" if count == "0" else "yes" for count in hits]

    text = f"Is there a {selector.singular}?"
    goal = f"find a {selector.singular}: {selector.plan}"
    return Question("exist", text, goal, states, _last(states), _marks(selector))


def _compare(rng: random.Random, pairs: list[Pair]) -> tuple[Scene, Question]:
    index = 0 if rng.random() < 0.5 else 1
    words = (COLOURS, SHAPES)[index]
    names = rng.sample(words, 2)
    first, second = (Selector(colour=name) if index == 0 else Selector(shape=name) for name in names)
    more, fewer = rng.choice([(a, b) for a in range(1, 5) for b in range(0, a)])
    low = rng.randint(0, 3)
    hits = (more, fewer) if rng.random() < 0.5 else (low, rng.randint(low, 4))
    chosen = [draw_pair(rng, pairs, s.matches) for s, n in zip((first, second), hits, strict=True) for _ in range(n)]
    others = rng.randint(max(0, 2 - len(chosen)), MAX_OBJECTS - len(chosen))
    chosen += [draw_pair(rng, pairs, lambda p: not first.matches(p) and not second.matches(p)) for _ in range(others)]
    return lay_out(rng, chosen), compare_question(names[0], names[1])


def compare_question(more: str, than: str) -> Question:
    """Whether there are more objects of one colour, or shape, than of another."""
    index = 0 if more in COLOURS else 1
    words = (COLOURS, SHAPES)[index]
    first, second = (Selector(colour=name) if index == 0 else Selector(shape=name) for name in (more, than))

    def states(things: Sequence[Thing]) -> list[str]:
        left, right = _running_count(first.matches)(things), _running_count(second.matches)(things)
        return [f"{a} {b}" for a, b in zip(left, right, strict=True)]

    def conclude(things: Sequence[Thing]) -> str:
        left, right = states(things)[-1].split()
        return "yes" if int(left) > int(right) else "no"

    sides = {more: "more", than: "than"}  # the words of the question

    def marks(things: Sequence[Thing]) -> list[Marks]:
        return [_behind(index, sides.get(thing.pair[index], "no")) for thing in things]

    text = f"Are there more {first.plural} than {second.plural}?"
    plan = " ".join(f"{word} {sides.get(word, 'no')}" for word in words)
    goal = f"compare every {first.singular} and every {second.singular}: {plan}"
    return Question("compare", text, goal, states, conclude, marks)


def _attribute(rng: random.Random, pairs: list[Pair]) -> tuple[Scene, Question]:
    scene = lay_out(rng, [rng.choice(pairs) for _ in range(rng.randint(2, MAX_OBJECTS))])
    place, attribute = rng.choice(scene.things).place, rng.choice(("colour", "shape"))
    return scene, attribute_question(place, attribute)


def attribute_question(place: str, attribute: str) -> Question:
    """The colour, shape or size of the object at a place."""

    def states(things: Sequence[Thing]) -> list[str]:
        found, out = "no", []
        for thing in things:
            if thing.place == place:
                found = getattr(thing, attribute)
            out.append(found)
        return out

    def marks(things: Sequence[Thing]) -> list[Marks]:
        return [("yes" if thing.place == place else "no", "", "") for thing in things]

    text = f"What {attribute} is the object at {place}?"
    return Question("attribute", text, f"find the {attribute} at {place}", states, _last(states), marks)


def _odd(rng: random.Random, pairs: list[Pair]) -> tuple[Scene, Question]:
    index = rng.choice((0, 1))
    attribute, values = ("colour", "shape")[index], (COLOURS, SHAPES)[index]
    usual, odd = rng.sample(values, 2)
    total = rng.randint(3, MAX_OBJECTS)
    chosen = [draw_pair(rng, pairs, lambda pair: pair[index] == usual) for _ in range(total - 1)]
    chosen.append(draw_pair(rng, pairs, lambda pair: pair[index] == odd))

    def tallies(things: Sequence[Thing]) -> list[dict[str, int]]:
        """After each object, how often each value has been seen, in the order of first sight."""
        values = [thing.pair[index] for thing in things]
        return [dict(Counter(values[: i + 1])) for i in range(len(values))]

    def states(things: Sequence[Thing]) -> list[str]:
        return [" ".join(f"{value} {n}" for value, n in seen.items()) for seen in tallies(things)]

    def conclude(things: Sequence[Thing]) -> str:
        seen = tallies(things)[-1]
        return min(reversed(list(seen)), key=lambda value: seen[value])

    def marks(things: Sequence[Thing]) -> list[Marks]:
        counts = [seen[t.pair[index]] for t, seen in zip(things, tallies(things), strict=True)]
        return [_behind(index, str(n)) for n in counts]

    text = f"All objects but one have the same {attribute}. Which {attribute} is the odd one out?"
    return lay_out(rng, chosen), Question("odd", text, f"find the odd {attribute}", states, conclude, marks)


_SAMPLERS = {
    "count": _count,
    "subtract": _subtract,
    "exist": _exist,
    "compare": _compare,
    "attribute": _attribute,
    "odd": _odd,
}
