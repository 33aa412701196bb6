"""The arms that ratios compare: calls that decode the same forced answers in different ways."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessorList

from look_again.bench.bench_model import BenchModel, ForcedIds, LargeConfig, large_subject, tiny_subject
from look_again.bench.measure import Call, paired_ratios, timed
from look_again.bench.settings import BATCH, SHAPES, DecodeSettings
from look_again.core.families import find_family
from look_again.core.generate import LookAgainDecoding, LookAgainOutput
from look_again.core.reattention import Reattention, reinsert, split_by_image
from look_again.core.runner import Runner, encode_images
from look_again.core.slots import Provenance, SlotBuilder, build_spans
from look_again.tabletop.tiny import TinyConfig
from look_again.weights.devices import resolve_device

TEXT = Reattention(mode="text")
COPY = Reattention(mode="copy")


def build_subject(settings: DecodeSettings) -> BenchModel:
    """The model and prompts of the settings' shapes, on their device. LoadError for a device that is not here."""
    device, dtype = resolve_device(settings.device), getattr(torch, settings.dtype or SHAPES[settings.shapes])
    if settings.shapes == "tiny":
        tiny = TinyConfig() if settings.layers is None else TinyConfig(layers=settings.layers)
        return tiny_subject(BATCH, device, dtype, tiny)
    overrides = {name: getattr(settings, name) for name in ("layers", "vocabulary", "image_pixels")}
    large = replace(LargeConfig(), **{name: value for name, value in overrides.items() if value is not None})
    return large_subject(BATCH, device, dtype, large)


@dataclass
class Bench:
    """A subject under its settings; makes the arms that ratios compare."""

    subject: BenchModel
    settings: DecodeSettings

    @property
    def device(self) -> torch.device:
        return self.subject.device

    @property
    def route(self) -> Reattention:
        return Reattention(mode="route", keep=self.settings.keep)

    @property
    def random_rows(self) -> Reattention:
        """As many rows as `route`, without a ranking."""
        return Reattention(mode="route", keep=self.settings.keep, control="random-rows")

    def arm(self, policy: Reattention | None, triggers: Sequence[Sequence[int]], **options: Any) -> Call:
        """A call that decodes one batch, one row per entry of `triggers`; policy None is the library's `generate`."""
        inputs = self.subject.inputs(len(triggers))
        forced = ForcedIds(self.subject.answers(triggers, self.settings.tokens), inputs["input_ids"].shape[1])
        common = {
            **inputs,
            "max_new_tokens": self.settings.tokens,
            "eos_token_id": None,
            "do_sample": False,
            "logits_processor": LogitsProcessorList([forced]),
        }
        if policy is None:
            types = (inputs["input_ids"] == self.subject.image_token).long()
            return partial(self.subject.model.generate, **common, mm_token_type_ids=types)
        own = {name: options.pop(name) for name in ("on_event", "compile") if name in options}
        decoding = LookAgainDecoding(self.subject.trigger, policy, **own)
        return partial(self.subject.model.generate, **common, **options, custom_generate=decoding)

    def forced_at_once(self) -> Call:
        """A call that reads the fixed answers of a batch with its prompts, in one pass, and samples nothing more."""
        silent: list[list[int]] = [[] for _ in range(BATCH)]
        answers = self.subject.answers(silent, self.settings.tokens).tolist()
        decoding = LookAgainDecoding(self.subject.trigger, TEXT, prefixes=answers)
        inputs = {**self.subject.inputs(BATCH), "max_new_tokens": self.settings.tokens}
        return partial(
            self.subject.model.generate, **inputs, eos_token_id=None, do_sample=False, custom_generate=decoding
        )

    def forced_one_by_one(self) -> Call:
        """A call that forces as many answers of the same length token by token, one sequence at a time."""
        one = self.arm(TEXT, [[]])
        return lambda: [one() for _ in range(BATCH)]

    def output(self, policy: Reattention, triggers: Sequence[Sequence[int]]) -> LookAgainOutput:
        """One decoded batch with its details. Asserts that it reflected as planned: nothing skipped, nothing added."""
        output = self.arm(policy, triggers, return_dict_in_generate=True)()
        for row, steps in zip(output.reflections, triggers, strict=True):
            assert [reflection.at for reflection in row] == list(steps), "the forced answer did not reflect as planned"
            assert all(bool(reflection.visual_indices) == policy.inserts for reflection in row), (
                "a re-insertion was skipped"
            )
        return output

    def ratios(self, measured: Call, baseline: Call) -> list[float]:
        """Time of one arm over time of the other, per pair."""
        clock = time.process_time if self.settings.clock == "cpu" else time.perf_counter
        measure = partial(timed, device=self.device, clock=clock)
        return paired_ratios(measured, baseline, self.settings.pairs, measure)


class ReflectionArms:
    """One reflection of COPY after `answered` sampled tokens, in two ways that read the same slots.

    `chunk` feeds the insertion and its tag on the warm cache. `resubmit` does what a server without re-attention would:
    a fresh prefill of everything so far with the image again, and a vision pass over both images.
    """

    def __init__(self, subject: BenchModel, answered: int) -> None:
        self.subject, model = subject, subject.model
        family, inputs = find_family(model.config), subject.inputs(1)
        self.grid_thw, self.pixel_values = inputs["image_grid_thw"], inputs["pixel_values"]
        spans = build_spans([family.merged_grid(self.grid_thw[0], model.config)])
        self.builder = SlotBuilder(family, family.vision_tokens(model.config))
        self.builder.add_prompt(subject.prompts[0].token_ids, spans)
        for token in subject.answers([[]], answered)[0].tolist():
            self.builder.add_token(token, Provenance.SAMPLED)
        with torch.no_grad():
            self.runner = Runner(model, [self.builder], encode_images(model, self.pixel_values, self.grid_thw))
            self.runner.prefill()
        self.prefilled = len(self.builder)
        reinsert(self.builder, COPY, split_by_image(range(spans[0].count), spans))
        self.builder.add_token(subject.trigger.open_id, Provenance.SAMPLED)

    @torch.no_grad()
    def chunk(self) -> torch.Tensor:
        """Logits (1, W) after the tag; the chunk is taken back from the cache, so that the next call feeds it again."""
        logits = self.runner.chunk(0)
        self.runner.cache.advance(0, self.prefilled - len(self.builder))
        return logits

    @torch.no_grad()
    def rotated(self) -> torch.Tensor:
        """Logits (1, W) after the tag, the copies being cached keys that were rotated (`reuse="rotated"`)."""
        self.runner.reuse_copies(0)
        return self.chunk()

    @torch.no_grad()
    def resubmit(self) -> torch.Tensor:
        """Logits (1, W) after the tag."""
        ids = torch.tensor([self.builder.token_ids], device=self.subject.device)
        return self.subject.model(
            input_ids=ids,
            pixel_values=self.pixel_values.repeat(2, 1),
            image_grid_thw=self.grid_thw.repeat(2, 1),
            mm_token_type_ids=(ids == self.subject.image_token).long(),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
