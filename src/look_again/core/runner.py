"""Forward passes over growing sequences: prefill a batch, step it, and prefill a chunk of one sequence on its warm
cache.

Decoding, ROUTE's teacher-forced selection in training and the equality tests all run on this. What is fed is always the
part of a sequence's slots that the cache does not hold yet, so the sequence is defined in one place, the SlotBuilder.
Here all sequences start together.

Legend: B sequences, n slots fed, W vocabulary, P position dimensions.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from look_again.core.attention import AttentionCall, AttentionRecorder
from look_again.core.cache import swap_remove
from look_again.core.compiled.compiled_step import CompiledStep
from look_again.core.families import find_family
from look_again.core.input_device import input_device
from look_again.core.masks import MaskBuilder
from look_again.core.recurrent_cache import build_cache
from look_again.core.reuse.rotated_keys import write_rotated
from look_again.core.slots import Provenance, SlotBuilder

CACHE_KEYWORDS = ("cache", "past_key_values")
_TENSOR_FEATURES: weakref.WeakSet[Any] = weakref.WeakSet()  # models whose tower returns one tensor for all images


def encode_images(
    model: Any, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None = None, **pixels: torch.Tensor
) -> list[torch.Tensor]:
    """Features of each image or video, (visual tokens, hidden) each: one pass of the vision tower.

    Where the tower's output is by tile or by prompt, so is this. pixels: what else the tower takes; what it does not
    take is left out. Where the language model also reads features
    in later layers (deepstack), those levels lie side by side: (visual tokens, hidden * (1 + levels)).
    """
    if image_grid_thw is not None and bool((image_grid_thw[:, 0] > 1).any()):
        return _encode_videos(model, pixel_values, image_grid_thw, pixels)
    given = {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw, **pixels}
    known = inspect.signature(model.base_model.get_image_features).parameters
    taken = {name: value for name, value in given.items() if name in known and value is not None}
    output = model.get_image_features(**taken, return_dict=True)
    (_TENSOR_FEATURES.add if torch.is_tensor(output.pooler_output) else _TENSOR_FEATURES.discard)(model)
    levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
    if len(levels) == 1:
        return list(output.pooler_output)
    counts = [len(part) for part in output.pooler_output]
    return list(torch.cat([torch.cat(list(level)) for level in levels], -1).split(counts))


def _encode_videos(
    model: Any, pixel_values: torch.Tensor, grids_thw: torch.Tensor, pixels: dict[str, torch.Tensor]
) -> list[torch.Tensor]:
    """Features of videos and images: towers read each frame of a grid by itself, so frames pass as images do."""
    counts = grids_thw[:, 0].tolist()
    frames = grids_thw.repeat_interleave(grids_thw[:, 0], dim=0)
    frames[:, 0] = 1
    features = iter(encode_images(model, pixel_values, frames, **pixels))
    return [torch.cat([next(features) for _ in range(count)]) for count in counts]


def cache_keyword(model: Any) -> str:
    """The keyword of the cache in the forward of a model's base: `cache` since transformers 5.24, else
    `past_key_values`.
    """
    known = inspect.signature(model.base_model.forward).parameters
    return next((name for name in CACHE_KEYWORDS if name in known), CACHE_KEYWORDS[-1])


def encoder_outputs(model: Any, shown: list[torch.Tensor]) -> dict[str, BaseModelOutputWithPooling]:
    """Features, in the order in which a pass shows them, as the argument `mm_encoder_outputs` of a model's forward."""
    hidden = model.config.get_text_config().hidden_size
    if all(part.shape[-1] == hidden for part in shown) and model not in _TENSOR_FEATURES:
        return {"image": BaseModelOutputWithPooling(pooler_output=shown)}  # type: ignore[arg-type]
    first, *deeper = torch.cat(shown).split(hidden, -1)
    pooled = first[None] if model in _TENSOR_FEATURES else [first]
    output = BaseModelOutputWithPooling(pooler_output=pooled)  # type: ignore[arg-type]
    if deeper:
        output.deepstack_features = [[level] for level in deeper]
    return {"image": output}


def find_logit_cap(config: Any) -> float | None:
    """The bound that a model's logits are softly held within; None where they have none."""
    return getattr(config.get_text_config(), "final_logit_softcapping", None)


