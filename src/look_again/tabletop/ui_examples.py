"""Tabletop's questions as examples of the page (`ui.examples`): a set has one scene of each kind of question."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from look_again.tabletop.questions import KINDS
from look_again.tabletop.render import render
from look_again.tabletop.samples import TabletopSample, make_sample

SPLIT = "test"
LENGTHS = ("long", "normal")


@dataclass(frozen=True)
class TabletopExample:
    """A row of Tabletop as an example."""

    row: TabletopSample

    @property
    def text(self) -> str:
        return self.row.prompt

    @property
    def title(self) -> str:
        return self.row.question.text

    @property
    def label(self) -> str:
        return self.row.question.kind

    def draw(self) -> Image.Image:
        """The rendered scene."""
        return render(self.row.scene)


class TabletopExamples:
    """A set for each seed of the split "test"."""

    noun = "a Tabletop scene"
    count = len(KINDS)

    def example(self, seed: int, index: int) -> TabletopExample:
        """Example `index` of the set of a seed."""
        return TabletopExample(make_sample(SPLIT, seed, index, length=LENGTHS[index % len(LENGTHS)]))


TABLETOP_EXAMPLES = TabletopExamples()
