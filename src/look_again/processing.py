"""A processor of images and text for libraries that want one object, where the family's own cannot be built.

The families' processor classes bring a video processor, which needs torchvision. This one has an image processor and a
tokenizer. Unlike the renderer it tokenises rendered strings, so what users write can become control tokens: it is for
training libraries that read data sets, not for answering users.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature, ProcessorMixin
from transformers.processing_utils import ImagesKwargs

from look_again.core.families import FAMILIES, find_family
from look_again.core.inputs import ImageInputs, build_smallest_image, process_images, stack_pixels

TOKEN_TYPES = {"gemma3": "token_type_ids", "gemma4": "mm_token_type_ids"}
"""What the library's own pass calls the types of tokens, where that is no family of grids and asks for them."""

NO_OPTIONS = ("image_processor_type", "max_pixels", "min_pixels")
"""Of an image processor's fields, those that are no options: its class, and what has options of its own."""

TRIED = (64, 48)  # pixels of the image that a processor is tried on


def load_pil_processor(source: str | Path, **options: Any) -> Any:
    """The image processor of a checkpoint (folder or hub name), the one that works on PIL images alone.

    options: fields of it in place of the checkpoint's own. Raises OSError where there is none, and ValueError where the
    family's needs torchvision, with the way round.
    """
    try:
        return AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False, **options)
    except ImportError as error:
        raise ValueError(
            f"the image processor of {source} needs torchvision, which LookAgain does without: process the images "
            "elsewhere and hand their tensors to model.generate(custom_generate=LookAgainDecoding(...))"
        ) from error


def check_options(image_processor: Any, names: Iterable[str], config: Any) -> None:
    """ValueError for an option that an image processor does not have, or that the model's family sets itself."""
    layout = find_family(config).layout
    ours = set() if layout is None else set(layout.options(config))
    kwargs = image_processor.valid_kwargs.__annotations__  # some have no value until they are set
    known = (set(image_processor.to_dict()) | set(kwargs) - set(ImagesKwargs.__annotations__)) - set(NO_OPTIONS) - ours
    for name in sorted(set(names) - known):
        if name in ours:
            raise ValueError(f"the option {name!r} is set by how {config.model_type} shows images: leave it out")
        kind = type(image_processor).__name__
        raise ValueError(f"the image processor {kind} has no option {name!r}; it has: {', '.join(sorted(known))}")


def check_processor(image_processor: Any, config: Any) -> None:
    """Try an image processor on a blank image. ValueError where what it makes is not what the model takes.

    Whatever the library raises for fields that make no sense is left as it is.
    """
    layout = find_family(config).layout
    ours = {} if layout is None else layout.options(config)
    for name, wanted in _shared_fields(config).items():
        found = getattr(image_processor, name, None)
        if name not in ours and None not in (found, wanted) and found != wanted:
            raise ValueError(f"{name} of the image processor is {found}, and the model needs {wanted}")
    with np.errstate(all="ignore"):
        made = process_images(image_processor, config, [Image.new("RGB", TRIED, "gray")]).tensors["pixel_values"]
    if not made.isfinite().all():
        raise ValueError("the image processor makes pixels that are no numbers: look at image_std and rescale_factor")
    with torch.device("meta"):
        smallest = build_smallest_image(config)["pixel_values"]
    shapes = [tuple(pixels.shape) for pixels in (made, smallest)]
    fixed = 1 if len(shapes[1]) < 4 else 2  # values of a patch, or sides of a tile
    if "patch_size" not in ours and shapes[0][-fixed:] != shapes[1][-fixed:]:
        found, wanted = (" x ".join(map(str, shape[-fixed:])) for shape in shapes)
        raise ValueError(f"the image processor makes parts of {found} values, and the model needs {wanted}")


def _shared_fields(config: Any) -> dict[str, Any]:
    """What image processor and model have to agree on, by the processor's names; None where a model has no such."""
    vision = config.vision_config
    same = {name: getattr(vision, name, None) for name in ("patch_size", "temporal_patch_size", "pooling_kernel_size")}
    merge, tiles = getattr(vision, "spatial_merge_size", None), getattr(config, "image_grid_pinpoints", None)
    return {**same, "merge_size": merge, "image_grid_pinpoints": tiles}


