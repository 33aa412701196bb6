"""The trainer: transformers' Trainer with the project's sequences, through its public hooks.

Each image passes the vision tower once per step and its rows are gathered wherever the sequences show them; logits are
computed only at slots that have a target.

Legend: B batch rows, L longest sequence, T targets.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import Trainer

from lookagain.families import family_of
from lookagain.preparation import tag_ids
from lookagain.runner import encode_images, encoder_outputs
from lookagain.slots import Slots
from lookagain.tabletop.world import COLOURS, GRID_SIDE, SHAPES
from lookagain.training.selection import select_rows
from lookagain.training.sequence import Batch, add_response, pad_batch, start_sequence
from lookagain.training.tabletop_data import Item

LENGTH_GROUPS = 4  # padded batches that a step's sequences are computed in, so that short ones do not pay for long ones


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Items of one step; pictures are stacked, sequences stay apart until their features are known."""
    return {
        "pixel_values": torch.cat([item.pixel_values for item in items]),
        "image_grid_thw": torch.cat([item.image_grid_thw for item in items]),
        "examples": [item.example for item in items],
        "contents": torch.stack([i.contents for i in items if i.contents is not None])
        if items[0].example is None
        else None,
    }


class ReattentionTrainer(Trainer):
    """Fine-tunes on responses with re-attention in place."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy over all target slots of the step."""
        features = self._features(model, inputs)
        table = torch.cat(features)
        total, count, logits = table.new_zeros((), dtype=torch.float32), 0, []
        for batch in self._batches(model, inputs["examples"], features):
            part, targets = target_logits(model, batch, table)
            total = total + torch.nn.functional.cross_entropy(part.float(), targets, reduction="sum")
            count += len(targets)
            if return_outputs:
                logits.append(part)
        loss = total / max(1, count)
        return (loss, {"logits": torch.cat(logits)}) if return_outputs else loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Checkpoints keep the module's own weight names.

        The library renames this family's weights when it saves and not when it resumes: a resumed run would go on from
        the weights it was started with, with no more than a warning.
        """
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            model = cast(Any, self.accelerator.unwrap_model(self.model))
            model.save_pretrained(output_dir or self.args.output_dir, save_original_format=False)

    def _features(self, model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
        """Per example, the rows of all its images, (rows, hidden)."""
        trained = any(p.requires_grad for p in model.base_model.visual.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            images = iter(encode_images(model, inputs["pixel_values"], inputs["image_grid_thw"]))
        return [torch.cat([next(images) for _ in example.grids]) for example in inputs["examples"]]

    def _batches(self, model: Any, examples: Sequence[Any], features: list[torch.Tensor]) -> list[Batch]:
        """The step's sequences in LENGTH_GROUPS padded batches of similar length."""
        tokens = family_of(model.config).vision_tokens(model.config)
        sequences = self._sequences(model, examples, features)
        targets = [slots.targets(example.silent) for slots, example in zip(sequences, examples, strict=True)]
        before = [0, *itertools.accumulate(len(rows) for rows in features)]
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        size = -(-len(order) // LENGTH_GROUPS)
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        return [
            pad_batch(
                [sequences[i] for i in group],
                [targets[i] for i in group],
                [before[i] for i in group],
                tokens.start,
            )
            for group in groups
        ]

    def _sequences(self, model: Any, examples: Sequence[Any], features: list[torch.Tensor]) -> list[Slots]:
        family = family_of(model.config)
        tokens = family.vision_tokens(model.config)
        reflection_id = tag_ids(cast(Any, self.processing_class))["<REFLECTION>"]
        chosen: dict[int, Any] = {}
        ranked = [i for i, example in enumerate(examples) if example.policy.needs_scores]
        if ranked:
            shown = [features[i].detach() for i in ranked]
            chosen = dict(
                zip(
                    ranked,
                    select_rows(model, [examples[i] for i in ranked], shown, reflection_id),
                    strict=True,
                )
            )
        sequences = []
        for i, example in enumerate(examples):
            builder = start_sequence(family, tokens, example)
            add_response(builder, example, reflection_id, chosen.get(i))
            sequences.append(builder.build())
        return sequences


def target_logits(model: Any, batch: Batch, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (T, vocabulary) at the slots that have a target, and the targets (T,)."""
    device = features.device
    hidden = model.base_model(
        input_ids=batch.token_ids.to(device),
        position_ids=batch.positions.to(device),
        mm_encoder_outputs=encoder_outputs([features[batch.feature_rows.to(device)]]),
        use_cache=False,
    ).last_hidden_state
    targets = batch.targets.to(device)
    asked = targets != -100
    return model.get_output_embeddings()(hidden[asked]), targets[asked]


class VisionProbe(torch.nn.Module):
    """The vision tower with a head that names place, colour and shape at every visual token (warm-up only).

    The head compares directions, and rows are held near a root mean square of SCALE. A free linear head lets rows grow
    a hundred times larger than word embeddings, nearly all one attribute, which a language model then hardly reads.
    """

    CLASSES = (GRID_SIDE, GRID_SIDE, len(COLOURS) + 1, len(SHAPES) + 1)
    SCALE = 0.5
    SHARPNESS = 20.0

    def __init__(self, visual: torch.nn.Module, hidden: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = torch.nn.Linear(hidden, sum(self.CLASSES))

    def forward(
        self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, contents: torch.Tensor, **unused: Any
    ) -> dict[str, torch.Tensor]:
        rows = self.visual(pixel_values, grid_thw=image_grid_thw).pooler_output
        directions = torch.nn.functional.normalize(self.head.weight, dim=-1)
        cosines = torch.nn.functional.normalize(rows.float(), dim=-1) @ directions.T
        parts = (self.SHARPNESS * cosines + self.head.bias).split(self.CLASSES, dim=-1)
        wanted = contents.view(-1, len(self.CLASSES))
        losses = [torch.nn.functional.cross_entropy(part, wanted[:, i]) for i, part in enumerate(parts)]
        size = rows.float().square().mean(-1).sqrt()
        losses.append((size / self.SCALE).log().square().mean())
        return {"loss": torch.stack(losses).sum()}
