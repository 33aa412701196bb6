"""The designs of studies: what each asks, over which lengths and arms, and by which scores. Imports nothing heavy.

An arm is a policy of `evaluation.controls`, or "route-K", "route-K-diversity", "route-K-both" and "random-K" for K
percent of the visual tokens; "copy-rotated" is COPY with cached keys moved instead of copies prefilled, which not every
family carries, so that no design has it unasked. Behind an "@" stands the mask of the study of windows ("copy@local").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
ROTATED = "copy-rotated"
KEPT = (10, 25, 50)
MASKS = ("global", "mixed", "local")
ANSWER_TOKENS = 160  # for the reflection and the conclusion


RANKED = re.compile(r"(route|random)-([0-9]+)(-diversity|-both)?")
"""Arms that put a percentage of the visual tokens back: how those are chosen, how many, and what else ranks them."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """One experiment.

    title: what it measures. kind: of the long world's rows. scores: shares of the items, by name; of a folder of rows
    `row_scores`, None where it takes no folder. quick_lengths, quick_arms: of `--quick`. limits: what its result does
    not tell.
    """

    title: str
    lengths: tuple[int, ...]
    arms: tuple[str, ...]
    kind: str = "listed"
    scores: tuple[str, ...] = ("mended", "answers")
    row_scores: tuple[str, ...] | None = None
    quick_lengths: tuple[int, ...]
    quick_arms: tuple[str, ...]
    limits: tuple[str, ...] = ()


DESIGNS = {
    "distance": Design(
        title="what a reflection mends, by the tokens between the image and it",
        lengths=(100, 400, 800, 1600, 2400),
        arms=(*MAIN_ARMS, *OTHER_ARMS),
        row_scores=("answers",),
        quick_lengths=(100, 400, 800),
        quick_arms=("text", "copy", "wrong-image"),
    ),
    "swap": Design(
        title="whether answers follow the image or the text, where the image is not the one that was described",
        lengths=(100, 800),
        arms=("text", "copy", "wrong-image", "route-50", "image-twice", "user-turn", "user-turn-image"),
        kind="swap",
        scores=("picture", "described", "neither"),
        row_scores=("picture", "described", "neither"),
        quick_lengths=(100, 800),
        quick_arms=("text", "copy", "user-turn"),
        limits=("the image is exchanged as a whole before it is read: no model saw both",),
    ),
    "unwritten": Design(
        title="answers to a question about what no earlier token has stated, by the tokens before it is needed",
        lengths=(100, 400, 800, 1600),
        arms=("text", "copy", "wrong-image", "route-50", "image-twice", "user-turn-image"),
        kind="unwritten",
        scores=("answers",),
        quick_lengths=(100, 800),
        quick_arms=("text", "copy", "wrong-image"),
        limits=(
            "two answers are possible, so that chance is one half; a model that was never asked for sizes has none",
        ),
    ),
    "selection": Design(
        title="which visual tokens are worth putting back, by how many of them are",
        lengths=(800,),
        arms=(
            "text",
            "copy",
            *(f"route-{kept}{ranking}" for kept in KEPT for ranking in ("", "-diversity", "-both")),
            *(f"random-{kept}" for kept in KEPT),
        ),
        row_scores=("answers",),
        quick_lengths=(800,),
        quick_arms=("text", "copy", "route-10", "random-10"),
    ),
    "window": Design(
        title="what is left beyond the reach of sliding windows, with and without putting the image back",
        lengths=(100, 400, 800),
        arms=tuple(f"{arm}@{mask}" for mask in MASKS for arm in ("text", "copy", "wrong-image")),
        quick_lengths=(800,),
        quick_arms=("text@global", "copy@global", "text@local", "copy@local"),
        limits=(
            "the windows are a mask that the model was not trained with: an existence proof, not what a model that was "
            "trained with windows does",
        ),
    ),
}
