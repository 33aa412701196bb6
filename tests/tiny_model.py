"""A tiny random Qwen2.5-VL for tests: images and prompts made on the spot, decoding with planned tokens, full passes.

The reference passes use the library alone: one pass over a finished sequence without cache, recorder or batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList, Qwen2VLImageProcessorPil
from transformers.modeling_outputs import BaseModelOutputWithPooling

from look_again.core.families import find_family
from look_again.core.generate import LookAgainDecoding, LookAgainOutput
from look_again.core.reattention import Reattention
from look_again.core.slots import Provenance, Slots
from look_again.core.trigger import Trigger
from look_again.tabletop.tiny import TinyConfig

SMALL = (56, 84)  # pixels, height and width: 2 x 3 visual tokens
LARGE = (84, 140)  # 3 x 5 visual tokens, more than one window of the vision tower
TINIER = TinyConfig(
    vocabulary=320,
    hidden=64,
    layers=2,
    heads=2,
    kv_heads=1,
    mlp=96,
    vision_hidden=32,
    vision_layers=2,
    vision_heads=2,
    vision_mlp=64,
    full_attention_layers=(1,),
)
WEIGHT_SCALE = 6.0  # freshly initialised weights attend almost uniformly, and then nothing depends on anything
TOLERANCE = 1e-4  # of logits in float32


@dataclass(frozen=True)
class Prompt:
    """A prompt and its pictures as the vision tower takes them; None without pictures."""

    token_ids: list[int]
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None


def make_prompt(tokenizer: Any, text: str, sizes: Sequence[tuple[int, int]], seed: int = 0) -> Prompt:
    """A user's turn that shows noise pictures of these sizes, then the text."""
    pixel_values, image_grid_thw = make_images(sizes, seed) if sizes else (None, None)
    grids = [] if image_grid_thw is None else image_grid_thw.tolist()
    shown = "".join(f"<|vision_start|>{'<|image_pad|>' * (h * w // 4)}<|vision_end|>" for _, h, w in grids)
    text = f"<|im_start|>user\n{shown}{text}<|im_end|>\n<|im_start|>assistant\n"
    return Prompt(tokenizer(text)["input_ids"], pixel_values, image_grid_thw)


