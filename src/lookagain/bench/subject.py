"""What is measured: a model with random weights, prompts of one image each, and answers that are fixed in advance.

Costs depend on shapes alone, so nothing has to be trained or downloaded: the tiny model reads Tabletop's prompts, the
large shapes read random text around an image of random patches. Answers are forced token by token, so that both arms of
a comparison write the same ids, `<REFLECTION>` at chosen steps among them.

Legend: B batch rows, T sampled tokens, W vocabulary, V visual tokens of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, LogitsProcessor, Qwen2_5_VLConfig

from lookagain.chat import encode_chat
from lookagain.families import family_of
from lookagain.tabletop.render import render
from lookagain.tabletop.rows import make_row
from lookagain.tabletop.tiny import TinyConfig, build_image_processor, build_model, build_tokenizer
from lookagain.trigger import Trigger

PATCH_PIXELS = 14
TOKEN_PIXELS = 28  # side of one visual token: two patches
SPECIAL_IDS = 16  # ids at the end of the large shapes' vocabulary that stand for images, tags and padding
PROMPT_TEXT = (12, 60)  # text tokens of the large shapes' prompts before and after the image; the latter vary


@dataclass(frozen=True)
class Prompt:
    """token_ids: with V image tokens. pixel_values: (patches, patch size). grid_thw: (1, 3), in patches."""

    token_ids: list[int]
    pixel_values: torch.Tensor
    grid_thw: torch.Tensor


@dataclass(frozen=True)
class Subject:
    """A model on its device, prompts for a batch, and how many ordinary text ids, from 0 on, answers are made of."""

    model: Any
    prompts: list[Prompt]
    trigger: Trigger
    text_ids: int

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def inputs(self, batch: int) -> dict[str, torch.Tensor]:
        """The first `batch` prompts as the model's inputs, padded on the left, on its device."""
        prompts = self.prompts[:batch]
        longest = max(len(prompt.token_ids) for prompt in prompts)
        ids = torch.full((batch, longest), self.model.generation_config.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
            mask[row, longest - len(prompt.token_ids) :] = 1
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "pixel_values": torch.cat([prompt.pixel_values for prompt in prompts]),
            "image_grid_thw": torch.cat([prompt.grid_thw for prompt in prompts]),
        }
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def answers(self, triggers: Sequence[Sequence[int]], tokens: int) -> torch.Tensor:
        """(B, T) fixed answers; row b writes `<REFLECTION>` at the steps `triggers[b]` and ordinary text elsewhere."""
        generator = torch.Generator().manual_seed(0)
        answers = torch.randint(self.text_ids, (len(triggers), tokens), generator=generator)
        for row, steps in enumerate(triggers):
            answers[row, list(steps)] = self.trigger.open_id
        return answers.to(self.device)

    @property
    def image_token(self) -> int:
        return family_of(self.model.config).vision_tokens(self.model.config).image


class ForcedIds(LogitsProcessor):
    """Makes every row sample its fixed answer (B, T) after a prompt of `prompt_columns`; both arms pay it alike."""

    def __init__(self, answers: torch.Tensor, prompt_columns: int) -> None:
        self.answers = answers
        self.prompt_columns = prompt_columns

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt_columns
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, self.answers[:, step : step + 1], 0.0)


@dataclass(frozen=True, kw_only=True)
class LargeConfig:
    """Shapes of Qwen2.5-VL-7B, from its published configuration; the rope sections scale with the head dimension.

    image_pixels: side of the prompt's square image, a multiple of 28.
    """

    vocabulary: int = 152064
    hidden: int = 3584
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    mlp: int = 18944
    vision_hidden: int = 1280
    vision_layers: int = 32
    vision_heads: int = 16
    vision_mlp: int = 3420
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)
    image_pixels: int = 448

    def __post_init__(self) -> None:
        if self.image_pixels < TOKEN_PIXELS or self.image_pixels % TOKEN_PIXELS:
            raise ValueError(f"image_pixels is a multiple of {TOKEN_PIXELS}, not {self.image_pixels}")
        if self.vocabulary <= 2 * SPECIAL_IDS:
            raise ValueError(f"vocabulary must be above {2 * SPECIAL_IDS}, not {self.vocabulary}")


