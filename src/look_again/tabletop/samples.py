"""Examples of Tabletop: one function from (split, seed, index) to a scene, a question, an answer and a response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from look_again.tabletop.oracle import LENGTHS, REQUESTS, Written, write_response
from look_again.tabletop.questions import KINDS, Question, sample_question
from look_again.tabletop.render import render
from look_again.tabletop.world import Scene, allowed_pairs, shows_heldout_pair, stream

LENGTH_WEIGHTS = {"brief": 45, "normal": 40, "long": 15}


@dataclass(frozen=True)
class TabletopSample:
    """One example: `prompt` is the question with the request for a length; `answer` is exact."""

    id: str
    scene: Scene
    question: Question
    length: str
    prompt: str
    answer: str
    written: Written

    def as_dict(self, image: str) -> dict[str, object]:
        """What `rows.jsonl` holds; `image` is the image's relative path."""
        return {
            "id": self.id,
            "image": image,
            "question": self.prompt,
            "kind": self.question.kind,
            "answer": self.answer,
            "objects": [thing.as_dict() for thing in self.scene.things],
            "caption": self.scene.caption,
        }


def make_sample(
    split: str,
    seed: int,
    index: int,
    *,
    kind: str | None = None,
    length: str | None = None,
    reflections: int | None = None,
    error_rate: float = 0.2,
    lengths: Mapping[str, float] = LENGTH_WEIGHTS,
    cursory: float = 0.0,
) -> TabletopSample:
    """Example `index` of a stream; None draws the kind of question, the length or the number of reflections.

    `lengths` weighs the draw of the length. `cursory`: as in `write_response`.
    The scene and question depend on (split, seed, index, kind) alone. ValueError for unknown names.
    """
    rng = stream(split, seed, index)
    pairs = allowed_pairs(split)
    drawn_kind = KINDS[index % len(KINDS)]
    while True:
        scene, question = sample_question(rng, kind or drawn_kind, pairs)
        if split != "heldout" or shows_heldout_pair(scene):
            break
    drawn_length = rng.choices(LENGTHS, weights=[lengths.get(name, 0) for name in LENGTHS])[0]
    chosen = length or drawn_length
    written = write_response(
        rng, scene, question, pairs, length=chosen, reflections=reflections, error_rate=error_rate, cursory=cursory
    )
    prompt = f"{question.text} {REQUESTS[chosen]}"
    answer = question.conclude(scene.things)
    return TabletopSample(f"tabletop-{split}-{seed}-{index}", scene, question, chosen, prompt, answer, written)


def make_samples(split: str, seed: int, n: int) -> Iterator[TabletopSample]:
    """The first `n` examples of a stream."""
    return (make_sample(split, seed, index) for index in range(n))


def write_samples(out: Path, split: str, seed: int, n: int) -> Iterator[TabletopSample]:
    """Write `images/` and `rows.jsonl` under `out`, yielding each example once it is written."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    with (out / "rows.jsonl").open("w", encoding="utf-8") as file:
        for sample in make_samples(split, seed, n):
            image = f"images/{sample.id}.png"
            render(sample.scene).save(out / image)
            file.write(json.dumps(sample.as_dict(image), ensure_ascii=False) + "\n")
            yield sample
