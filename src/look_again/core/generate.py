"""Decoding with visual re-attention: a `custom_generate` callable for transformers' `model.generate`.

When a sequence writes `<REFLECTION>`, the policy's visual tokens are appended right before it and the sequence is fed
that chunk on its warm cache: no second vision pass, no re-prefill, no copy of the cache. Other sequences of the batch
take their ordinary step. What happens to one sequence is in `core.sequence`; here is the loop over a batch whose
sequences start together.

Legend: B sequences, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers.generation import GenerationMode
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from look_again.core.attention import recorded_attention
from look_again.core.cache import swap_remove
from look_again.core.compiled.compiled_step import is_carried
from look_again.core.families import attention_layers
from look_again.core.interleaving import VIDEO_NAMES, interleave_videos
from look_again.core.prefill import Start, encode_with_control, list_prompts, start_batch
from look_again.core.prefix_cache import PrefixCache
from look_again.core.reasoning_budget import ReasoningBudget, list_stop_ids
from look_again.core.reattention import Reattention, choose_visual_tokens
from look_again.core.reuse.rotated_keys import check_rotates
from look_again.core.runner import CACHE_KEYWORDS, Runner
from look_again.core.sequence import DecodedSequence, End, Event, Reflection, Reinsertion, Token
from look_again.core.slots import Slots
from look_again.core.trigger import Trigger

__all__ = [
    "DecodedSequence",
    "End",
    "Event",
    "LookAgainDecoding",
    "LookAgainOutput",
    "Reflection",
    "Reinsertion",
    "Token",
]


@dataclass
class LookAgainOutput(ModelOutput):
    """What `generate(return_dict_in_generate=True)` returns.

    sequences: (B, prompt + response) ids; visual tokens and delimiters that were re-inserted are not in it, and rows
    with shorter prefixes are padded on the left. responses: the ids of each response, without padding. slots: by
    sequence, the whole sequence as the model read it. scores, logits: per step (B, W), when asked for. cache_slots:
    slots allocated per sequence at the end.
    """

    sequences: torch.Tensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    responses: list[list[int]] | None = None
    slots: list[Slots] | None = None
    reflections: list[list[Reflection]] | None = None
    finish_reasons: list[str] | None = None
    cache_slots: int | None = None

    def __repr__(self) -> str:
        sequences = zip(self.slots or (), self.reflections or (), self.finish_reasons or (), strict=False)
        lines = [f"{slots!r}, {len(reflections)} reflections, {why}" for slots, reflections, why in sequences]
        return f"LookAgainOutput({'; '.join(lines)})"


class LookAgainDecoding:
    """The callable: `model.generate(**inputs, custom_generate=LookAgainDecoding(trigger, policy))`.

    Takes what the family's processor makes (`input_ids`, `attention_mask`, `pixel_values`, `image_grid_thw`; for videos
    `pixel_values_videos`, `video_grid_thw`, `second_per_grid_ts`), greedy or sampling, with the library's logits
    processors and stopping criteria. `max_new_tokens` counts sampled tokens. The control images of the wrong-image
    control come as `control_pixel_values` and `control_grid_thw`, one per image. `grid_seconds` goes with images some
    of which are videos, as `process_images` makes them.
    A response may begin with a given prefix: its tokens count as sampled, its reflections look again like any others,
    and all of it is read with the prompt in one batched pass (with a ranking to measure: up to the first reflection,
    then from reflection to reflection), never token by token.

    trigger: how `<REFLECTION>` is recognised. on_event: called with each Event as it happens. max_context: most slots
    of a sequence; None takes the model's `max_position_embeddings`. generator: of the sampling. reasoning: the bound
    after which the CONCLUSION is forced; None lets a response end without one. streamer: gets the prompt and then every
    token of the response, forced ones too, of one sequence; it is given here, since `generate` hands its own argument
    of that name to no callable. prefixes: token ids that each prompt's response begins with; None where none does.
    turns: of each prompt, the token ids of the user turn that a policy of that kind opens at reflections.
    prefix_cache: beginnings that were read before, of prompts with such prefixes. compile: steps run as a compiled
    graph; a model that it does not carry decodes eagerly, with a warning that says why.
    """

    def __init__(
        self,
        trigger: Trigger,
        policy: Reattention | None = None,
        *,
        on_event: Callable[[Event], None] | None = None,
        max_context: int | None = None,
        generator: torch.Generator | None = None,
        reasoning: ReasoningBudget | None = None,
        streamer: BaseStreamer | None = None,
        prefixes: Sequence[Sequence[int]] | None = None,
        turns: Sequence[Sequence[int]] | None = None,
        prefix_cache: PrefixCache | None = None,
        compile: bool = False,
    ) -> None:
        self.trigger = trigger
        self.policy = policy or Reattention()
        self.on_event = on_event or (lambda event: None)
        self.max_context = max_context
        self.generator = generator
        self.reasoning = reasoning
        self.streamer = streamer
        self.prefixes = prefixes
        self.turns = turns
        self.prefix_cache = prefix_cache
        self.compile = compile

    def __repr__(self) -> str:
        return f"LookAgainDecoding({self.policy})"

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
        grid_seconds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        image_position_ids: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        batch_num_images: torch.Tensor | None = None,
        control_pixel_values: torch.Tensor | None = None,
        control_grid_thw: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | LookAgainOutput:
        """Called by `generate`. ValueError for beams, assisted decoding, and images or videos that do not match;
        CompileError where a compiled step is asked for and nothing compiles.
        """
        _check_supported(generation_config, model_kwargs)
        compiled = self.compile and is_carried(model)
        pixels = {  # generate hands these over only where they are named, and encodes the images itself where not
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "grid_seconds": grid_seconds,
            "image_sizes": image_sizes,
            "image_position_ids": image_position_ids,
            "pixel_attention_mask": pixel_attention_mask,
            "batch_num_images": batch_num_images,
        }
        control = pixels | {"pixel_values": control_pixel_values, "image_grid_thw": control_grid_thw}
        videos = dict(zip(VIDEO_NAMES, (pixel_values_videos, video_grid_thw, second_per_grid_ts), strict=True))
        repeats, mask = generation_config.num_return_sequences or 1, model_kwargs.get("attention_mask")
        shown = _given(pixels)
        if pixel_values_videos is not None:
            shown = interleave_videos(model.config, list_prompts(input_ids, mask)[::repeats], shown, videos)
        images, others = encode_with_control(model, self.policy, shown, _given(control))
        starts = start_batch(model, input_ids, mask, images, others, repeats)
        self._stream_prompt(input_ids, len(starts))
        parts = self._parts(len(starts), repeats)
        loop = _Loop(self, model, starts, input_ids, generation_config, parts, compiled=compiled)
        with recorded_attention(model) if self.policy.needs_scores or compiled else nullcontext():
            return loop.run(logits_processor, stopping_criteria)

    def _stream_prompt(self, input_ids: torch.Tensor, sequences: int) -> None:
        """As `generate` begins a stream. ValueError for several sequences."""
        if self.streamer is None:
            return
        if sequences > 1:
            raise ValueError(f"a streamer takes one sequence, not {sequences}: ask one question at a time")
        self.streamer.put(input_ids.cpu())

    def _parts(self, sequences: int, repeats: int) -> list[tuple[list[int], list[int]]]:
        """Prefix and user turn of each sequence. ValueError where their number is not that of the prompts."""
        prompts = sequences // repeats
        columns: list[list[list[int]]] = []
        for name, given in (("prefixes", self.prefixes), ("turns", self.turns)):
            if given is not None and len(given) != prompts:
                raise ValueError(f"{len(given)} {name} were given for {prompts} prompts")
            columns.append([list(ids) for ids in given] if given is not None else [[]] * prompts)
        return [pair for pair in zip(*columns, strict=True) for _ in range(repeats)]


class _Loop:
    """Three levels: `run` decodes, `_pick` and `_append` make a step, the Runner does the forward passes."""

    def __init__(
        self,
        decoding: LookAgainDecoding,
        model: Any,
        starts: Sequence[Start],
        input_ids: torch.Tensor,
        generation_config: GenerationConfig,
        parts: Sequence[tuple[list[int], list[int]]],
        *,
        compiled: bool,
    ) -> None:
        self.streamer = decoding.streamer
        policy, self.emit, self.generator = decoding.policy, decoding.on_event, decoding.generator
        self.config = generation_config
        text_config = model.config.get_text_config()
        layers = policy.ranking_layers(text_config.num_hidden_layers, attention_layers(model.config))
        self.runner = Runner(
            model,
            [start.builder for start in starts],
            [start.features for start in starts],
            score_layers=layers if policy.needs_scores else None,
            score_prompt=policy.rule == "relative",
            count_copies=policy.count_copies,
            compile=compiled,
        )
        self.prefix_cache = decoding.prefix_cache
        self.late = compiled and reads_late(self.runner.device)
        self.ended: torch.Tensor | None = None  # (B,) the sequences that are finished, once there are any
        self.ending: set[int] = set()  # tokens that end a sequence
        self.reuses = policy.reuse is not None
        if self.reuses:
            check_rotates(model)
        self.prompt_columns = input_ids.shape[1]
        self.budget = generation_config.max_length - self.prompt_columns
        self.prefixes = [prefix for prefix, _ in parts]
        self.stops = list_stop_ids(generation_config.eos_token_id)
        max_context = decoding.max_context or text_config.max_position_embeddings
        self.sequences = self._begin_sequences(decoding, starts, [turn for _, turn in parts], max_context)
        self.running = list(range(len(starts)))  # the sequences by their numbers in the runner
        self.banned = torch.tensor(starts[0].builder.tokens.never_sampled, device=input_ids.device)
        pad = generation_config.pad_token_id
        self.pad_id = pad if pad is not None else self.runner.pad_id
        self.ids = torch.nn.functional.pad(input_ids, (0, min(self.budget, 512)), value=self.pad_id)
        self.columns = self.prompt_columns
        self.input_ids = input_ids
        self.scores: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []

    def _begin_sequences(
        self, decoding: LookAgainDecoding, starts: Sequence[Start], turns: Sequence[list[int]], max_context: int
    ) -> list[DecodedSequence]:
        reasoning = decoding.reasoning
        return [
            DecodedSequence(
                start,
                decoding.policy,
                decoding.trigger,
                index=index,
                choose=choose_visual_tokens,
                reasoning=None if reasoning is None else reasoning.watch(self.stops),
                turn=turn,
                budget=self.budget,
                max_context=max_context,
            )
            for index, (start, turn) in enumerate(zip(starts, turns, strict=True))
        ]

    def run(self, processors: LogitsProcessorList, criteria: StoppingCriteriaList) -> torch.Tensor | LookAgainOutput:
        self.ending = {int(token) for c in criteria if isinstance(c, EosTokenCriteria) for token in c.eos_token_id}
        known = (MaxLengthCriteria, EosTokenCriteria)  # the budget, and tokens that the loop reads in any case
        criteria = StoppingCriteriaList(c for c in criteria if not isinstance(c, known))
        if self.budget < 1:
            raise ValueError(f"max_length leaves no room for new tokens after a prompt of {self.prompt_columns}")
        logits = self._begin(criteria)
        while any(sequence.finish_reason is None for sequence in self.sequences):
            drawn = self._draw(logits, processors)
            reading = TokenReading(drawn)
            ahead = self._step_ahead(drawn)
            read = reading.finish()
            tokens = self._overrule(read)
            chunked, stepped = self._append(tokens, drawn, read)
            self._finish(criteria)
            chunked = [sequence for sequence in chunked if self.sequences[sequence].finish_reason is None]
            stepped = [sequence for sequence in stepped if self.sequences[sequence].finish_reason is None]
            if ahead is not None:
                logits, stepped = self._accept(ahead, stepped, tokens, read), []
            if chunked or stepped:
                logits = self._advance(stepped, chunked, logits, drawn if tokens == read else None)
        if self.streamer is not None:
            self.streamer.end()
        return self._output()

    def _begin(self, criteria: StoppingCriteriaList) -> torch.Tensor:
        """Read the prompts and what the responses begin with; logits of the first free token, (B, W)."""
        if not any(self.prefixes):
            return self.runner.prefill()
        held = [self._force(index, 0, ranked=False) for index in range(len(self.sequences))]
        logits = self._prefill()
        for index, start in enumerate(held):
            self._force(index, start, ranked=True)
            if self.runner.cache.lengths[index] < len(self.sequences[index].builder):
                logits[index] = self.runner.chunk(index)[0]
        self._write_prefixes()
        self._finish(criteria)
        return logits

    def _prefill(self) -> torch.Tensor:
        """Read what every sequence holds, but for what the prefix cache knows; logits (B, W)."""
        if self.prefix_cache is None:
            return self.runner.prefill().clone()
        if self.prefix_cache.fill(self.runner):
            logits = torch.cat([self.runner.chunk(index) for index in range(len(self.sequences))])
        else:
            logits = self.runner.prefill().clone()
        self.prefix_cache.keep(self.runner)
        return logits

    def _force(self, index: int, start: int, *, ranked: bool) -> int:
        """Append a sequence's prefix from its token `start` on; returns where it stopped.

        It stops where the sequence ends and, unless `ranked`, before a reflection whose ranking has to be measured.
        """
        sequence, prefix, policy = self.sequences[index], self.prefixes[index], self.sequences[index].policy
        for place in range(start, len(prefix)):
            token = prefix[place]
            if sequence.finish_reason is not None or self._ended(index, place > 0 and prefix[place - 1] in self.stops):
                return place
            looks = policy.strays or sequence.completes_tag(token)
            if (policy.needs_scores or self.reuses) and not ranked and looks:
                return place
            if self.reuses and looks:
                self._read(index)
            before = len(sequence.builder)
            appended = sequence.append(sequence.overrule(token), partial(self._measure, index))
            unread = before - appended.taken_back - self.runner.cache.lengths[index]
            self.runner.cache.advance(index, min(0, unread))
            if self.reuses and appended.looked:
                self.runner.reuse_copies(index)
            for event in appended.events:
                self.emit(event)
        return len(prefix)

    def _measure(self, index: int) -> torch.Tensor:
        """ROUTE's ranking within a prefix, once the cache holds all that the sequence does."""
        self._read(index)
        return self.runner.scores(index, self.sequences[index].policy.rule)

    def _read(self, index: int) -> None:
        """Have the cache hold all that a sequence does."""
        if self.runner.cache.lengths[index] < len(self.sequences[index].builder):
            self.runner.chunk(index)

    def _write_prefixes(self) -> None:
        """Put the responses' beginnings behind their prompts; shorter ones are padded on the left."""
        longest = max(len(sequence.response) for sequence in self.sequences)
        rows = []
        for ids, sequence in zip(self.input_ids, self.sequences, strict=True):
            padding = ids.new_full((longest - len(sequence.response),), self.pad_id)
            rows.append(torch.cat([padding, ids, ids.new_tensor(sequence.response)]))
            if self.streamer is not None:
                self.streamer.put(torch.tensor(sequence.response))
        self.ids, self.columns = torch.stack(rows), self.prompt_columns + longest

    def _step_ahead(self, drawn: torch.Tensor) -> torch.Tensor | None:
        """The next step of all that goes on, before its tokens (B,) are read; None where they are read first."""
        going = [index for index, sequence in enumerate(self.sequences) if sequence.finish_reason is None]
        if not self.late or any(self.sequences[index].forced for index in going):
            return None
        return self.runner.step_ahead(going, drawn)

    def _accept(
        self, ahead: torch.Tensor, stepped: Sequence[int], tokens: Sequence[int], read: Sequence[int]
    ) -> torch.Tensor:
        """Count a step taken ahead where it was fed the right token, and step the others; logits of all, (B, W)."""
        self.runner.accept_step([index for index in stepped if tokens[index] == read[index]])
        wrong = [index for index in stepped if tokens[index] != read[index]]
        if wrong:
            ahead = ahead.clone()  # the next step writes over them
            ahead[wrong] = self.runner.step(wrong)[wrong]
        return ahead

    def _draw(self, logits: torch.Tensor, processors: LogitsProcessorList) -> torch.Tensor:
        """Every sequence's next token by its logits, (B,), on the device."""
        logits = logits.to(self.ids.device, torch.float32, copy=True)  # the next pass may write over this one's
        if self.config.output_logits and self.config.return_dict_in_generate:
            self.logits.append(logits.clone())
        logits[:, self.banned] = float("-inf")
        scores = processors(self.ids[:, : self.columns], logits)  # type: ignore[arg-type]
        if self.config.output_scores and self.config.return_dict_in_generate:
            self.scores.append(scores)
        if self.config.do_sample:
            probabilities = torch.softmax(scores, dim=-1)
            drawn = torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]
        else:
            drawn = scores.argmax(dim=-1)
        return drawn if self.ended is None else drawn.masked_fill(self.ended, self.pad_id)

    def _overrule(self, read: Sequence[int]) -> list[int]:
        """What comes next where these were drawn: also tokens that are forced and, behind the end, padding."""
        return [
            self.pad_id if sequence.finish_reason is not None else sequence.overrule(token)
            for sequence, token in zip(self.sequences, read, strict=True)
        ]

    def _append(self, tokens: list[int], drawn: torch.Tensor, read: Sequence[int]) -> tuple[list[int], list[int]]:
        """Append the tokens; returns the sequences that look again (fed a chunk) and those that take a plain step."""
        self._write_column(tokens, drawn if tokens == read else None)
        chunked: list[int] = []
        stepped: list[int] = []
        for index, (sequence, token) in enumerate(zip(self.sequences, tokens, strict=True)):
            if sequence.finish_reason is not None:
                continue
            place = self.running.index(index)
            appended = sequence.append(token, partial(self.runner.scores, place, sequence.policy.rule))
            self.runner.cache.advance(place, -appended.taken_back)
            (chunked if appended.looked else stepped).append(index)
            for event in appended.events:
                self.emit(event)
        return chunked, stepped

    def _advance(
        self, stepped: Sequence[int], chunked: Sequence[int], logits: torch.Tensor, drawn: torch.Tensor | None
    ) -> torch.Tensor:
        """Feed what was appended; logits of the next token, (B, W). Finished sequences leave first, unless the step is
        compiled, which is for one number of sequences. drawn: the tokens, where they are on the device.
        """
        ended = [index for index in self.running if self.sequences[index].finish_reason is not None]
        for index in ended if self.runner.compiled is None else ():
            self.runner.remove_sequence(self.running.index(index))
            swap_remove(self.running, self.running.index(index))
        if stepped:
            made = self.runner.step([self.running.index(index) for index in stepped], drawn)
            logits[self.running] = made.to(logits.dtype)
        for index in chunked:
            place = self.running.index(index)
            if self.reuses:
                self.runner.reuse_copies(place)
            logits[index] = self.runner.chunk(place)[0]
        return logits

    def _write_column(self, tokens: list[int], drawn: torch.Tensor | None) -> None:
        if self.columns == self.ids.shape[1]:
            self.ids = torch.nn.functional.pad(self.ids, (0, 512), value=self.pad_id)
        self.ids[:, self.columns] = torch.tensor(tokens, device=self.ids.device) if drawn is None else drawn
        if self.streamer is not None:
            self.streamer.put(torch.tensor(tokens))
        self.columns += 1

    def _finish(self, criteria: StoppingCriteriaList) -> None:
        """Mark sequences that a criterion, their budget or the context ends."""
        done = criteria(self.ids[:, : self.columns], None).tolist() if criteria else [False] * len(self.sequences)
        for index, (sequence, stop) in enumerate(zip(self.sequences, done, strict=True)):
            if sequence.finish_reason is None:
                self._ended(index, stop or (bool(sequence.response) and sequence.response[-1] in self.ending))

    def _ended(self, index: int, stop: bool) -> bool:
        """Whether a sequence is finished now, `stop` being what the stopping criteria say."""
        ended = self.sequences[index].finish(stop)
        if ended:
            flags = [sequence.finish_reason is not None for sequence in self.sequences]
            self.ended = torch.tensor(flags, device=self.ids.device)
            self.emit(End(index, self.sequences[index].finish_reason or ""))
        return ended

    def _output(self) -> torch.Tensor | LookAgainOutput:
        sequences = self.ids[:, : self.columns]
        if not self.config.return_dict_in_generate:
            return sequences
        return LookAgainOutput(
            sequences=sequences,
            scores=tuple(self.scores) or None,
            logits=tuple(self.logits) or None,
            responses=[sequence.response for sequence in self.sequences],
            slots=[sequence.builder.build() for sequence in self.sequences],
            reflections=[sequence.reflections for sequence in self.sequences],
            finish_reasons=[sequence.finish_reason or "" for sequence in self.sequences],
            cache_slots=self.runner.cache.allocated_slots,
        )


