"""Three further kinds of question, those of newcomers: how many objects there are, what is at a place, what is there.

They are answered as the six kinds of `questions` are, and stand apart from them so that those streams stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from look_again.tabletop.questions import Marks, Question
from look_again.tabletop.world import Scene, Thing


def total(rng: random.Random, scene: Scene) -> Question:
    """How many objects there are."""
    return Question("total", "How many objects are there?", "count every object", _numbers, _last(_numbers), _unmarked)


def whole_object(rng: random.Random, scene: Scene) -> Question:
    """Which object is at a place where there is one: its colour and its shape."""
    place = rng.choice(scene.things).place

    def states(things: Sequence[Thing]) -> list[str]:
        found, out = "no", []
        for thing in things:
            if thing.place == place:
                found = f"{thing.colour} {thing.shape}"
            out.append(found)
        return out

    def marks(things: Sequence[Thing]) -> list[Marks]:
        return [("yes" if thing.place == place else "no", "", "") for thing in things]

    return Question("object", f"What is at {place}?", f"find the object at {place}", states, _last(states), marks)


def contents(rng: random.Random, scene: Scene) -> Question:
    """Everything that is there, place by place."""

    def conclude(things: Sequence[Thing]) -> str:
        return ", ".join(f"{thing.place} {thing.colour} {thing.shape}" for thing in things)

    return Question("list", "What is in this picture?", "find every object", _numbers, conclude, _unmarked)


def _numbers(things: Sequence[Thing]) -> list[str]:
    return [str(i + 1) for i in range(len(things))]


def _unmarked(things: Sequence[Thing]) -> list[Marks]:
    return [("", "", "")] * len(things)


def _last(states: Callable[[Sequence[Thing]], list[str]]) -> Callable[[Sequence[Thing]], str]:
    return lambda things: states(things)[-1]


MORE_QUESTIONS: dict[str, Callable[[random.Random, Scene], Question]] = {
    "total": total,
    "object": whole_object,
    "list": contents,
}
