"""Clips of Tabletop: a few objects, one of which moves from each scene to the next, and exact questions about it.

A clip is four scenes, each on the screen for a second; between two scenes exactly one object goes to another, free
place. What moved, what moved first or last, and how often something moved follow from the moves alone. A clip is a
function of (split, seed, index), keyed apart from the stills, so that these keep their bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from look_again.images.video import Video
from look_again.tabletop.render import render
from look_again.tabletop.world import HELDOUT_PAIRS, PLACES, SPLITS, Pair, Scene, Thing, allowed_pairs, lay_out
from look_again.text.grammar import close_tag, open_tag

SCENES = 4
FPS = 2.0
FRAMES_PER_SCENE = 2  # a second each; towers that join two frames see one scene at a time
CLIP_KINDS = ("which", "order", "often")
OBJECTS = (2, 3)


@dataclass(frozen=True)
class Move:
    """From one scene to the next: which object, and its places before and after."""

    pair: Pair
    before: str
    after: str


@dataclass(frozen=True)
class ClipQuestion:
    """A question of `kind` with its exact answer. goal: what a SUMMARY states. counted: the object whose moves are."""

    kind: str
    text: str
    answer: str
    goal: str
    counted: Pair | None = None


@dataclass(frozen=True)
class TabletopClip:
    """One example. scenes: in order. moves: one between each two scenes. response: the oracle's, in the grammar."""

    id: str
    scenes: tuple[Scene, ...]
    moves: tuple[Move, ...]
    question: ClipQuestion
    response: str

    @property
    def prompt(self) -> str:
        """The question, with the request for a length that the stills have."""
        return f"{self.question.text} Answer briefly."

    def frames(self) -> list[Image.Image]:
        """The frames as they are shown, `FPS` a second."""
        return [image for scene in self.scenes for image in [render(scene)] * FRAMES_PER_SCENE]

    def video(self) -> Video:
        """The clip as a model reads it, without a file in between."""
        frames = self.frames()
        return Video(tuple(frames), tuple(index / FPS for index in range(len(frames))), FPS)

    def as_dict(self, video: str) -> dict[str, object]:
        """What `rows.jsonl` holds; `video` is the file's relative path."""
        return {
            "id": self.id,
            "video": video,
            "question": self.prompt,
            "kind": self.question.kind,
            "answer": self.question.answer,
            "captions": [scene.caption for scene in self.scenes],
            "moves": [{"object": " ".join(move.pair), "from": move.before, "to": move.after} for move in self.moves],
            "response": self.response,
        }