class TokenReading:
    """A tensor on its way to the host: started now, waited for in `finish`, so that the device can go on meanwhile."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.copied: torch.cuda.Event | None = None
        self.host = tensor
        if tensor.is_cuda:
            self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.host.copy_(tensor, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def finish(self) -> list[int]:
        if self.copied is not None:
            self.copied.synchronize()
        return self.host.tolist()


def reads_late(device: torch.device) -> bool:
    """Whether the next step is started before the tokens that it feeds are read: where it runs beside the host."""
    return device.type == "cuda"


def _given(pixels: Mapping[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """The tensors that are there; nothing without pixels."""
    given = {name: tensor for name, tensor in pixels.items() if tensor is not None}
    return given if "pixel_values" in given else {}


def _check_supported(config: GenerationConfig, model_kwargs: dict[str, Any]) -> None:
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(f"re-attention decodes greedily or by sampling; {mode.value} is not supported")
    if model_kwargs.get("use_cache") is False:
        raise ValueError("re-attention decodes on a cache; use_cache=False is not supported")
    for name in CACHE_KEYWORDS:
        if (cache := model_kwargs.get(name)) is not None and cache.get_seq_length() > 0:
            raise ValueError(f"re-attention keeps a cache of its own; a filled {name} is not supported")
    if config.output_attentions or config.output_hidden_states:
        raise ValueError("output_attentions and output_hidden_states are not supported while re-attending")
