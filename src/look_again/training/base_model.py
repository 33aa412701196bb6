"""What every method of training stands on: the model it starts from, what of it trains, and the model it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from look_again.core.families import find_family
from look_again.loading import load_tokenizer, resolve_source
from look_again.processing import bound_pixels, load_pil_processor
from look_again.text.tags import has_tags, prepare, prepare_tokenizer, tag_ids
from look_again.training.batches import Codec
from look_again.training.module import Reattending
from look_again.training.run_parts import TrainedParts
from look_again.training.trainable import choose_trainable, freeze, tag_rows
from look_again.weights import LoadError
from look_again.weights.adapters import is_adapter
from look_again.weights.configuration import read_config
from look_again.weights.quantization import find_method
from look_again.weights.reading import read_model
from look_again.yaml_config import ConfigError


class NewModel(Protocol):
    """Shapes of a model that is grown from nothing."""

    def new_processors(self) -> tuple[Any, Any]:
        """Tokenizer (with tags) and image processor."""
        ...

    def new_model(self, tokenizer: Any, seed: int) -> Any:
        """The model with random weights, in float32."""
        ...

    def new_configuration(self) -> Any:
        """The model's configuration, for plans."""
        ...


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model that a run or a stage starts from.

    base: a checkpoint, hub name or folder; None grows one from `shapes`. tokenizer: with tags. image_processor: as it
    came with the base; max_pixels bounds what training sees of an image. parts: what trains. seed: of new weights.
    loss_chunk: targets whose logits exist at a time. packing: whether a step's sequences pass without padding.
    """

    base: str | Path | None
    tokenizer: Any
    image_processor: Any
    parts: TrainedParts
    seed: int = 0
    max_pixels: int | None = None
    loss_chunk: int | None = None
    packing: bool = False
    shapes: NewModel | None = None

    @property
    def tag_ids(self) -> dict[str, int]:
        """The tags' token ids."""
        return tag_ids(self.tokenizer)

    @property
    def bounded_image_processor(self) -> Any:
        """The image processor with the bound of this run."""
        return bound_pixels(self.image_processor, self.max_pixels)

    @property
    def stored_dtype(self) -> torch.dtype:
        """What the start's weights are stored in, and the result's will be: frozen rows then stay bit-identical."""
        dtype = torch.float32 if self.base is None else read_config(self.base).dtype
        return dtype if isinstance(dtype, torch.dtype) else torch.float32

    def loss_dtype(self, bf16: bool) -> torch.dtype:
        """What to load for training in: frozen weights need no float32 copy."""
        return torch.bfloat16 if self.parts.trains == "lora" and bf16 else torch.float32

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        """The model, with tags. Raises LoadError or ConfigError for a base that cannot be used."""
        if self.base is None:
            assert self.shapes is not None
            return self.shapes.new_model(self.tokenizer, self.seed)
        try:
            find_family(read_config(self.base))
            model, _ = read_model(str(self.base), dtype=dtype)
        except OSError as error:
            raise LoadError(
                f"{self.base} cannot be loaded: {str(error).splitlines()[0]}{hint_at_paths(self.base)}"
            ) from error
        own = load_tokenizer(str(self.base))
        if not has_tags(own):
            if hasattr(model.get_input_embeddings().weight, "ds_id"):
                raise ConfigError(
                    f"{self.base} has no tags; under ZeRO-3 it needs them first: look-again prepare {self.base} OUT"
                )
            prepare(model, own)
        return model

    def configuration(self) -> Any:
        """The model's configuration, without its weights."""
        if self.base is None:
            assert self.shapes is not None
            return self.shapes.new_configuration()
        return read_config(self.base)

    def codec(self, config: Any) -> Codec:
        """What turns samples into items for a model of this configuration."""
        return Codec.of(config, self.tokenizer, self.bounded_image_processor)

    def early_codec(self) -> Codec:
        """The same before the model is loaded."""
        return self.codec(self.configuration())

    def trainable(self, model: Any) -> Reattending:
        """A loaded model with what does not train frozen, adapters and tag rows in place."""
        torch.manual_seed(self.seed)  # of adapters
        tags = choose_trainable(model, self.parts, list(self.tag_ids.values()))
        return Reattending(model, self.tag_ids, tags, self.loss_chunk, self.packing)

    def merged(self, state: Mapping[str, torch.Tensor]) -> Any:
        """The model that a trained module's state makes of a fresh start."""
        return merge_state(state, self.parts, self.load(), self.tag_ids)


def merge_state(state: Mapping[str, torch.Tensor], parts: TrainedParts, fresh: Any, ids: Mapping[str, int]) -> Any:
    """`fresh`, the start, with a trained module's state in it, adapters and tag rows folded in."""
    adapted = freeze(fresh, parts)
    tags = tag_rows(fresh, parts, list(ids.values()))
    module = Reattending(fresh, ids, tags)
    # What stayed frozen is not copied: training may have held it in a coarser type.
    module.load_state_dict({name: state[name] for name in module.trained}, strict=False)
    model = fresh if adapted is None else adapted.merge_and_unload()
    if tags is not None:
        tags.write_into(model)
    return model


def load_processors(base: str | None, shapes: NewModel | None = None) -> tuple[Any, Any]:
    """Tokenizer (with tags) and image processor: the base checkpoint's, or those of the model that is grown."""
    if base is None:
        assert shapes is not None
        return shapes.new_processors()
    try:
        resolve_source(base)
    except LoadError as error:
        raise LoadError(f"{error}{hint_at_paths(base)}") from error
    _check_trainable(base)
    try:
        tokenizer = load_tokenizer(base)
        image_processor = load_pil_processor(base)
    except (OSError, ValueError) as error:
        raise LoadError(f"{base} cannot be loaded: {str(error).splitlines()[0]}{hint_at_paths(base)}") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer of {base} has no end-of-turn token (eos_token), which responses end with")
    if not has_tags(tokenizer):
        prepare_tokenizer(tokenizer)
    return tokenizer, image_processor


def _check_trainable(base: str) -> None:
    """LoadError for a base that is answered with and not trained: an adapter, or quantised weights."""
    if is_adapter(base):
        raise LoadError(f"{base} is an adapter: fold it into its base first (look-again prepare {base} OUT)")
    method = find_method(read_config(base))
    if method is not None:
        raise LoadError(f"{base} is quantised ({method}), and training starts from weights that are not: name those")


def hint_at_paths(base: str | Path) -> str:
    """What to add to an error about a base: where relative paths start, if it is one that leads nowhere; else ""."""
    path = Path(base)
    if path.exists() or path.is_absolute() or (len(path.parts) <= 2 and not Path(path.parts[0]).exists()):
        return ""  # a folder, or a name of the hub
    return (
        f". Relative paths of a recipe start where the command runs, here {Path.cwd()}; those of the shipped recipes "
        "start at the root of a clone, and what lies in runs/ another recipe makes first"
    )
