"""Visual re-attention: when to look again and at which visual tokens. Pure functions; the one definition for every use.

COPY (VTC) re-inserts all visual tokens of the prompt before `<REFLECTION>`, ROUTE (VTR) the m% most attended ones
(equation 5). The paper leaves open: the order and positions of routed tokens (here: grid order, their places in a fresh
grid), several images (all, in order, ranked together), the layers and heads of the ranking (here: all, selectable).
The controls are ours: each takes away one thing that a look is claimed to work by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from look_again.core.diversity import diverse_indices
from look_again.core.modes import (
    COMPARISON_MODES,
    CONTROLS,
    MODES,
    POSITION_LAYOUTS,
    RANKINGS,
    REUSES,
    RULES,
    parse_mode,
)
from look_again.core.slots import SlotBuilder, VisualSpan


@dataclass(frozen=True, kw_only=True)
class Reattention:
    """What happens at `<REFLECTION>`. ValueError on construction for values out of range.

    mode: "text" inserts nothing, "copy" all visual tokens, "route" the most attended, "vision" all of them and then
        closes the reflection at once (the paper's vision-only ablation). For comparison, not the paper's:
        "image-twice" shows every image twice in the prompt and inserts nothing; "user-turn" ends the model's turn, asks
        in a new one to look again and lets the model go on; "user-turn-image" does so with the images in the new turn
        (ReGround's form, arXiv 2608.04385).
    keep: m, the percentage of visual tokens that "route" (and the "random-rows" control) re-inserts; the default is
        the paper's main value.
    delimiters: put the family's vision delimiters around each image's tokens (the paper is silent; prompts have them).
    layout: "grid" keeps routed tokens at their places in a fresh grid, "strip" makes them one contiguous row.
    max_reinsertions: insertions per answer; later reflections show nothing and are reported as skipped.
    rule: "paper" is equation (5); "relative" subtracts the attention that the prompt's own text pays to a token, which
        discounts attention sinks.
    layers: decoder layers averaged by the ranking; None takes all (as the paper's figure 9 does).
    count_copies: attention on a re-inserted copy counts for the visual token that it copies; equation (5) counts the
        prompt's visual tokens alone.
    ranking: what "route" keeps: "relevance" the highest of the rule's attention, "diversity" the feature rows that
        differ most, "relevance-diversity" both at once (`core.diversity`).
    keep_frames: "route" keeps whole frames, m% of them, ranked by the attention on all their visual tokens together; an
        image is one frame.
    control: "wrong-image" shows another image's tokens at the same places, "random-rows" a random m%, "blank-image" the
        tokens of an image of the processor's mean colour; "random-place" shows them once, before a sampled token at a
        random place of the response that is not `<REFLECTION>`, and nothing at the reflections.
    seed: of the random choices and places.
    reuse: "rotated" puts cached visual keys back, rotated to their new positions, instead of prefilling copies, which
        then have not read what came before them (`core.reuse`); while decoding in this process alone.
    within: W: the random place comes after 1 to W sampled tokens; a response that ends earlier sees nothing again.
    """

    mode: str = "copy"
    keep: int = 50
    delimiters: bool = True
    layout: str = "grid"
    max_reinsertions: int = 16
    rule: str = "paper"
    layers: tuple[int, ...] | None = None
    count_copies: bool = False
    ranking: str = "relevance"
    keep_frames: bool = False
    control: str | None = None
    seed: int = 0
    within: int = 64
    reuse: str | None = None

    def __post_init__(self) -> None:
        _check("mode", self.mode, (*MODES, *COMPARISON_MODES))
        _check("layout", self.layout, POSITION_LAYOUTS)
        _check("rule", self.rule, RULES)
        _check("ranking", self.ranking, RANKINGS)
        if self.ranking != "relevance" and self.keep_frames:
            raise ValueError(f"keep_frames ranks whole frames by relevance, not by {self.ranking}")
        if self.control is not None:
            _check("control", self.control, CONTROLS)
        if self.reuse is not None:
            _check("reuse", self.reuse, REUSES)
            if self.control in ("wrong-image", "blank-image"):
                raise ValueError(f"control {self.control} shows what was never cached, so there is nothing to reuse")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or not 0 <= self.keep <= 100:
            raise ValueError(f"keep is a whole percentage from 0 to 100, not {self.keep!r}")
        if self.max_reinsertions < 0:
            raise ValueError(f"max_reinsertions cannot be negative: {self.max_reinsertions}")
        if self.within < 1:
            raise ValueError(f"within is a number of tokens, at least 1, not {self.within}")

    @classmethod
    def parse(cls, asked: Reattention | str | None, base: Reattention | None = None) -> Reattention:
        """What is asked for: a policy as it is, a word on top of `base` ("text", "copy", "vision", "route",
        "route-25"), or, for None, `base` itself. Without a base the defaults stand. ValueError for an unknown word.
        """
        base = base or cls()
        if asked is None:
            return base
        if isinstance(asked, Reattention):
            return asked
        if not isinstance(asked, str):
            raise ValueError(f"reattention is a word such as 'copy' or 'route-25', or a Reattention, not {asked!r}")
        mode, keep = parse_mode(asked)
        return replace(base, mode=mode, keep=base.keep if keep is None else keep)

    def __str__(self) -> str:
        """The policy in a few words: its mode, and what differs from the defaults."""
        mode = f"route-{self.keep}" if self.mode == "route" else self.mode
        names = (
            "rule",
            "layout",
            "delimiters",
            "max_reinsertions",
            "layers",
            "count_copies",
            "keep_frames",
            "control",
            "reuse",
        )
        changed = [
            f"{name} {getattr(self, name)}" for name in names if getattr(self, name) != getattr(type(self), name)
        ]
        return ", ".join([mode, *changed])

    def ranking_layers(self, num_layers: int, attending: Sequence[int] | None = None) -> Sequence[int]:
        """The decoder layers that the ranking averages. ValueError for one that the model does not have.

        attending: the layers that have attention, None for all of them.
        """
        if self.layers is None:
            return range(num_layers) if attending is None else attending
        if (
            not self.layers
            or len(set(self.layers)) < len(self.layers)
            or not set(self.layers) <= set(range(num_layers))
        ):
            raise ValueError(f"layers must be different numbers from 0 to {num_layers - 1}, not {self.layers}")
        if attending is not None and not set(self.layers) <= set(attending):
            raise ValueError(f"layers without attention cannot rank: of {self.layers}, only {list(attending)} have any")
        return self.layers

    @property
    def inserts(self) -> bool:
        """Whether any visual tokens are ever re-inserted."""
        return self.mode in ("copy", "vision") or (self.mode == "route" and self.keep > 0)

    @property
    def needs_scores(self) -> bool:
        """Whether a ranking has to be measured while decoding."""
        return self._chooses and self.ranking != "diversity"

    @property
    def needs_features(self) -> bool:
        """Whether the choice looks at the feature rows themselves."""
        return self._chooses and self.ranking != "relevance"

    @property
    def _chooses(self) -> bool:
        return self.mode == "route" and 0 < self.keep < 100 and self.control != "random-rows"

    @property
    def opens_turn(self) -> bool:
        """Whether a new user turn comes before each reflection."""
        return self.mode in ("user-turn", "user-turn-image")

    @property
    def prompt_copies(self) -> int:
        """How often the prompt shows each image."""
        return 2 if self.mode == "image-twice" else 1

    def lacks_ranking(self, sampled_before: int) -> bool:
        """Whether a ranking is needed where none exists: equation (5) is a mean over the tokens sampled before."""
        return self.needs_scores and sampled_before == 0

    @property
    def strays(self) -> bool:
        """Whether visual tokens are re-inserted at a random place instead of at the reflections."""
        return self.inserts and self.control == "random-place"

    def number_reinserted(self, visual_tokens: int) -> int:
        """k = ceil(m V / 100), in integers; V for the modes that copy."""
        chooses = self.mode == "route" or (self.control == "random-rows" and self.mode != "text")
        return -(-self.keep * visual_tokens // 100) if chooses else visual_tokens if self.inserts else 0

    def slots_per_insertion(self, visual_token_counts: Sequence[int], text_tokens: int | None = None) -> int:
        """Most slots that one insertion takes, delimiters with it, from the visual tokens of each image.

        text_tokens: what else all images' blocks hold, None for a pair of delimiters each.
        """
        delimiters = self.delimiters * (2 * len(visual_token_counts) if text_tokens is None else text_tokens)
        kept = sum(visual_token_counts) if self.keep_frames else self.number_reinserted(sum(visual_token_counts))
        return kept + delimiters if self.inserts else 0


def _check(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def top_indices(scores_V: torch.Tensor, k: int) -> list[int]:
    """Indices of the k highest scores, ascending; ties go to the lower index."""
    order = torch.sort(scores_V, descending=True, stable=True).indices[:k]
    return sorted(order.tolist())


def choose_visual_tokens(
    policy: Reattention,
    visual_tokens: int,
    scores_V: torch.Tensor | None = None,
    reflection: int = 0,
    frames: Sequence[int] = (),
    features_VD: torch.Tensor | None = None,
    prompt_ids: Sequence[int] = (),
) -> list[int]:
    """Which of a sequence's V visual tokens are re-inserted at its reflection number `reflection`, ascending.

    `scores_V` (V,) is the ranking, needed when `policy.needs_scores`. `frames`: visual tokens of each frame, needed
    where the policy keeps whole frames. `features_VD` (V, D), at least, is the feature table, needed when
    `policy.needs_features`. Random choices depend on the policy's seed, the number of the reflection and `prompt_ids`,
    the sequence's own prompt, alone: other prompts draw others, and neither a batch nor a resumed run changes them.
    """
    if policy.keep_frames and visual_tokens:
        return _choose_frames(policy, visual_tokens, scores_V, reflection, frames, prompt_ids)
    k = policy.number_reinserted(visual_tokens)
    if policy.control == "random-rows" and k:
        generator = torch.Generator().manual_seed(_draw(policy, prompt_ids, f":{reflection}"))
        return sorted(torch.randperm(visual_tokens, generator=generator)[:k].tolist())
    if k in (0, visual_tokens):
        return list(range(k))
    if scores_V is None and policy.needs_scores:
        raise ValueError("route needs the attention scores of the visual tokens")
    if policy.needs_features:
        if features_VD is None:
            raise ValueError(f"the ranking {policy.ranking!r} needs the visual features, which are not here")
        return diverse_indices(features_VD[:visual_tokens], k, scores_V if policy.needs_scores else None)
    assert scores_V is not None
    return top_indices(scores_V, k)


def _choose_frames(
    policy: Reattention,
    visual_tokens: int,
    scores_V: torch.Tensor | None,
    reflection: int,
    frames: Sequence[int],
    prompt_ids: Sequence[int],
) -> list[int]:
    """The visual tokens of the frames that are kept."""
    if sum(frames) != visual_tokens:
        raise ValueError(f"keep_frames needs the frames of all {visual_tokens} visual tokens, not of {sum(frames)}")
    mass_F = None if scores_V is None else torch.stack([part.sum() for part in scores_V.split(list(frames))])
    kept = choose_visual_tokens(
        replace(policy, keep_frames=False), len(frames), mass_F, reflection, prompt_ids=prompt_ids
    )
    starts = [0, *accumulate(frames)]
    return [index for frame in kept for index in range(starts[frame], starts[frame + 1])]


def list_features(policy: Reattention, features_VD: torch.Tensor | None) -> dict[str, Any]:
    """The argument `features_VD` of `choose_visual_tokens`, where the policy asks for it."""
    return {"features_VD": features_VD} if policy.needs_features else {}


def list_frames(policy: Reattention, spans: Sequence[VisualSpan]) -> dict[str, Any]:
    """The argument `frames` of `choose_visual_tokens`, where the policy asks for it."""
    return {"frames": [tokens for span in spans for tokens in span.frames]} if policy.keep_frames else {}


def list_prompt(policy: Reattention, builder: SlotBuilder) -> dict[str, Any]:
    """The argument `prompt_ids` of `choose_visual_tokens`, where the policy draws at random."""
    return {"prompt_ids": builder.prompt_ids} if policy.control == "random-rows" else {}


def random_place(policy: Reattention, prompt_ids: Sequence[int]) -> int:
    """After how many sampled tokens the "random-place" control re-inserts: 1 to `policy.within`, evenly.

    It depends on the policy's seed and the sequence's own prompt alone, so neither a batch nor a resumed run moves it.
    """
    return 1 + _draw(policy, prompt_ids) % policy.within


def _draw(policy: Reattention, prompt_ids: Sequence[int], of: str = "") -> int:
    """A number of 64 bits that the policy's seed, a prompt and what is drawn decide."""
    key = f"{policy.seed}:{','.join(map(str, prompt_ids))}{of}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])


def split_by_image(indices: Sequence[int], spans: Sequence[VisualSpan]) -> list[tuple[VisualSpan, list[int]]]:
    """Indices into the whole table as (image, indices within it), images in order; `spans` follow one another."""
    base = spans[0].first if spans else 0
    return [
        (
            span,
            [base + index - span.first for index in indices if span.first <= base + index < span.first + span.count],
        )
        for span in spans
    ]


def insertion_size(policy: Reattention, parts: Sequence[tuple[VisualSpan, Sequence[int]]]) -> int:
    """Slots that an insertion takes: visual tokens, and the delimiters of each image that shows any."""
    return sum(len(indices) + policy.delimiters * span.text_tokens for span, indices in parts if indices)


def reinsert(builder: SlotBuilder, policy: Reattention, parts: Sequence[tuple[VisualSpan, Sequence[int]]]) -> int:
    """Append an insertion to a sequence, right before the token that looks again; returns the slots appended."""
    return builder.insert(parts, delimiters=policy.delimiters, layout=policy.layout)
