"""Decoding with visual re-attention: a `custom_generate` callable for transformers' `model.generate`.

When a row writes `<REFLECTION>`, the policy's visual rows are appended right before it and the row is fed that chunk on
its warm cache: no second vision pass, no re-prefill, no copy of the cache. Other rows of the batch take their ordinary
step. A model without trained tags may spell the tag in several pieces; the pieces are taken back and fed again after
the insertion (the attention they paid stays in ROUTE's mean, the one departure from equation 5, for such models only).

Legend: B batch rows, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation import GenerationMode
from transformers.utils import ModelOutput

from lookagain.attention import recorded_attention
from lookagain.families import Family, Grid, VisionTokens, family_of
from lookagain.reattention import (
    Reattention,
    choose_rows,
    insertion_size,
    look_again,
    random_place,
    split_by_image,
)
from lookagain.runner import Runner, encode_images
from lookagain.slots import Provenance, SlotBuilder, Slots, VisualSpan, spans_of
from lookagain.trigger import Trigger


@dataclass(frozen=True)
class Reflection:
    """One `<REFLECTION>` of an answer.

    rows: indices of the visual rows put back, over all images of the prompt in order. skipped: why nothing was put back
    although the mode would have ("context", "max_reinsertions", "max_new_tokens", "no image", "random-place"), else
    None. at: number of response tokens before the tag. stray: no tag, but the insertion of the random-place control.
    """

    mode: str
    rows: tuple[int, ...] = ()
    skipped: str | None = None
    at: int = 0
    stray: bool = False

    @property
    def reinserted_tokens(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Token:
    """Event: row `row` got a response token. `forced`: written by the decoding loop, not sampled."""

    row: int
    token_id: int
    forced: bool = False


@dataclass(frozen=True)
class Reinsertion:
    """Event: row `row` looks again; comes before the Token event that follows it, the `<REFLECTION>` that caused it."""

    row: int
    reflection: Reflection


@dataclass(frozen=True)
class End:
    """Event: row `row` is finished; reason "stop", "length" (max_new_tokens) or "context" (the context is full)."""

    row: int
    reason: str


Event = Token | Reinsertion | End


@dataclass
class LookAgainOutput(ModelOutput):
    """What `generate(return_dict_in_generate=True)` returns.

    sequences: (B, prompt + response) ids; image rows and delimiters that were re-inserted are not in it. slots: by row,
    the whole sequence as the model read it. scores, logits: per step (B, W), when asked for. cache_slots: slots
    allocated per row at the end.
    """

    sequences: torch.Tensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    slots: list[Slots] | None = None
    reflections: list[list[Reflection]] | None = None
    finish_reasons: list[str] | None = None
    cache_slots: int | None = None


@dataclass
class Row:
    """One sequence that is being decoded."""

    builder: SlotBuilder
    spans: tuple[VisualSpan, ...]
    shown: tuple[VisualSpan, ...]  # whose rows are put back: `spans`, or the other images' of a control
    forced: list[int] = field(default_factory=list)
    reflections: list[Reflection] = field(default_factory=list)
    sampled: int = 0
    place: int | None = None  # sampled tokens before the random-place control's insertion; None once it is done
    response: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def visual_rows(self) -> int:
        return sum(span.count for span in self.spans)


class LookAgainDecoding:
    """The callable: `model.generate(**inputs, custom_generate=LookAgainDecoding(trigger, policy))`.

    Takes what the family's processor makes (`input_ids`, `attention_mask`, `pixel_values`, `image_grid_thw`), greedy or
    sampling, with the library's logits processors and stopping criteria. `max_new_tokens` counts sampled tokens. The
    control images of the wrong-image control come as `control_pixel_values` and `control_grid_thw`, one per image.

    trigger: how `<REFLECTION>` is recognised. on_event: called with each Event as it happens. max_context: most slots
    of a sequence; None takes the model's `max_position_embeddings`. generator: of the sampling.
    """

    def __init__(
        self,
        trigger: Trigger,
        policy: Reattention | None = None,
        *,
        on_event: Callable[[Event], None] | None = None,
        max_context: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.trigger = trigger
        self.policy = policy or Reattention()
        self.on_event = on_event or (lambda event: None)
        self.max_context = max_context
        self.generator = generator

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        control_pixel_values: torch.Tensor | None = None,
        control_grid_thw: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | LookAgainOutput:
        """Called by `generate`. ValueError for beams, assisted decoding, videos and images that do not match."""
        _check_supported(generation_config, model_kwargs)
        images = _encode(model, pixel_values, image_grid_thw)
        others = _encode(model, control_pixel_values, control_grid_thw)
        if self.policy.control == "blank-image" and not others and pixel_values is not None:
            others = _encode(model, torch.zeros_like(pixel_values), image_grid_thw)  # 0 is the mean colour
        elif others and self.policy.control != "wrong-image":
            raise ValueError("control images were given, but the policy is not the wrong-image control")
        if self.policy.control == "wrong-image" and [g for _, g in images] != [g for _, g in others]:
            raise ValueError("the wrong-image control needs one control image of the same size per image")
        repeats = generation_config.num_return_sequences or 1
        rows, features = _start_rows(model, input_ids, model_kwargs.get("attention_mask"), images, others, repeats)
        loop = _Loop(self, model, rows, features, input_ids, generation_config)
        with recorded_attention(model) if self.policy.needs_scores else nullcontext():
            return loop.run(logits_processor, stopping_criteria)


class _Loop:
    """Three levels: `run` decodes, `_pick` and `_append` make a step, the Runner does the forward passes."""

    def __init__(
        self,
        decoding: LookAgainDecoding,
        model: Any,
        rows: list[Row],
        features: list[torch.Tensor | None],
        input_ids: torch.Tensor,
        generation_config: GenerationConfig,
    ) -> None:
        self.policy, self.trigger, self.emit = decoding.policy, decoding.trigger, decoding.on_event
        self.generator = decoding.generator
        self.rows = rows
        for row in rows:
            row.place = random_place(self.policy, row.builder.token_ids) if self.policy.strays else None
        self.config = generation_config
        text_config = model.config.get_text_config()
        layers = self.policy.layers_of(text_config.num_hidden_layers)
        self.runner = Runner(
            model,
            [row.builder for row in rows],
            features,
            score_layers=layers if self.policy.needs_scores else None,
            score_prompt=self.policy.rule == "relative",
        )
        self.banned = torch.tensor(rows[0].builder.tokens.never_sampled, device=input_ids.device)
        self.max_context = decoding.max_context or text_config.max_position_embeddings
        self.prompt_columns = input_ids.shape[1]
        self.budget = generation_config.max_length - self.prompt_columns
        pad = generation_config.pad_token_id
        self.pad_id = pad if pad is not None else self.runner.pad_id
        self.ids = torch.nn.functional.pad(input_ids, (0, min(self.budget, 512)), value=self.pad_id)
        self.columns = self.prompt_columns
        self.scores: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []

    def run(self, processors: LogitsProcessorList, criteria: StoppingCriteriaList) -> torch.Tensor | LookAgainOutput:
        criteria = StoppingCriteriaList(c for c in criteria if not isinstance(c, MaxLengthCriteria))
        if self.budget < 1:
            raise ValueError(f"max_length leaves no room for new tokens after a prompt of {self.prompt_columns}")
        logits = self.runner.prefill()
        while True:
            tokens = self._pick(logits, processors)
            chunked, stepped = self._append(tokens)
            self._finish(criteria)
            chunked = [row for row in chunked if self.rows[row].finish_reason is None]
            stepped = [row for row in stepped if self.rows[row].finish_reason is None]
            if not chunked and not stepped:
                return self._output()
            logits = self._advance(stepped, chunked, logits)

    def _pick(self, logits: torch.Tensor, processors: LogitsProcessorList) -> list[int]:
        """Choose every row's next token: forced, sampled or, where the row is finished, padding."""
        logits = logits.to(self.ids.device, torch.float32, copy=True)  # the next pass may write over this one's
        if self.config.output_logits and self.config.return_dict_in_generate:
            self.logits.append(logits.clone())
        logits[:, self.banned] = float("-inf")
        scores = processors(self.ids[:, : self.columns], logits)  # type: ignore[arg-type]
        if self.config.output_scores and self.config.return_dict_in_generate:
            self.scores.append(scores)
        if self.config.do_sample:
            probabilities = torch.softmax(scores, dim=-1)
            chosen = torch.multinomial(probabilities, 1, generator=self.generator)[:, 0].tolist()
        else:
            chosen = scores.argmax(dim=-1).tolist()
        return [self._overrule(row, token) for row, token in zip(self.rows, chosen, strict=True)]

    def _overrule(self, row: Row, token: int) -> int:
        if row.finish_reason is not None:
            return self.pad_id
        if row.forced:
            return row.forced[0]
        if token in row.builder.tokens.never_sampled:
            raise ValueError(f"a logits processor forced the vision token {token}; those are never sampled")
        return token

    def _append(self, tokens: list[int]) -> tuple[list[int], list[int]]:
        """Append the tokens; returns the rows that look again (fed a chunk) and those that take a plain step."""
        self._write_column(tokens)
        chunked: list[int] = []
        stepped: list[int] = []
        for index, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if row.finish_reason is not None:
                continue
            if row.forced:
                row.builder.add_token(row.forced.pop(0), Provenance.FORCED)
                row.response.append(token)
                self.emit(Token(index, token, forced=True))
                stepped.append(index)
                continue
            row.sampled += 1
            looks = self._sampled(index, row, token)
            (chunked if looks else stepped).append(index)
            row.response.append(token)
            self.emit(Token(index, token))
        return chunked, stepped

    def _sampled(self, index: int, row: Row, token: int) -> bool:
        """Append a sampled token, looking again first if it completes `<REFLECTION>`; says whether it did look."""
        pieces = self.trigger.pieces(row.response, token)
        if pieces and self.policy.mode == "vision":
            row.forced.append(self.trigger.close_id)
        reflection = self._look(index, row, pieces)
        row.reflections += [reflection] if reflection else []
        if reflection is None or not reflection.rows:
            row.builder.add_token(token, Provenance.SAMPLED)
            return False
        spelled = row.builder.truncate(len(row.builder) - max(0, pieces - 1))
        self.runner.cache.advance(index, -len(spelled))
        look_again(row.builder, self.policy, split_by_image(reflection.rows, row.shown))
        for place, piece in enumerate([*spelled, token]):
            row.builder.add_token(piece, Provenance.SAMPLED, chosen=place == 0)
        self.emit(Reinsertion(index, reflection))
        return True

    def _look(self, index: int, row: Row, pieces: int) -> Reflection | None:
        """What happens before a sampled token that completes a tag of `pieces` tokens; None where nothing does."""
        at = len(row.response) - max(0, pieces - 1)
        if pieces and self.policy.strays:
            return Reflection(self.policy.mode, skipped="random-place", at=at)
        if pieces:
            return self._reflection(index, row, at)
        if row.place is None or row.sampled <= row.place:
            return None
        row.place = None
        return replace(self._reflection(index, row, at), stray=True)

    def _reflection(self, index: int, row: Row, at: int) -> Reflection:
        """What is put back here."""
        policy, done = self.policy, sum(bool(r.rows) for r in row.reflections)
        if not policy.inserts:
            return Reflection(policy.mode, at=at)
        if not row.spans:
            return Reflection(policy.mode, skipped="no image", at=at)
        if done >= policy.max_reinsertions:
            return Reflection(policy.mode, skipped="max_reinsertions", at=at)
        if row.sampled >= self.budget:
            return Reflection(policy.mode, skipped="max_new_tokens", at=at)
        scores = self.runner.scores(index, policy.rule) if policy.needs_scores else None
        rows = choose_rows(policy, row.visual_rows, scores, len(row.reflections))
        size = insertion_size(policy, split_by_image(rows, row.shown))
        if len(row.builder) + size + 2 > self.max_context:
            return Reflection(policy.mode, skipped="context", at=at)
        return Reflection(policy.mode, rows=tuple(rows), at=at)

    def _advance(self, stepped: list[int], chunked: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Feed what was appended; logits of the next token, (B, W)."""
        if stepped:
            logits = self.runner.step(stepped)
        for row in chunked:
            logits[row] = self.runner.chunk(row)[0]
        return logits

    def _write_column(self, tokens: list[int]) -> None:
        if self.columns == self.ids.shape[1]:
            self.ids = torch.nn.functional.pad(self.ids, (0, 512), value=self.pad_id)
        self.ids[:, self.columns] = torch.tensor(tokens, device=self.ids.device)
        self.columns += 1

    def _finish(self, criteria: StoppingCriteriaList) -> None:
        """Mark rows that a criterion, their budget or the context ends."""
        done = criteria(self.ids[:, : self.columns], None).tolist() if criteria else [False] * len(self.rows)
        for index, (row, stop) in enumerate(zip(self.rows, done, strict=True)):
            if row.finish_reason is not None:
                continue
            if stop:
                row.finish_reason = "stop"
            elif row.sampled >= self.budget and not row.forced:
                row.finish_reason = "length"
            elif len(row.builder) >= self.max_context:
                row.finish_reason = "context"
            if row.finish_reason is not None:
                self.emit(End(index, row.finish_reason))

    def _output(self) -> torch.Tensor | LookAgainOutput:
        sequences = self.ids[:, : self.columns]
        if not self.config.return_dict_in_generate:
            return sequences
        return LookAgainOutput(
            sequences=sequences,
            scores=tuple(self.scores) or None,
            logits=tuple(self.logits) or None,
            slots=[row.builder.build() for row in self.rows],
            reflections=[row.reflections for row in self.rows],
            finish_reasons=[row.finish_reason or "" for row in self.rows],
            cache_slots=self.runner.cache.allocated_slots,
        )


Image = tuple[torch.Tensor, Grid]
"""Features (rows, hidden) and grid of one image."""


def _encode(model: Any, pixel_values: torch.Tensor | None, grid_thw: torch.Tensor | None) -> list[Image]:
    if pixel_values is None or grid_thw is None:
        return []
    family, device = family_of(model.config), model.get_input_embeddings().weight.device
    features = encode_images(model, pixel_values.to(device), grid_thw.to(device))
    return [(rows, family.merged_grid(grid, model.config)) for rows, grid in zip(features, grid_thw, strict=True)]


def _start_rows(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    images: list[Image],
    others: list[Image],
    repeats: int,
) -> tuple[list[Row], list[torch.Tensor | None]]:
    """Rows with their prompts, and each row's feature table: its images, then their control images."""
    family = family_of(model.config)
    tokens = family.vision_tokens(model.config)
    prompts = [
        ids.tolist() if attention_mask is None else ids[attention_mask[i].bool()].tolist()
        for i, ids in enumerate(input_ids)
    ]
    shares = list(_share_images(prompts[::repeats], tokens, images))
    rows, features = [], []
    for i, prompt in enumerate(prompts):
        first, last = shares[i // repeats]
        row, table = _start_row(family, tokens, prompt, images[first:last], others[first:last])
        rows.append(row)
        features.append(table)
    return rows, features


def _share_images(prompts: Sequence[list[int]], tokens: VisionTokens, images: list[Image]) -> Iterator[tuple[int, int]]:
    """Which images, as (first, last + 1), belong to each prompt, by its number of image tokens."""
    last = 0
    for prompt in prompts:
        if tokens.video in prompt:
            raise ValueError("videos are not supported: the prompt holds video tokens")
        first, wanted = last, prompt.count(tokens.image)
        while wanted > 0 and last < len(images):
            wanted -= len(images[last][0])
            last += 1
        if wanted:
            raise ValueError("image tokens and images do not match: the prompts ask for another number of visual rows")
        yield first, last
    if last != len(images):
        raise ValueError(f"{len(images)} images were given, the prompts show {last}")


def _start_row(
    family: Family, tokens: VisionTokens, prompt: list[int], images: list[Image], others: list[Image]
) -> tuple[Row, torch.Tensor | None]:
    spans = spans_of([grid for _, grid in [*images, *others]])
    own, control = spans[: len(images)], spans[len(images) :]
    builder = SlotBuilder(family, tokens)
    builder.add_prompt(prompt, own)
    table = torch.cat([rows for rows, _ in [*images, *others]]) if images else None
    return Row(builder, own, control or own), table


def _check_supported(config: GenerationConfig, model_kwargs: dict[str, Any]) -> None:
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(f"re-attention decodes greedily or by sampling; {mode.value} is not supported")
    if model_kwargs.get("use_cache") is False:
        raise ValueError("re-attention decodes on a cache; use_cache=False is not supported")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError("re-attention keeps a cache of its own; a filled past_key_values is not supported")
    if config.output_attentions or config.output_hidden_states:
        raise ValueError("output_attentions and output_hidden_states are not supported while re-attending")
    if "pixel_values_videos" in model_kwargs:
        raise ValueError("videos are not supported")
