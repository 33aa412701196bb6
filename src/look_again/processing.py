"""A processor of images and text for libraries that want one object, where the family's own cannot be built.

Qwen2.5-VL's processor class brings a video processor, which needs torchvision. This one has an image processor and a
tokenizer. Unlike the renderer it tokenises rendered strings, so what users write can become control tokens: it is for
training libraries that read data sets, not for answering users.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, BatchFeature, ProcessorMixin

from look_again.core.families import FAMILIES


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
    """Image processor and tokenizer of the Qwen2.5-VL family, without video."""

    attributes = ("image_processor", "tokenizer")
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.image_token = FAMILIES["qwen2_5_vl"].image_text
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Token ids with one image token per visual token, attention mask, and the images' patches and grids.

        ValueError when texts and images do not match.
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        flat = list(_flatten(images)) if images is not None else []
        pictures = self.image_processor(images=flat, return_tensors="pt") if flat else {}
        merged = self.image_processor.merge_size**2
        counts = [int(grid.prod()) // merged for grid in pictures.get("image_grid_thw", ())]
        if sum(part.count(self.image_token) for part in texts) != len(counts):
            raise ValueError(f"the texts show another number of images than the {len(counts)} given")
        sizes = iter(counts)
        expanded = [_expand(part, self.image_token, sizes) for part in texts]
        encoded = self.tokenizer(expanded, return_tensors=return_tensors, **kwargs)
        ids = encoded["input_ids"]
        sequences = ids if isinstance(ids, torch.Tensor) else [torch.tensor(sequence) for sequence in ids]
        types = [(sequence == self.image_token_id).long() for sequence in sequences]
        encoded["mm_token_type_ids"] = torch.stack(types) if return_tensors else [t.tolist() for t in types]
        return BatchFeature({**encoded, **pictures})


def _flatten(images: Any) -> Iterable[Any]:
    if isinstance(images, list | tuple):
        for part in images:
            yield from _flatten(part)
    else:
        yield images


def _expand(text: str, token: str, sizes: Any) -> str:
    """Each image token repeated as often as its image has visual tokens."""
    head, *rest = text.split(token)
    return head + "".join(token * next(sizes) + part for part in rest)
