"""What trains: everything, all but vision, the language model, or adapters on it; and the tags' rows.

The paper trains the full language model and, of the embedding and the head, only the rows of the new tags. Those rows
are parameters of their own here, put over the frozen matrices by forward hooks. So no other row can move, neither by
weight decay nor by an optimizer's rounding, nothing of the size of the vocabulary needs gradients or optimizer state,
and it works the same tied or untied, sharded or not.

Legend: W vocabulary, D hidden size, K tags.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from look_again.core.families import find_family
from look_again.extras import require
from look_again.training.run_parts import Lora, TrainedParts

LANGUAGE_LINEARS = (
    r".*(language_model|text_model)\.layers\..*\."
    r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|gate_up_proj|down_proj)"
)


class TagRows(nn.Module):
    """The tags' rows (K, D) of the embedding and, where it is not tied, of the head, laid over the model's own."""

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        super().__init__()
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        self.tied = head is None or head.weight is embedding.weight
        places = torch.full((embedding.num_embeddings,), -1, dtype=torch.long)
        places[list(ids)] = torch.arange(len(ids))
        self.places: torch.Tensor
        self.ids: torch.Tensor
        self.register_buffer("places", places.to(embedding.weight.device), persistent=False)
        self.register_buffer("ids", torch.tensor(list(ids), device=embedding.weight.device), persistent=False)
        self.embedding = nn.Parameter(_rows(embedding.weight, ids))
        self.head = None if self.tied else nn.Parameter(_rows(head.weight, ids))

    @property
    def head_rows(self) -> torch.Tensor:
        return self.embedding if self.head is None else self.head

    def attach(self, model: Any) -> None:
        """Put the rows over the model's matrices from now on."""
        model.get_input_embeddings().register_forward_hook(self._over_embedding)
        if model.get_output_embeddings() is not None:
            model.get_output_embeddings().register_forward_hook(self._over_head)

    @torch.no_grad()
    def write_into(self, model: Any) -> None:
        """Write the rows into the model's own matrices (a copy that is about to be saved)."""
        for part, rows in ((model.get_input_embeddings(), self.embedding), (model.get_output_embeddings(), self.head)):
            if rows is None:  # tied
                continue
            matrix = part.weight
            matrix[self.ids.to(matrix.device)] = rows.to(matrix)

    def _over_embedding(self, module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        places = self.places[inputs[0]]
        rows = nn.functional.embedding(places.clamp(min=0), self.embedding).to(out.dtype)
        return torch.where((places >= 0).unsqueeze(-1), rows, out)

    def _over_head(self, module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        logits = nn.functional.linear(inputs[0], self.head_rows.to(inputs[0].dtype))
        return out.index_copy(-1, self.ids, logits.to(out.dtype))


def _rows(matrix: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """A copy of some rows in float32, of a matrix that ZeRO-3 may have cut up already."""
    if not hasattr(matrix, "ds_id"):
        return matrix.detach()[list(ids)].float().clone()
    import deepspeed  # only ever reached inside a DeepSpeed run

    with deepspeed.zero.GatheredParameters([matrix]):
        return matrix.detach()[list(ids)].float().clone()


def choose_trainable(model: Any, parts: TrainedParts, tag_ids: Sequence[int]) -> TagRows | None:
    """Freeze what `parts.trains` leaves alone and put adapters in, in place; returns the tags' rows where apart."""
    freeze(model, parts)
    tags = tag_rows(model, parts, tag_ids)
    if tags is not None:
        tags.attach(model)
    return tags


def freeze(model: Any, parts: TrainedParts) -> Any:
    """Only what `parts.trains` names keeps gradients, in place; returns peft's wrapper where it is adapters."""
    if parts.trains in ("all", "without_vision"):
        model.requires_grad_(True)
        for parameter in find_family(model.config).vision_parameters(model):
            parameter.requires_grad_(parts.trains == "all")
        return None
    model.requires_grad_(False)
    if parts.trains == "lora":
        return add_adapters(model, parts.lora)
    language = find_family(model.config).language_model(model)
    for part in (language.layers, language.norm):
        part.requires_grad_(True)
    return None


def tag_rows(model: Any, parts: TrainedParts, tag_ids: Sequence[int]) -> TagRows | None:
    """The tags' rows, where the rest of the embedding stays frozen."""
    return TagRows(model, tag_ids) if parts.tags_apart else None


def add_adapters(model: Any, lora: Lora) -> Any:
    """Low-rank adapters in place; returns peft's wrapper, whose `merge_and_unload` folds them in."""
    require("peft", extra="train")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=LANGUAGE_LINEARS, bias="none"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # peft asks for it
        return get_peft_model(model, config)
