"""Samples as people ask them: other wordings, any case, no request for a length; unknown questions; foreign images.

A sample is a function of (split, seed, index) and the shares of the forms. Scenes are those of `make_sample`, whose
rows stay as they are; what is drawn beside them comes from streams of their own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from look_again.data.image_files import LazyImage
from look_again.data.sample import Sample
from look_again.tabletop.loader import SceneImage
from look_again.tabletop.oracle import LENGTHS, REQUESTS, Written, write_response, write_unanswered
from look_again.tabletop.people.foreign_images import KINDS as FOREIGN_KINDS
from look_again.tabletop.people.foreign_images import ForeignImage
from look_again.tabletop.people.more_questions import MORE_QUESTIONS
from look_again.tabletop.people.unknown_questions import UNSEEN as UNSEEN_QUESTIONS
from look_again.tabletop.people.unknown_questions import draw_unknown
from look_again.tabletop.people.wordings import as_typed, change_case, request_length, reword
from look_again.tabletop.questions import Question
from look_again.tabletop.samples import LENGTH_WEIGHTS, TabletopSample, make_sample
from look_again.tabletop.world import allowed_pairs, stream

FORMS = {
    "made": "the rows' own wording, with its request for a length",
    "lower": "the same in lower case",
    "bare": "the same without the request for a length",
    "reworded": "another wording, in any case, with or without a request",
    "capitals": "another wording, in capitals",
    "unseen": "a wording that training never shows, in any case, with or without a request",
    "more": "a kind of question beyond the six: all objects, the object at a place, everything there is",
    "unknown": "a question that Tabletop has no answer to",
    "unseen-unknown": "such a question that training never shows",
    "foreign": "an image that shows nothing of Tabletop",
}
UNKNOWN_ANSWER = "I do not know: this is no question that I learned"
FOREIGN_ANSWER = "I do not know: this is no image that I learned"
UNASKED_LENGTH = "brief"  # of a response whose prompt asks for no length


@dataclass(frozen=True)
class PhrasedSample:
    """One example. form: of `FORMS`. kind: of the question, "unknown" for one without an answer."""

    id: str
    form: str
    kind: str
    image: LazyImage
    prompt: str
    answer: str
    written: Written

    def as_sample(self, split: str) -> Sample:
        """The example as training reads it: planted mistakes are silent."""
        return Sample(
            id=self.id,
            images=(self.image,),
            question=self.prompt,
            reference=self.answer,
            response=self.written.text,
            source="tabletop",
            split=split,
            silent=tuple(self.written.planted_spans),
        )


def make_phrased(
    split: str,
    seed: int,
    index: int,
    forms: Mapping[str, float],
    *,
    error_rate: float = 0.2,
    lengths: Mapping[str, float] = LENGTH_WEIGHTS,
    reflections: int | None = None,
) -> PhrasedSample:
    """Example `index` of a stream. forms: weights of the forms; the options are those of `make_sample`.

    ValueError for unknown names.
    """
    if unknown := sorted(set(forms) - set(FORMS)):
        raise ValueError(f"unknown forms {unknown}; known: {', '.join(FORMS)}")
    rng = random.Random(f"tabletop/phrased/{split}/{seed}/{index}")
    form = rng.choices(list(forms), weights=list(forms.values()))[0]
    options = {"error_rate": error_rate, "lengths": lengths, "reflections": reflections}
    row = make_sample(split, seed, index, **options)  # type: ignore[arg-type]
    name = f"{row.id}-{form}"
    if form == "made":
        return _build(name, form, row, row.question.kind, row.prompt, row.answer, row.written)
    if form == "lower":
        return _build(name, form, row, row.question.kind, row.prompt.lower(), row.answer, row.written)
    draw = _Draw(rng, split, seed, index, row, error_rate, reflections)
    return getattr(draw, form.replace("-", "_"))(name, form)


@dataclass(frozen=True)
class _Draw:
    """What a form is made from: its own stream, and the row whose scene it shares."""

    rng: random.Random
    split: str
    seed: int
    index: int
    row: TabletopSample
    error_rate: float
    reflections: int | None

    def bare(self, name: str, form: str) -> PhrasedSample:
        return self._asked(name, form, self.row.question, self.row.question.text, UNASKED_LENGTH)

    def reworded(self, name: str, form: str) -> PhrasedSample:
        return self._reworded(name, form, self.row.question, unseen=False)

    def capitals(self, name: str, form: str) -> PhrasedSample:
        sample = self._reworded(name, form, self.row.question, unseen=False)
        return replace(sample, prompt=sample.prompt.upper())

    def unseen(self, name: str, form: str) -> PhrasedSample:
        return self._reworded(name, form, self.row.question, unseen=True)

    def more(self, name: str, form: str) -> PhrasedSample:
        kind = self.rng.choice(list(MORE_QUESTIONS))
        return self._reworded(name, form, MORE_QUESTIONS[kind](self.rng, self.row.scene), unseen=False)

    def unknown(self, name: str, form: str) -> PhrasedSample:
        return self._unanswered(name, form, self._typed(draw_unknown(self.rng)))

    def unseen_unknown(self, name: str, form: str) -> PhrasedSample:
        return self._unanswered(name, form, change_case(self.rng, self.rng.choice(UNSEEN_QUESTIONS)))

    def foreign(self, name: str, form: str) -> PhrasedSample:
        """Either a question that it knows or one that it does not, about an image of none of its world."""
        image = ForeignImage(self.rng.choice(list(FOREIGN_KINDS)), self.rng.getrandbits(32))
        question, text = self.row.question, draw_unknown(self.rng)
        goal = None
        if self.rng.random() < 0.5:
            text, goal = reword(self.rng, question), question.goal
        written = write_unanswered(goal, None, (), FOREIGN_ANSWER)
        return PhrasedSample(name, form, "unknown", image, self._typed(text), FOREIGN_ANSWER, written)

    def _reworded(self, name: str, form: str, question: Question, *, unseen: bool) -> PhrasedSample:
        text, rng = as_typed(self.rng, reword(self.rng, question, unseen=unseen)), self.rng
        if question.kind == "list":
            return self._asked(name, form, question, text, "brief")
        if rng.random() < 0.55:
            return self._asked(name, form, question, text, UNASKED_LENGTH)
        length = rng.choices(LENGTHS, weights=(60, 30, 10))[0]
        return self._asked(name, form, question, request_length(rng, length, text), length)

    def _asked(self, name: str, form: str, question: Question, text: str, length: str) -> PhrasedSample:
        written = write_response(
            stream(self.split, self.seed, self.index),
            self.row.scene,
            question,
            allowed_pairs(self.split),
            length=length,
            reflections=1 if self.reflections is None and length == UNASKED_LENGTH else self.reflections,
            error_rate=self.error_rate,
        )
        answer = question.conclude(self.row.scene.things)
        return _build(name, form, self.row, question.kind, text, answer, written)

    def _unanswered(self, name: str, form: str, text: str) -> PhrasedSample:
        written = write_unanswered(None, self.row.scene, self.row.written.caption, UNKNOWN_ANSWER)
        return _build(name, form, self.row, "unknown", text, UNKNOWN_ANSWER, written)

    def _typed(self, text: str) -> str:
        text = as_typed(self.rng, text)
        return f"{text} {self.rng.choice(list(REQUESTS.values()))}" if self.rng.random() < 0.2 else text


def _build(
    name: str, form: str, row: TabletopSample, kind: str, prompt: str, answer: str, written: Written
) -> PhrasedSample:
    return PhrasedSample(name, form, kind, SceneImage(row.scene, name), prompt, answer, written)