def make_clip(split: str, seed: int, index: int, *, kind: str | None = None) -> TabletopClip:
    """Clip `index` of a stream; None takes the kinds of questions in turn. ValueError for unknown names."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    asked = kind or CLIP_KINDS[index % len(CLIP_KINDS)]
    if asked not in CLIP_KINDS:
        raise ValueError(f"unknown kind of question about clips {asked!r}; known: {', '.join(CLIP_KINDS)}")
    rng = random.Random(f"tabletop-clip/{split}/{seed}/{index}")
    pairs = _draw_pairs(rng, split)
    movers = _draw_movers(rng, asked, pairs)
    scenes, moves = _play(rng, lay_out(rng, pairs), movers)
    question = _ask(rng, asked, pairs, moves)
    return TabletopClip(f"clip-{split}-{seed}-{index}", scenes, moves, question, _write(scenes, moves, question))


def make_clips(split: str, seed: int, n: int) -> Iterator[TabletopClip]:
    """The first `n` clips of a stream."""
    return (make_clip(split, seed, index) for index in range(n))


def _draw_pairs(rng: random.Random, split: str) -> list[Pair]:
    """The objects of a clip, all different; in the split `heldout` one of them is of a pair that training never has."""
    while True:
        pairs = rng.sample(allowed_pairs(split), rng.choice(OBJECTS))
        if split != "heldout" or HELDOUT_PAIRS & set(pairs):
            return pairs


def _draw_movers(rng: random.Random, kind: str, pairs: Sequence[Pair]) -> list[Pair]:
    """Which object makes each move: always the same where one is asked for, else more than one."""
    if kind == "which":
        return [rng.choice(pairs)] * (SCENES - 1)
    if kind == "often":
        mover, times = rng.choice(pairs), rng.randint(0, SCENES - 1)
        others = [pair for pair in pairs if pair != mover]
        movers = [mover] * times + [rng.choice(others) for _ in range(SCENES - 1 - times)]
        return rng.sample(movers, len(movers))
    while True:
        movers = [rng.choice(pairs) for _ in range(SCENES - 1)]
        if movers[0] != movers[-1]:
            return movers


def _play(rng: random.Random, scene: Scene, movers: Sequence[Pair]) -> tuple[tuple[Scene, ...], tuple[Move, ...]]:
    """The scenes in which these objects move, one after the other, each to a free place."""
    scenes, moves = [scene], []
    for pair in movers:
        things = {thing.pair: thing for thing in scenes[-1].things}
        free = sorted(set(PLACES) - {thing.place for thing in things.values()})
        moved = replace(things[pair], place=rng.choice(free))
        moves.append(Move(pair, things[pair].place, moved.place))
        things[pair] = moved
        scenes.append(Scene(_in_reading_order(things.values()), rng.getrandbits(32)))
    return tuple(scenes), tuple(moves)


def _in_reading_order(things: object) -> tuple[Thing, ...]:
    return tuple(sorted(things, key=lambda thing: thing.place))  # type: ignore[call-overload]


def _ask(rng: random.Random, kind: str, pairs: Sequence[Pair], moves: Sequence[Move]) -> ClipQuestion:
    names = [" ".join(move.pair) for move in moves]
    if kind == "which":
        return ClipQuestion(kind, "Which object moved?", names[0], "find the object that moved")
    if kind == "order":
        place = rng.choice(("first", "last"))
        answer = names[0] if place == "first" else names[-1]
        return ClipQuestion(kind, f"Which object moved {place}?", answer, f"find the object that moved {place}")
    counted = _asked_pair(rng, pairs, moves)
    name = " ".join(counted)
    text, goal = f"How many times did the {name} move?", f"count every move of the {name}"
    return ClipQuestion(kind, text, str(names.count(name)), goal, counted)


def _asked_pair(rng: random.Random, pairs: Sequence[Pair], moves: Sequence[Move]) -> Pair:
    """An object by how often it moved, so that no number is much rarer than another."""
    counts = {pair: sum(move.pair == pair for move in moves) for pair in pairs}
    wanted = rng.choice(sorted(set(counts.values())))
    return rng.choice([pair for pair in pairs if counts[pair] == wanted])


def _write(scenes: Sequence[Scene], moves: Sequence[Move], question: ClipQuestion) -> str:
    """The oracle's response: all scenes, a look at where every object went, the answer."""
    sections = {
        "SUMMARY": f" {question.goal}",
        "CAPTION": f" {', and '.join(scene.caption for scene in scenes)}",
        "REASONING": " look at each object",
        "REFLECTION": f" {', and '.join(_followed(scenes, moves, question.counted))}, so {question.answer}",
        "CONCLUSION": f" {question.answer}",
    }
    return "".join(f"{open_tag(tag)}{text}{close_tag(tag)}" for tag, text in sections.items())


def _followed(scenes: Sequence[Scene], moves: Sequence[Move], counted: Pair | None) -> Iterator[str]:
    """Each scene's objects with their next places, and whether that is a move that counts: "d5 red ball a5 yes"."""
    count = 0
    for scene, move in zip(scenes[:-1], moves, strict=True):
        lines = []
        for thing in scene.things:
            moved = thing.pair == move.pair
            counts = moved and counted in (None, thing.pair)
            count += counts
            mark = ("yes" if counts else "no") + (f" {count}" if counted else "")
            lines.append(f"{thing.place} {' '.join(thing.pair)} {move.after if moved else thing.place} {mark}")
        yield ", ".join(lines)
