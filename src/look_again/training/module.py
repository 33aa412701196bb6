"""The model as the trainer sees it: one forward call takes a step's examples and gives their loss.

Everything happens inside one call, so that engines that shard or replicate (DDP, FSDP2, ZeRO-3) wrap a single module:
each image passes the vision tower once, ROUTE's visual tokens are selected as decoding would, the sequences are built
by the one builder, and logits are computed only at slots that have a target.

Legend: B sequences, L longest sequence, T targets, W vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from look_again.core.families import find_family, layer_kinds
from look_again.core.inputs import build_smallest_image
from look_again.core.masks import MaskBuilder
from look_again.core.runner import encode_images, encoder_outputs, find_logit_cap, project_to_vocabulary
from look_again.core.slots import Slots
from look_again.text.grammar import TAGS, close_tag, open_tag
from look_again.training.chunked_loss import (
    OutputHead,
    chunked_cross_entropy,
    chunked_log_probs,
    count_chunk_targets,
)
from look_again.training.example import Batch, Example, add_response, pack_batch, pad_batch, start_sequence
from look_again.training.packing import allow_packing, packing_keywords
from look_again.training.selection import count_passes, idle_pass, select_visual_tokens
from look_again.training.trainable import TagRows

LENGTH_GROUPS = 4  # batches that a step's sequences are computed in, so that short ones do not pay for long ones
LEAST_SEQUENCES = 4  # of such a batch: smaller ones leave the hardware idle
SECTIONS = (*TAGS, "outside")


class Reattending(nn.Module):
    """A vision-language model with re-attention in its training sequences.

    tag_ids: of the grammar's tags. tags: their trainable rows, where the rest of the embedding is frozen. loss_chunk:
    targets whose logits exist at a time, None for as many as 0.5 GB hold. packing: a step's sequences pass without
    padding, one after the other; PackingError for a model that cannot keep them apart.
    """

    accepts_loss_kwargs = True  # the trainer then hands over the number of targets of the whole optimizer step

    def __init__(
        self,
        model: Any,
        tag_ids: Mapping[str, int],
        tags: TagRows | None = None,
        loss_chunk: int | None = None,
        packing: bool = False,
    ) -> None:
        super().__init__()
        self.packing, self.length_groups = packing, LENGTH_GROUPS
        if packing:
            allow_packing(model)
        self.loss_chunk = count_chunk_targets(loss_chunk, model.get_output_embeddings().weight.shape[0])
        self.model = model
        self.tags = tags
        self.tag_ids = dict(tag_ids)
        self.config = model.config
        self._no_split_modules = model._no_split_modules
        self._keys_to_ignore_on_save = sorted(set(self.state_dict()) - set(self.trained))
        self.section_losses = torch.zeros(len(SECTIONS), 2, dtype=torch.float64)  # sum and count since the last log

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def forward(
        self,
        examples: Sequence[Example] = (),
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        log_probs: bool = False,
        temperature: float = 1.0,
        inside: Callable[[Reattending], Any] | None = None,
        **pixels: torch.Tensor,
    ) -> Any:
        """`{"loss"}`: the summed cross-entropy of all targets over `num_items_in_batch` (None: their own number).

        labels only let the trainer count targets ahead of the step. `log_probs` returns those instead, and `inside` is
        called with this module for whatever else needs its weights: engines that shard gather them for a forward call.
        pixels: what else the family's vision tower takes.
        """
        if inside is not None:
            return inside(self)
        if log_probs:
            return self.log_probs(examples, pixel_values, image_grid_thw, temperature, **pixels)
        features, unseen = self.features(examples, pixel_values, image_grid_thw, **pixels)
        total, count = unseen, 0
        for batch in self.batches(examples, features):
            hidden, targets = self.target_hidden(batch, features)
            summed, losses = self._cross_entropy(hidden, targets)
            self._note(batch, losses)
            total, count = total + summed, count + len(targets)
        return {"loss": total / (max(1, count) if num_items_in_batch is None else num_items_in_batch)}

    def log_probs(
        self,
        examples: Sequence[Example],
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        temperature: float = 1.0,
        **pixels: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Per example, the log-probabilities of its response tokens that are not silent, in order.

        They are those of sampling at `temperature`, which never samples vision tokens.
        """
        never = list(find_family(self.config).vision_tokens(self.config).never_sampled)
        features, unseen = self.features(examples, pixel_values, image_grid_thw, **pixels)
        out: list[torch.Tensor] = [torch.empty(0)] * len(examples)
        for batch in self.batches(examples, features):
            hidden, targets = self.target_hidden(batch, features)
            chosen = self._target_log_probs(hidden, targets, temperature, never) + unseen
            sizes = [int((part != -100).sum()) for part in batch.sequence_targets]
            for i, part in zip(batch.examples, chosen.split(sizes), strict=True):
                out[i] = part
        return out

    def target_logits(self, batch: Batch, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (T, W) at the slots that have a target, and the targets (T,)."""
        hidden, targets = self.target_hidden(batch, features)
        return project_to_vocabulary(self.model, hidden), targets

    def target_hidden(self, batch: Batch, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (T, D) at the slots that have a target, and the targets (T,)."""
        table = torch.cat(list(features))
        device = self.model.get_input_embeddings().weight.device
        extra: dict[str, Any] = {}
        if len(batch.visual_indices):
            extra["mm_encoder_outputs"] = encoder_outputs(self.model, [table[batch.visual_indices.to(device)]])
        if batch.packed_lengths is not None:
            extra |= packing_keywords(self.model, batch.packed_lengths, device)
        hidden = self.model.base_model(
            input_ids=batch.token_ids.to(device),
            position_ids=find_family(self.config).shape_positions(batch.positions).to(device),
            attention_mask=self._masks(batch),
            use_cache=False,
            **extra,
        ).last_hidden_state
        targets = batch.targets.to(device)
        mask = targets != -100
        return hidden[mask], targets[mask]

    def _masks(self, batch: Batch) -> Mapping[str, torch.Tensor] | torch.Tensor | None:
        """Masks by kind of layer, where causal attention is not all."""
        count, length = batch.token_ids.shape
        shows = batch.token_ids == find_family(self.config).vision_tokens(self.config).image
        return MaskBuilder(self.model).build([0] * count, length, (shows.long() - 1).tolist())

    def _cross_entropy(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum () over targets, and that of each (T,) without gradients."""
        if self._is_whole(targets):
            logits = project_to_vocabulary(self.model, hidden)
            losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
            return losses.sum(), losses.detach()
        return chunked_cross_entropy(hidden, self._output_head(), targets, self.loss_chunk)

    def _target_log_probs(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float, never: Sequence[int]
    ) -> torch.Tensor:
        """(T,) at `temperature`, over a vocabulary without the tokens `never`."""
        if self._is_whole(targets):
            logits = project_to_vocabulary(self.model, hidden).float()
            logits = logits.index_fill(-1, torch.tensor(never, device=logits.device), float("-inf")) / temperature
            return logits.gather(-1, targets.unsqueeze(-1))[:, 0] - logits.logsumexp(-1)
        head = self._output_head()
        return chunked_log_probs(hidden, head, targets, self.loss_chunk, temperature=temperature, never=never)

    def _is_whole(self, targets: torch.Tensor) -> bool:
        """Whether all logits are computed at once: they fit a chunk, or ZeRO-3 has to gather the head by its module."""
        head = self.model.get_output_embeddings()
        return len(targets) <= self.loss_chunk or head.bias is not None or hasattr(head.weight, "ds_id")

    def _output_head(self) -> OutputHead:
        weight, cap = self.model.get_output_embeddings().weight, find_logit_cap(self.config)
        rows, ids = (None, None) if self.tags is None else (self.tags.head_rows, self.tags.ids)
        return OutputHead(weight, rows, ids, cap)

    def take_section_losses(self) -> torch.Tensor:
        """(sections, 2) sums and counts since the last call, in the order of SECTIONS."""
        taken, self.section_losses = self.section_losses, torch.zeros_like(self.section_losses)
        return taken

    def recompute_layers(self) -> None:
        """From now on, decoder layers are computed again in the backward pass instead of being kept."""
        enable = getattr(self.model, "activation_checkpointing_enable", None)  # its name from transformers 5.24 on
        (enable or self.model.gradient_checkpointing_enable)({"use_reentrant": False})

    def tie_weights(self) -> None:
        """For the trainer, after it has loaded a checkpoint of the trained weights."""
        self.model.tie_weights()

    def features(
        self,
        examples: Sequence[Example],
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        **pixels: torch.Tensor,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Per example the features of all its images (visual tokens, hidden), and a zero.

        Without any image a blank image passes the tower, so that processes which share the work stay in step; it
        reaches the loss only through that zero.
        """
        blank = pixel_values is None
        if pixel_values is None:
            device = self.model.get_input_embeddings().weight.device
            pixels = {name: value.to(device) for name, value in build_smallest_image(self.config).items()}
            pixel_values, image_grid_thw = pixels.pop("pixel_values"), pixels.pop("image_grid_thw", None)
        trained = any(p.requires_grad for p in find_family(self.config).vision_parameters(self.model))
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            images = encode_images(self.model, pixel_values, image_grid_thw, **pixels)
        zero = images[0].float().sum() * 0.0 if blank else images[0].new_zeros((), dtype=torch.float32)
        table = images[0][:0].detach() if blank else torch.cat(images)
        return list(table.split([sum(map(prod, example.grids)) for example in examples])), zero

    def batches(self, examples: Sequence[Example], features: list[torch.Tensor]) -> Iterator[Batch]:
        """The step's sequences in at most `length_groups` batches: packed ones with about as many slots each, or padded
        ones of similar length. Their number depends on that of the examples alone, so that processes stay in step.
        """
        pad = find_family(self.config).vision_tokens(self.config).padding
        sequences = self.sequences(examples, features)
        before = [0, *itertools.accumulate(len(table) for table in features)]
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        size = max(LEAST_SEQUENCES, -(-len(order) // self.length_groups))
        starts = range(0, len(order), size)
        parts = [order[i :: len(starts)] for i in range(len(starts))] if self.packing else None
        for part in parts or [order[start : start + size] for start in starts]:
            targets = [sequences[i].targets(examples[i].silent) for i in part]
            shared = ([sequences[i] for i in part], targets, [before[i] for i in part])
            batch = pack_batch(*shared) if self.packing else pad_batch(*shared, pad)
            batch.examples = part
            yield batch

    def sequences(self, examples: Sequence[Example], features: Sequence[torch.Tensor]) -> list[Slots]:
        """What decoding would have produced with these responses: the slots of every example."""
        tokens = find_family(self.config).vision_tokens(self.config)
        reflection_id = self.tag_ids[open_tag("REFLECTION")]
        chosen = self._selected(examples, features, reflection_id)
        sequences = []
        for i, example in enumerate(examples):
            builder = start_sequence(find_family(self.config), tokens, example)
            add_response(builder, example, reflection_id, chosen.get(i, example.chosen))
            sequences.append(builder.build())
        return sequences

    def _selected(
        self, examples: Sequence[Example], features: Sequence[torch.Tensor], reflection_id: int
    ) -> dict[int, list[list[int]]]:
        """ROUTE's visual tokens by example; the processes of a sharded run make the same number of passes."""
        ranked = [i for i, example in enumerate(examples) if example.needs_scores]
        chosen: dict[int, list[list[int]]] = {}
        alone = "linear_attention" in layer_kinds(self.config)
        passes = count_passes([examples[i] for i in ranked], reflection_id, alone=alone)
        idle = _idle_passes(passes, self.model)  # before any of them
        with evaluating(self.model):
            if ranked:
                shown = [features[i].detach() for i in ranked]
                selected = select_visual_tokens(self.model, [examples[i] for i in ranked], shown, reflection_id)
                chosen = dict(zip(ranked, selected, strict=True))
            for _ in range(idle):
                idle_pass(self.model)
        torch.clear_autocast_cache()  # weights cast without gradients must not serve the pass that needs them
        return chosen

    def _note(self, batch: Batch, losses: torch.Tensor) -> None:
        """Add the losses (T,) to those of the sections that their tokens belong to."""
        sections = find_sections(batch.sequence_targets, self.tag_ids)
        both = torch.stack([losses.cpu().double(), torch.ones(len(losses), dtype=torch.float64)], dim=-1)
        self.section_losses.index_add_(0, sections, both)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradient checkpointing, as decoding runs."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def find_sections(targets: Iterable[torch.Tensor], tag_ids: Mapping[str, int]) -> torch.Tensor:
    """(T,) index into SECTIONS of every target of the sequences, (L,) each; a section's tags belong to it."""
    opens = {tag_ids[open_tag(tag)]: i for i, tag in enumerate(TAGS)}
    closes = {tag_ids[close_tag(tag)]: i for i, tag in enumerate(TAGS)}
    outside, sections = len(TAGS), []
    for sequence in targets:
        current = outside
        for token in sequence[sequence != -100].tolist():
            current = opens.get(token, current)
            sections.append(closes.get(token, current))
            current = outside if token in closes else current
    return torch.tensor(sections, dtype=torch.long)


def _idle_passes(own: int, model: nn.Module) -> int:
    """How many passes this process must add so that all make the same number."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return 0
    most = torch.tensor(own, device=next(model.parameters()).device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most) - own
