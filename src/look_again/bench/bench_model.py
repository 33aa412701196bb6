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
from transformers import AutoModelForImageTextToText, GenerationConfig, LogitsProcessor

from look_again.core.families import find_family
from look_again.core.inputs import process_images
from look_again.core.trigger import Trigger
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample
from look_again.tabletop.tiny import TinyConfig, build_image_processor, build_model, build_tokenizer
from look_again.text.instructions import question_messages
from look_again.text.renderer import Renderer
from look_again.training.large_shapes import PATCH_PIXELS, SPECIAL_IDS, TOKEN_PIXELS, LargeConfig

PROMPT_TEXT = (12, 60)  # text tokens of the large shapes' prompts before and after the image; the latter vary


@dataclass(frozen=True)
class Prompt:
    """token_ids: with V image tokens. pixel_values: (patches, patch size). grid_thw: (1, 3), in patches."""

    token_ids: list[int]
    pixel_values: torch.Tensor
    grid_thw: torch.Tensor


@dataclass(frozen=True)
class BenchModel:
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
        return find_family(self.model.config).vision_tokens(self.model.config).image


class ForcedIds(LogitsProcessor):
    """Makes every row sample its fixed answer (B, T) after a prompt of `prompt_columns`; both arms pay it alike."""

    def __init__(self, answers: torch.Tensor, prompt_columns: int) -> None:
        self.answers = answers
        self.prompt_columns = prompt_columns

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt_columns
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, self.answers[:, step : step + 1], 0.0)


def tiny_subject(batch: int, device: torch.device, dtype: torch.dtype, config: TinyConfig | None = None) -> BenchModel:
    """The tiny model on Tabletop's questions, 36 visual tokens each."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, config).eval().to(device, dtype)
    prompts = [_tabletop_prompt(tokenizer, model.config, index) for index in range(batch)]
    trigger = Trigger.of(tokenizer)
    return BenchModel(model, prompts, trigger, text_ids=min(tokenizer.added_tokens_decoder))


def large_subject(
    batch: int, device: torch.device, dtype: torch.dtype, config: LargeConfig | None = None
) -> BenchModel:
    """Large shapes with random weights, made on the device in `dtype`: there is never a copy in float32."""
    large = config or LargeConfig()
    model = large_model(large, device, dtype)
    text_ids = large.vocabulary - SPECIAL_IDS
    model.generation_config = GenerationConfig(pad_token_id=text_ids, do_sample=False)
    generator = torch.Generator().manual_seed(0)
    prompts = [_random_prompt(large, row, text_ids, generator) for row in range(batch)]
    return BenchModel(model, prompts, Trigger(text_ids + 5, text_ids + 6), text_ids)


def large_model(large: LargeConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The model alone, in evaluation mode."""
    config = large.model_config()
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()


def _tabletop_prompt(tokenizer: Any, config: Any, index: int) -> Prompt:
    row = make_sample("train", 0, index)
    images = process_images(build_image_processor(), config, [render(row.scene)])
    renderer = Renderer(tokenizer, find_family(config).image_text)
    ids = renderer.render_prompt(question_messages(row.prompt, 1), images.shown)
    return Prompt(ids, images.tensors["pixel_values"], images.tensors["image_grid_thw"])


def _random_prompt(large: LargeConfig, row: int, text_ids: int, generator: torch.Generator) -> Prompt:
    """Text, the image between its delimiters, text; later rows of a batch have less text."""
    patches = large.image_pixels // PATCH_PIXELS
    visual_tokens = (large.image_pixels // TOKEN_PIXELS) ** 2
    before, after = PROMPT_TEXT
    text = torch.randint(text_ids, (before + after - 3 * row,), generator=generator).tolist()
    image = [text_ids + 1, *[text_ids + 3] * visual_tokens, text_ids + 2]
    pixels = torch.randn(patches * patches, 3 * 2 * PATCH_PIXELS**2, generator=generator)
    return Prompt([*text[:before], *image, *text[before:]], pixels, torch.tensor([[1, patches, patches]]))
