"""The model that vLLM servers compute, as it has to be known here: without its weights where nothing is ranked.

The paper serves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import GenerationConfig

from look_again.clients.vllm_requests import SentImage, scale_images
from look_again.core.families import UnknownFamilyError, VisionTokens, find_family
from look_again.core.prefill import start_without_features
from look_again.core.reattention import Reattention
from look_again.core.sequence import DecodedSequence
from look_again.core.trigger import Trigger
from look_again.loading import (
    Checkpoint,
    LoadError,
    guess_note,
    load_image_processor,
    load_tokenizer,
    resolve_source,
)
from look_again.model import Sampling
from look_again.serving.backend import Job
from look_again.serving.prompt import EncodedPrompt
from look_again.text.tags import prepare_tokenizer
from look_again.weights import LoadOptions
from look_again.weights.checkpoint_record import read_record
from look_again.weights.checkpoint_scope import find_scope
from look_again.weights.configuration import read_config


@dataclass(frozen=True)
class ServedModel:
    """A model that is served elsewhere. config: of the model. stops: tokens that end its answers."""

    config: Any
    stops: frozenset[int]

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> ServedModel:
        """ValueError for a checkpoint without its model."""
        if checkpoint.model is None:
            raise ValueError("a checkpoint without its model needs `served`: see load_without_model")
        return cls(checkpoint.model.config, _stops(checkpoint.model.generation_config, checkpoint.tokenizer))

    @property
    def merge(self) -> int:
        """Patches that the vision tower merges into one visual token, per side; 1 where the family has no grids."""
        return int(getattr(self.config.vision_config, "spatial_merge_size", 1))

    def vision_tokens(self, checkpoint: Checkpoint) -> VisionTokens:
        """The tokens around and for images."""
        return checkpoint.family.vision_tokens(self.config)

    def begin(
        self,
        checkpoint: Checkpoint,
        prompt: EncodedPrompt,
        policy: Reattention,
        trigger: Trigger,
        *,
        sampling: Sampling,
        max_context: int = 2**31,
    ) -> DecodedSequence:
        """A decoded sequence that holds the prompt so far, without features: whatever computes is elsewhere."""
        tokens = self.vision_tokens(checkpoint)
        start = start_without_features(checkpoint.family, tokens, prompt.token_ids, prompt.grids)
        return DecodedSequence(
            start,
            policy,
            trigger,
            budget=sampling.max_new_tokens,
            max_context=max_context,
            reasoning=sampling.watch_reasoning(checkpoint.tokenizer, self.stops),
        )


def load_without_model(name: str | None = None, options: LoadOptions | None = None) -> tuple[Checkpoint, ServedModel]:
    """A checkpoint (hub name or folder; None is the shipped one) without its weights, as the backend needs it.

    options: as of `load_checkpoint`; those of weights have nothing to act on. Raises LoadError.
    """
    chosen = options or LoadOptions()
    source = resolve_source(name)
    try:
        config = read_config(source)
        tokenizer = load_tokenizer(source)
        record = read_record(source)
    except (LoadError, UnknownFamilyError):
        raise
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot load the checkpoint {source!r}: {error}") from error
    try:
        generation = GenerationConfig.from_pretrained(source)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    family = find_family(config)
    processor = load_image_processor(source, config, record, chosen)
    prepare_tokenizer(tokenizer)
    shown = name or "tabletop-tiny"
    checkpoint = Checkpoint(
        shown,
        None,
        tokenizer,
        processor,
        family,
        trained=bool(record.trained) if chosen.trained is None else chosen.trained,
        notes=(*guess_note(record, chosen.trained), *record.notes),
        reattention=record.reattention or Reattention(),
        scope=find_scope(record.scope),
    )
    return checkpoint, ServedModel(config, _stops(generation, tokenizer))


def send_images(checkpoint: Checkpoint, job: Job, prompt: EncodedPrompt) -> list[SentImage]:
    """The images of a job as they are sent: at the size that its prompt has them in, where the family has grids."""
    images = [image for image in job.images if isinstance(image, Image.Image)]  # videos are refused before
    if checkpoint.family.layout is not None:
        return [SentImage(image) for image in images]
    grids = prompt.pixels["image_grid_thw"].tolist() if job.images else ()
    return scale_images(checkpoint.image_processor, images, grids)


def _stops(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    ids = generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return frozenset([ids] if isinstance(ids, int) else ids or ())