def bound_pixels(image_processor: Any, max_pixels: int | None, min_pixels: int | None = None) -> Any:
    """A copy of an image processor that scales larger images down to `max_pixels` and smaller ones up to `min_pixels`.

    None leaves a bound as it is, and the processor itself where both are None. Images are not scaled up beyond
    `max_pixels` either. An image keeps one visual token per side: one that is much longer than wide can have more
    pixels than a bound of a few tokens. ValueError for fewer pixels than one visual token, for a lower bound above the
    upper one, and for a processor that cuts images into tiles instead.
    """
    if max_pixels is None and min_pixels is None:
        return image_processor
    if not hasattr(image_processor, "merge_size"):
        raise ValueError(
            f"{type(image_processor).__name__} cuts images into tiles or one size, and takes no bound of pixels: "
            "use its own options (--processor-option NAME=VALUE)"
        )
    side = image_processor.patch_size * image_processor.merge_size
    most = image_processor.size["longest_edge"] if max_pixels is None else max_pixels
    if most < side**2:
        raise ValueError(f"max_pixels is {most}: use {side**2} or more, which is one visual token")
    if min_pixels is not None and not 1 <= min_pixels <= most:
        raise ValueError(f"min_pixels is {min_pixels}: use 1 to {most}, the most that an image may have")
    own = copy.deepcopy(image_processor)
    # Scaling up rounds up, beyond a bound that is nearer than a quarter.
    least = min(own.size["shortest_edge"], most // 4) if min_pixels is None else min_pixels
    own.size = {"shortest_edge": least, "longest_edge": most}
    return own


class LookAgainProcessor(ProcessorMixin):
    """Image processor and tokenizer of one family, without video.

    config: of the model, whose family says what stands for an image in a prompt; None is a Qwen2.5-VL.
    """

    attributes = ("image_processor", "tokenizer")
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        *,
        config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self._config = config
        self._family = FAMILIES["qwen2_5_vl"] if config is None else find_family(config)
        self.image_token = self._family.image_text
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Token ids with one image token per visual token, attention mask, and what the vision tower takes.

        Each placeholder of the chat template in a text is one of the images, in order; types of tokens are there where
        the family's own pass asks for them. ValueError when texts and images do not match.
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        flat = list(_flatten(images)) if images is not None else []
        mark = self._family.placeholder or self.image_token
        if sum(part.count(mark) for part in texts) != len(flat):
            raise ValueError(f"the texts show another number of images than the {len(flat)} given")
        remaining = iter(flat)
        shown = [self._process([next(remaining) for _ in range(part.count(mark))]) for part in texts]
        expanded = [_expand(part, mark, self._texts(own)) for part, own in zip(texts, shown, strict=True)]
        encoded = self.tokenizer(expanded, return_tensors=return_tensors, **kwargs)
        name = TOKEN_TYPES.get(self._family.model_type, "mm_token_type_ids" if self._family.position_dims > 1 else None)
        if name is not None:
            ids = encoded["input_ids"]
            sequences = ids if isinstance(ids, torch.Tensor) else [torch.tensor(sequence) for sequence in ids]
            types = [(sequence == self.image_token_id).long() for sequence in sequences]
            encoded[name] = torch.stack(types) if return_tensors else [t.tolist() for t in types]
        return BatchFeature({**encoded, **stack_pixels(shown)})

    def _process(self, images: Sequence[Any]) -> ImageInputs:
        """The images of one text."""
        if self._config is not None or not images:
            return process_images(self.image_processor, self._config, images)
        tensors = self.image_processor(images=list(images), return_tensors="pt")
        merged = self.image_processor.merge_size**2
        return ImageInputs(tensors, [(1, 1, int(grid.prod()) // merged) for grid in tensors["image_grid_thw"]])

    def _texts(self, shown: ImageInputs) -> list[str]:
        """What stands for each image of a text."""
        return [part if isinstance(part, str) else self.image_token * part for part in shown.shown]


def _flatten(images: Any) -> Iterable[Any]:
    if isinstance(images, list | tuple):
        for part in images:
            yield from _flatten(part)
    else:
        yield images


def _expand(text: str, mark: str, shown: Sequence[str]) -> str:
    """Each placeholder of a text replaced by what stands for its image."""
    head, *rest = text.split(mark)
    return head + "".join(image + part for image, part in zip(shown, rest, strict=True))