def project_to_vocabulary(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The model's logits (..., W) of last hidden states (..., hidden), soft-capped where the model does that."""
    logits = model.get_output_embeddings()(hidden)
    cap = find_logit_cap(model.config)
    return logits if cap is None else torch.tanh(logits / cap) * cap


class Runner:
    """A batch of sequences and their cache.

    builders: one per sequence. features: per sequence the feature table (V, hidden) that its slots point into, or
    None for a sequence without images. score_layers: decoder layers whose attention on the prompt's visual tokens is
    recorded (None records nothing); the model must then be inside `recorded_attention`. score_prompt: record the
    prompt's own attention too. count_copies: attention on re-inserted copies counts for what they copy. compile: the
    steps run as a compiled graph, which `find_obstacle` must not forbid; the model must be inside `recorded_attention`.
    """

    def __init__(
        self,
        model: Any,
        builders: Sequence[SlotBuilder],
        features: Sequence[torch.Tensor | None],
        *,
        score_layers: Sequence[int] | None = None,
        score_prompt: bool = False,
        count_copies: bool = False,
        compile: bool = False,
    ) -> None:
        self.model = model
        self.family = find_family(model.config)
        self.cache_keyword = cache_keyword(model)
        self.builders = list(builders)
        self.features = list(features)
        self.device = input_device(model)
        self.cache = build_cache(model.config, len(self.builders), bucketed=compile)
        self.compiled = CompiledStep(model, self.cache_keyword, project_to_vocabulary) if compile else None
        self.masks = MaskBuilder(model)
        self.pad_id = self.family.vision_tokens(model.config).padding
        self.recorder: AttentionRecorder | None = None
        self.prompt_recorder: AttentionRecorder | None = None
        if score_layers is not None:
            slots = [self._visual_slots(builder) for builder in self.builders]
            self.recorder = AttentionRecorder(self.cache, slots, score_layers, count_copies=count_copies)
            if score_prompt:
                self.prompt_recorder = AttentionRecorder(self.cache, slots, score_layers)

    def prefill(self) -> torch.Tensor:
        """Feed everything every sequence holds so far; returns the logits after each sequence's last slot, (B, W).

        Rows are padded on the right, so causal attention never sees the padding and no mask is needed. A recurrent
        layer would see it: there each sequence is fed alone.
        """
        if self.cache.recurrent:
            return torch.cat([self.chunk(sequence) for sequence in range(len(self.builders))])
        batch, longest = len(self.builders), max(len(builder) for builder in self.builders)
        parts = [builder.build() for builder in self.builders]
        ids = torch.full((batch, longest), self.pad_id, dtype=torch.long)
        positions = torch.zeros((parts[0].positions.shape[0], batch, longest), dtype=torch.long)
        for sequence, slots in enumerate(parts):
            ids[sequence, : len(slots)] = slots.token_ids
            positions[:, sequence, : len(slots)] = slots.positions
        self.cache.select_all(self.device)
        self._watch_sequences([self._sampled(builder, 0) for builder in self.builders])
        shown = [self._shown(sequence, slots.visual_indices) for sequence, slots in enumerate(parts)]
        mask = self.masks.build([0] * batch, longest, [builder.visual_indices for builder in self.builders])
        hidden = self._forward(ids, positions, [part for part in shown if part is not None], attention_mask=mask)
        for sequence, slots in enumerate(parts):
            self.cache.advance(sequence, len(slots))
        last = torch.tensor([len(slots) - 1 for slots in parts], device=hidden.device)
        return self._logits(hidden[torch.arange(batch, device=hidden.device), last])

    def step(self, sequences: Sequence[int], chosen: torch.Tensor | None = None) -> torch.Tensor:
        """Feed the newest slot, a text token, of `sequences`; the batch's others stand still. Logits (B, W).

        chosen: the ids of those tokens, (B,), where they are on the device already.
        """
        if self.compiled is None:
            return self._step_eagerly(sequences)
        ids = [builder.token_ids[-1] for builder in self.builders]
        places = [builder.positions[-1] for builder in self.builders]
        logits = self._run_compiled(self.compiled, sequences, ids, places, chosen)
        self.accept_step(sequences)
        return logits

    def step_ahead(self, sequences: Sequence[int], chosen: torch.Tensor) -> torch.Tensor:
        """Feed tokens (B,) that the builders do not hold yet to `sequences`: compiled steps alone. Logits (B, W).

        The step counts for those whose token turns out to be the text slot that comes next: `accept_step` of them.
        """
        assert self.compiled is not None, "an eager step is not taken ahead"
        going = set(sequences)
        places = [
            (builder.next_position,) * self.family.position_dims if sequence in going else builder.positions[-1]
            for sequence, builder in enumerate(self.builders)
        ]
        return self._run_compiled(self.compiled, sequences, [self.pad_id] * len(places), places, chosen)

    def accept_step(self, sequences: Sequence[int]) -> None:
        """Count the compiled step that was just run for `sequences`, whose builders hold its tokens."""
        if (recorder := self._listening()) is not None:
            recorder.note_step([sequence for sequence in sequences if self._is_sampled(sequence)])
            recorder.end_step()
        for sequence in sequences:
            self.cache.advance(sequence, 1)

    def _run_compiled(
        self,
        compiled: CompiledStep,
        sequences: Sequence[int],
        ids: Sequence[int],
        places: Sequence[Sequence[int]],
        chosen: torch.Tensor | None,
    ) -> torch.Tensor:
        going = set(sequences)
        state = compiled.prepare(self.cache, self.device)
        moving = [int(sequence in going) for sequence in range(len(self.builders))]
        state.place(ids, self.cache.lengths, moving, places, chosen)
        recorder = self._listening()
        if recorder is None:
            return compiled.run(self.cache, [], [], 0)[: len(self.builders)]
        recorder.open_step()
        queries = recorder.query_buffers(state.sequences)
        return compiled.run(self.cache, queries, recorder.layers, recorder.column)[: len(self.builders)]

    def _step_eagerly(self, sequences: Sequence[int]) -> torch.Tensor:
        batch = len(self.builders)
        ids, places, going = [], [], set(sequences)
        for sequence, builder in enumerate(self.builders):
            ids.append(builder.token_ids[-1] if sequence in going else self.pad_id)
            places.append(builder.positions[-1])
        mask: Any = self.cache.select_all(self.device)
        if (own := self.masks.build(self.cache.lengths, 1)) is not None:
            mask = own
        still = [sequence for sequence in range(batch) if sequence not in going] if self.cache.recurrent else []
        held = self.cache.hold(still)
        recorder = self._listening()
        if recorder is not None:
            recorder.watch_step([sequence for sequence in sequences if self._is_sampled(sequence)])
            if self.prompt_recorder is not None:
                self.prompt_recorder.watch_step([])
        positions = torch.tensor(places).T.unsqueeze(-1)
        hidden = self._forward(
            torch.tensor(ids).view(batch, 1), positions, [], attention_mask=mask if own is None else own
        )
        self.cache.restore(still, held)
        if recorder is not None:
            recorder.end_step()
        for sequence in sequences:
            self.cache.advance(sequence, 1)
        return self._logits(hidden[:, -1])

    def chunk(self, sequence: int) -> torch.Tensor:
        """Feed all slots of one sequence that its cache does not hold yet. Logits after the last, (1, W)."""
        start, builder = self.cache.lengths[sequence], self.builders[sequence]
        slots = builder.build(start)
        self.cache.select_one(sequence)
        self._watch_sequences([self._sampled(builder, start, self.cache.first_new(sequence))], sequences=[sequence])
        shown = self._shown(sequence, slots.visual_indices)
        hidden = self._forward(
            slots.token_ids.unsqueeze(0),
            slots.positions.unsqueeze(1),
            [] if shown is None else [shown],
            attention_mask=self.masks.build([start], len(slots), [builder.visual_indices]),
        )
        self.cache.advance(sequence, len(slots))
        return self._logits(hidden[:, -1])

    def remove_sequence(self, sequence: int) -> None:
        """Let a sequence go, its features and its part of the cache with it; the last one takes its number."""
        swap_remove(self.builders, sequence)
        swap_remove(self.features, sequence)
        for recorder in (self.recorder, self.prompt_recorder):
            if recorder is not None:
                recorder.remove_sequence(sequence)
        self.cache.remove_sequence(sequence)

    def reuse_copies(self, sequence: int) -> None:
        """Fill the cache with the insertion that comes next from the prompt's keys, rotated, instead of feeding it."""
        self._count_copies(sequence, self.cache.lengths[sequence])
        write_rotated(self.model, self.family, self.cache, self.builders[sequence], sequence)

    def scores(self, sequence: int, rule: str = "paper") -> torch.Tensor:
        """The ranking of V visual tokens so far, (V,): equation (5), or relative to the prompt's own attention."""
        assert self.recorder is not None, "nothing was recorded"
        scores = self.recorder.scores(sequence)
        if rule == "relative":
            assert self.prompt_recorder is not None, "the prompt's attention was not recorded"
            scores = scores - self.prompt_recorder.scores(sequence)
        return scores

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        shown: list[torch.Tensor],
        attention_mask: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Last hidden states (B, n, hidden) of one pass; `shown` are the features it shows, in order."""
        extra: dict[str, Any] = {}
        if shown:
            extra["mm_encoder_outputs"] = encoder_outputs(self.model, shown)
        if (recorder := self._listening()) is not None:
            extra["attention_recorder"] = _Recorders(recorder, self.prompt_recorder)
        hidden = self.model.base_model(
            input_ids=ids.to(self.device),
            position_ids=self.family.shape_positions(positions).to(self.device),
            attention_mask=attention_mask,
            use_cache=True,
            **{self.cache_keyword: self.cache},
            **extra,
        ).last_hidden_state
        fed = self.cache.window.longest + ids.shape[1]
        assert self.cache.allocated_slots >= fed, f"the model wrote {self.cache.allocated_slots} of {fed} slots"
        return hidden

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return project_to_vocabulary(self.model, hidden)

    def _shown(self, sequence: int, visual_indices: torch.Tensor) -> torch.Tensor | None:
        """The features that a stretch of slots shows, (sequences, hidden)."""
        visual = visual_indices[visual_indices >= 0]
        table = self.features[sequence]
        return table[visual.to(table.device)] if table is not None and len(visual) else None

    def _visual_slots(self, builder: SlotBuilder) -> torch.Tensor:
        slots = [
            i
            for i, visual in enumerate(builder.visual_indices)
            if visual >= 0 and builder.provenance[i] == Provenance.PROMPT
        ]
        return torch.tensor(slots, dtype=torch.long, device=self.device)

    def _listening(self) -> AttentionRecorder | None:
        """The recorder, where any sequence wants to be observed."""
        return self.recorder if self.recorder is not None and self.recorder.listens else None

    def _is_sampled(self, sequence: int) -> bool:
        return self.builders[sequence].provenance[-1] == Provenance.SAMPLED

    def _sampled(self, builder: SlotBuilder, start: int, first_new: int = 0) -> list[int]:
        """Indices, from `start` on, of the sampled tokens, whose attention the ranking averages.

        Those before `first_new` were observed in an earlier pass.
        """
        sampled = (i for i, p in enumerate(builder.provenance[start:]) if p == Provenance.SAMPLED)
        return [i for i in sampled if start + i >= first_new]

    def _watch_sequences(self, sampled: list[list[int]], sequences: list[int] | None = None) -> None:
        if self._listening() is None:
            return
        assert self.recorder is not None
        sequences = list(range(len(sampled))) if sequences is None else sequences
        for sequence in sequences:
            self._count_copies(sequence, self.cache.first_new(sequence))
        self.recorder.watch_chunk(list(zip(sequences, sampled, strict=True)))
        if self.prompt_recorder is not None:
            prompts = [
                self._prompt_text(sequence) if self.cache.first_new(sequence) == 0 else [] for sequence in sequences
            ]
            self.prompt_recorder.watch_chunk(list(zip(sequences, prompts, strict=True)))

    def _count_copies(self, sequence: int, start: int) -> None:
        """Tell the recorder, if any, which of a sequence's slots from `start` on are copies of visual tokens."""
        if self.recorder is None:
            return
        builder = self.builders[sequence]
        copies = [i for i in range(start, len(builder)) if builder.provenance[i] == Provenance.REINSERTED]
        self.recorder.add_copies(sequence, copies, [builder.visual_indices[i] for i in copies])

    def _prompt_text(self, sequence: int) -> list[int]:
        """The prompt's text slots after its last visual token: what it reads of the image before any answer."""
        provenance, slots = self.builders[sequence].provenance, self.recorder.visual_slots[sequence]  # type: ignore[union-attr]
        first = int(slots[-1]) + 1 if len(slots) else 0
        return [i for i in range(first, len(provenance)) if provenance[i] == Provenance.PROMPT]


class _Recorders:
    """Hands what the attention wrapper sees to the recorders that listen to this pass."""

    def __init__(self, answer: AttentionRecorder, prompt: AttentionRecorder | None) -> None:
        self.answer = answer
        self.prompt = prompt

    def observe(self, layer: int, query: torch.Tensor, key: torch.Tensor, how: AttentionCall) -> None:
        self.answer.observe(layer, query, key, how)
        if self.prompt is not None and self.prompt.listens_to_chunk:
            self.prompt.observe(layer, query, key, how)