def make_images(sizes: Sequence[tuple[int, int]], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(patches, values) and (pictures, 3) of noise pictures."""
    noise = np.random.default_rng(seed)
    pictures = [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28**2, "longest_edge": 64 * 28**2})
    made = processor(images=pictures, return_tensors="pt")
    return made["pixel_values"], made["image_grid_thw"]


def batch_inputs(tokenizer: Any, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """What the family's processor would hand to `generate`: prompts padded on the left, all pictures in order."""
    columns = max(len(prompt.token_ids) for prompt in prompts)
    ids = torch.full((len(prompts), columns), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, columns - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
        mask[row, columns - len(prompt.token_ids) :] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    for name in ("pixel_values", "image_grid_thw"):
        parts = [part for prompt in prompts if (part := getattr(prompt, name)) is not None]
        inputs |= {name: torch.cat(parts)} if parts else {}
    return inputs


Plan = Mapping[tuple[int, int], int]
"""Tokens to force, by (batch row, response column)."""


class ForcedTokens(LogitsProcessor):
    """Forces the planned tokens; everywhere else bans `never`, so that nothing reflects unplanned."""

    def __init__(self, plan: Plan, prompt_columns: int, never: Sequence[int] = ()) -> None:
        self.plan, self.prompt_columns, self.never = plan, prompt_columns, list(never)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, self.never] = float("-inf")
        step = input_ids.shape[1] - self.prompt_columns
        for row in range(scores.shape[0]):
            if (row, step) in self.plan:
                scores[row] = float("-inf")
                scores[row, self.plan[row, step]] = 0.0
        return scores


def decode(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    policy: Reattention | None = None,
    plan: Plan | None = None,
    *,
    decoding: LookAgainDecoding | None = None,
    **options: Any,
) -> LookAgainOutput:
    """Greedy decoding of 24 tokens with the planned tokens forced; no end of turn unless asked for."""
    inputs = batch_inputs(tokenizer, prompts)
    trigger = Trigger.of(tokenizer)
    forced = ForcedTokens(plan or {}, inputs["input_ids"].shape[1], [trigger.open_id])
    defaults = {"max_new_tokens": 24, "eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}
    return model.generate(
        **inputs,
        custom_generate=decoding or LookAgainDecoding(trigger, policy),
        logits_processor=LogitsProcessorList([forced]),
        **(defaults | options),
    )


def responses(output: LookAgainOutput, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Each row's own response tokens, without the padding after its end."""
    assert output.sequences is not None
    assert output.slots is not None
    columns = max(len(prompt.token_ids) for prompt in prompts)
    return [
        ids[columns : columns + len(response_slots(slots))].tolist()
        for ids, slots in zip(output.sequences, output.slots, strict=True)
    ]


def response_slots(slots: Slots) -> list[int]:
    """The slot of each response token: sampled ones, and forced ones that are not delimiters of an insertion."""
    sampled = slots.provenance == Provenance.SAMPLED
    forced = slots.provenance == Provenance.FORCED
    insertion = slots.provenance == Provenance.REINSERTED
    beside = torch.nn.functional.pad(insertion, (1, 1))
    return (sampled | (forced & ~beside[:-2] & ~beside[2:])).nonzero()[:, 0].tolist()


def feature_table(model: Any, prompt: Prompt) -> torch.Tensor:
    """(V, hidden) features of a prompt's pictures, in order."""
    with torch.no_grad():
        return torch.cat(model.get_image_features(prompt.pixel_values, prompt.image_grid_thw).pooler_output)


@torch.no_grad()
def full_pass(model: Any, slots: Slots, table: torch.Tensor | None, **options: Any) -> Any:
    """One pass without cache over a finished sequence; features gathered, positions as the slots say."""
    shown = slots.visual_indices[slots.visual_indices >= 0]
    if len(shown):
        assert table is not None
        encoded = BaseModelOutputWithPooling(pooler_output=[table[shown]])
        options["mm_encoder_outputs"] = {"image": encoded}
    ids, positions = slots.token_ids[None], slots.positions[:, None]
    return model(input_ids=ids, position_ids=positions, use_cache=False, **options)


def library_inputs(model: Any, prompt: Prompt, slots: Slots) -> dict[str, torch.Tensor]:
    """The finished sequence as the library would be given it: every re-inserted image is one more image."""
    assert prompt.pixel_values is not None
    assert prompt.image_grid_thw is not None
    image = find_family(model.config).vision_tokens(model.config).image
    times = int((slots.token_ids == image).sum()) // prompt.token_ids.count(image)
    return {
        "input_ids": slots.token_ids[None],
        "pixel_values": prompt.pixel_values.repeat(times, 1),
        "image_grid_thw": prompt.image_grid_thw.repeat(times, 1),
        "mm_token_type_ids": (slots.token_ids == image).long()[None],
    }


def logit_gap(output: LookAgainOutput, row: int, full_NW: torch.Tensor) -> float:
    """Largest difference between a row's decoding logits and a full pass, over all tokens it sampled from them."""
    assert output.logits is not None
    assert output.slots is not None
    slots, gaps = output.slots[row], []
    for step, slot in enumerate(response_slots(slots)):
        if (source := int(slots.sampled_from[slot])) >= 0:
            gaps.append(float((output.logits[step][row] - full_NW[source]).abs().max()))
    assert gaps
    return max(gaps)


def same_slots(one: Slots, other: Slots) -> bool:
    """Equal in every field."""
    return len(one) == len(other) and all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """The model on the library's plain attention, which returns its weights."""
    kernel = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(kernel)
