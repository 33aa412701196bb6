"""What a study runs: its arms, lengths and numbers of rows, checked before any work. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAIN_ARMS = ("text", "copy", "wrong-image", "route-50")
OTHER_ARMS = (
    "image-twice",
    "user-turn",
    "user-turn-image",
    "blank-image",
    "random-rows",
    "route-50-diversity",
    "route-50-both",
)
MIN_ITEMS = 10
BLOCK = 50  # rows of a cell's run; a study with more rows goes on from the blocks that there are
ANSWER_TOKENS = 160  # for the reflection and the conclusion
PRIMARY_LENGTH = 800


@dataclass(frozen=True, kw_only=True)
class DistanceSettings:
    """One study of distance. ValueError, before any work, for what cannot be run.

    lengths: tokens of work before the reflection. arms: of `evaluation.controls`. n: rows of MAIN_ARMS; n_other: of all
    others, the first of the same rows. models: checkpoints, one per training seed of one recipe; None is the shipped
    model. rows: a folder of rows instead of the long world. size, split, seed: of the long world's stream.
    """

    lengths: tuple[int, ...] = (100, 400, 800, 1600, 2400)
    arms: tuple[str, ...] = (*MAIN_ARMS, *OTHER_ARMS)
    n: int = 300
    n_other: int = 100
    models: tuple[str | None, ...] = (None,)
    rows: str | None = None
    size: str = "small"
    split: str = "test"
    seed: int = 0
    batch: int = 20
    jobs: int = 1
    quick: bool = field(default=False)

    def __post_init__(self) -> None:
        if "text" not in self.arms or "copy" not in self.arms:
            raise ValueError("a study compares with text and copy: name both among the arms")
        for name, n in (("n", self.n), ("n-other", self.n_other)):
            if n < MIN_ITEMS:
                raise ValueError(
                    f"--{name} is {n}: a cell needs at least {MIN_ITEMS} rows, of fewer there is no interval"
                )
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"--lengths are different numbers of tokens, not {list(self.lengths)}")
        if self.rows is None and not all(100 <= length <= 4000 for length in self.lengths):
            raise ValueError(f"the long world has 100 to 4000 tokens of work, not {list(self.lengths)}")
        if min(self.batch, self.jobs) < 1:
            raise ValueError("--batch and --jobs are at least 1")

    def items(self, arm: str) -> int:
        """Rows of a cell of this arm."""
        return self.n if arm in MAIN_ARMS else min(self.n, self.n_other)


def quick_settings(**given: object) -> DistanceSettings:
    """A study that ends in minutes on two cores; its intervals are wide."""
    small = {"lengths": (100, 400, 800), "arms": ("text", "copy", "wrong-image"), "n": 20, "n_other": 20}
    return DistanceSettings(**(given | small), quick=True)  # type: ignore[arg-type]


def check_context(lengths: Sequence[int], context: int, visual_tokens: int) -> None:
    """ValueError where the longest work, two images and an answer do not fit the model's context."""
    room = context - 2 * visual_tokens - ANSWER_TOKENS - 128  # the question, turns and delimiters
    if max(lengths) > room:
        raise ValueError(
            f"{max(lengths)} tokens of work do not fit: the model's context is {context}, which leaves {room} beside "
            "the question, the image twice and an answer"
        )