def tiny_subject(batch: int, device: torch.device, dtype: torch.dtype, config: TinyConfig | None = None) -> Subject:
    """The tiny model on Tabletop's questions, 36 visual tokens each."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, config).eval().to(device, dtype)
    prompts = [_tabletop_prompt(tokenizer, model.config, index) for index in range(batch)]
    trigger = Trigger.of(tokenizer)
    return Subject(model, prompts, trigger, text_ids=min(tokenizer.added_tokens_decoder))


def large_subject(batch: int, device: torch.device, dtype: torch.dtype, config: LargeConfig | None = None) -> Subject:
    """Large shapes with random weights, made on the device in `dtype`: there is never a copy in float32."""
    large = config or LargeConfig()
    model = large_model(large, device, dtype)
    text_ids = large.vocabulary - SPECIAL_IDS
    model.generation_config = GenerationConfig(pad_token_id=text_ids, do_sample=False)
    generator = torch.Generator().manual_seed(0)
    prompts = [_random_prompt(large, row, text_ids, generator) for row in range(batch)]
    return Subject(model, prompts, Trigger(text_ids + 5, text_ids + 6), text_ids)


def large_model(large: LargeConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The model alone, in evaluation mode."""
    special = large.vocabulary - SPECIAL_IDS
    config = Qwen2_5_VLConfig(
        text_config=_text_config(large),
        vision_config=_vision_config(large),
        vision_start_token_id=special + 1,
        vision_end_token_id=special + 2,
        image_token_id=special + 3,
        video_token_id=special + 4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()


def _tabletop_prompt(tokenizer: Any, config: Any, index: int) -> Prompt:
    family, row = family_of(config), make_row("train", 0, index)
    picture = build_image_processor()(images=[render(row.scene)], return_tensors="pt")
    frames, rows, columns = family.merged_grid(picture["image_grid_thw"][0], config)
    content = [{"type": "image"}, {"type": "text", "text": row.prompt}]
    messages = [{"role": "user", "content": content}]
    ids = encode_chat(tokenizer, messages, [frames * rows * columns], image_token=family.image_text)
    return Prompt(ids, picture["pixel_values"], picture["image_grid_thw"])


def _random_prompt(large: LargeConfig, row: int, text_ids: int, generator: torch.Generator) -> Prompt:
    """Text, the image between its delimiters, text; later rows of a batch have less text."""
    patches = large.image_pixels // PATCH_PIXELS
    visual_tokens = (large.image_pixels // TOKEN_PIXELS) ** 2
    before, after = PROMPT_TEXT
    text = torch.randint(text_ids, (before + after - 3 * row,), generator=generator).tolist()
    image = [text_ids + 1, *[text_ids + 3] * visual_tokens, text_ids + 2]
    pixels = torch.randn(patches * patches, 3 * 2 * PATCH_PIXELS**2, generator=generator)
    return Prompt([*text[:before], *image, *text[before:]], pixels, torch.tensor([[1, patches, patches]]))


def _text_config(large: LargeConfig) -> dict[str, Any]:
    eighth = large.hidden // large.heads // 16
    return {
        "vocab_size": large.vocabulary,
        "hidden_size": large.hidden,
        "intermediate_size": large.mlp,
        "num_hidden_layers": large.layers,
        "num_attention_heads": large.heads,
        "num_key_value_heads": large.kv_heads,
        "max_position_embeddings": 128000,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [2 * eighth, 3 * eighth, 3 * eighth],
        },
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }


def _vision_config(large: LargeConfig) -> dict[str, Any]:
    return {
        "depth": large.vision_layers,
        "hidden_size": large.vision_hidden,
        "intermediate_size": large.vision_mlp,
        "num_heads": large.vision_heads,
        "out_hidden_size": large.hidden,
        "fullatt_block_indexes": list(large.full_attention_layers),
        "window_size": 112,
        "patch_size": PATCH_PIXELS,
        "spatial_merge_size": 2,
    }
