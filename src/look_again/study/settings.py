"""What a study runs: its design, arms, lengths and numbers of rows, checked before any work. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from look_again.study.designs import ANSWER_TOKENS, DESIGNS, MAIN_ARMS, MASKS, Design

MIN_ITEMS = 10
BLOCK = 50  # rows of a cell's run; a study with more rows goes on from the whole blocks that there are
PRIMARY_LENGTH = 800
WINDOW = 128
BASES = ("text", "copy")


def split_arm(arm: str) -> tuple[str, str]:
    """Policy and mask of an arm; no mask is ""."""
    policy, _, mask = arm.partition("@")
    return policy, mask


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """One study. ValueError, before any work, for what cannot be run.

    study: its design. lengths: tokens of work before the reflection. arms: see `designs`. n: rows of MAIN_ARMS;
    n_other: of all others, the first of the same rows. models: checkpoints, one per training seed of one recipe; None
    is the shipped model. rows: a folder of rows instead of the long world. size, split, seed: of the long world's
    stream. window: slots that a layer of the study of windows sees.
    """

    study: str = "distance"
    lengths: tuple[int, ...] = DESIGNS["distance"].lengths
    arms: tuple[str, ...] = DESIGNS["distance"].arms
    n: int = 300
    n_other: int = 100
    models: tuple[str | None, ...] = (None,)
    rows: str | None = None
    size: str = "small"
    split: str = "test"
    seed: int = 0
    batch: int = 25
    jobs: int = 1
    window: int = WINDOW
    quick: bool = field(default=False)

    def __post_init__(self) -> None:
        if self.study not in DESIGNS:
            raise ValueError(f"unknown study {self.study!r}; known: {', '.join(DESIGNS)}")
        self._check_arms()
        for name, n in (("n", self.n), ("n-other", self.n_other)):
            if n < MIN_ITEMS:
                raise ValueError(
                    f"--{name} is {n}: a cell needs at least {MIN_ITEMS} rows, of fewer there is no interval"
                )
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"--lengths are different numbers of tokens, not {list(self.lengths)}")
        if self.rows is None and not all(100 <= length <= 4000 for length in self.lengths):
            raise ValueError(f"the long world has 100 to 4000 tokens of work, not {list(self.lengths)}")
        if self.rows is not None and self.design.row_scores is None:
            raise ValueError(f"the study of {self.study!r} draws its rows: leave out --rows")
        if min(self.batch, self.jobs) < 1:
            raise ValueError("--batch and --jobs are at least 1")
        if self.window < 1:
            raise ValueError(f"--window is at least 1 slot, not {self.window}")

    def _check_arms(self) -> None:
        masks = {split_arm(arm)[1] for arm in self.arms}
        if wrong := sorted(masks - {"", *MASKS}):
            raise ValueError(f"unknown mask {wrong[0]!r}; known: {', '.join(MASKS)}")
        if (masks == {""}) == (self.study == "window"):
            known = "an arm of windows names its mask (text@local)" if masks == {""} else "masks belong to 'window'"
            raise ValueError(f"the study of {self.study!r} has no such arms: {known}")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms are named once each, not {list(self.arms)}")
        for mask in masks:
            if not {base + ("@" + mask if mask else "") for base in BASES} <= set(self.arms):
                raise ValueError("a study compares with text and copy: name both among the arms, of each mask")

    @property
    def design(self) -> Design:
        """The experiment."""
        return DESIGNS[self.study]

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores of an item that are reported."""
        return self.design.scores if self.rows is None else self.design.row_scores or ()

    def items(self, arm: str) -> int:
        """Rows of a cell of this arm."""
        return self.n if split_arm(arm)[0] in MAIN_ARMS else min(self.n, self.n_other)


def build_settings(study: str, *, quick: bool = False, **given: object) -> StudySettings:
    """The settings of a study; where nothing is given, its design's own.

    quick: a study that ends in minutes on two cores, whose intervals are wide; it has lengths, arms and numbers of its
    own. ValueError as `StudySettings`, and for those beside quick.
    """
    if study not in DESIGNS:
        raise ValueError(f"unknown study {study!r}; known: {', '.join(DESIGNS)}")
    design = DESIGNS[study]
    own: dict[str, object] = {"lengths": design.lengths, "arms": design.arms}
    if quick:
        own = {"lengths": design.quick_lengths, "arms": design.quick_arms, "n": 20, "n_other": 20}
        if both := [f"--{name.replace('_', '-')}" for name in own if name in given]:
            raise ValueError(f"--quick has lengths, arms and rows of its own: leave out {', '.join(both)} or --quick")
        return StudySettings(study=study, quick=True, **(given | own))  # type: ignore[arg-type]
    return StudySettings(study=study, **(own | given))  # type: ignore[arg-type]


def check_context(lengths: Sequence[int], context: int, visual_tokens: int) -> None:
    """ValueError where the longest work, two images and an answer do not fit the model's context."""
    room = answer_room(context, visual_tokens)
    if max(lengths) > room:
        raise ValueError(
            f"{max(lengths)} tokens of work do not fit: the model's context is {context}, which leaves {room} beside "
            "the question, the image twice and an answer"
        )


def answer_room(context: int, visual_tokens: int) -> int:
    """Tokens of work that a context takes beside the image twice, the question, turns, delimiters and an answer."""
    return context - 2 * visual_tokens - ANSWER_TOKENS - 128
