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


def load_pil_processor(source: str | Path) -> Any:
    """The image processor of a checkpoint (folder or hub name), the one that works on PIL images alone.

    Raises OSError where there is none, and ValueError where the family's needs torchvision, with the way round.
    """
    try:
        return AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    except ImportError as error:
        raise ValueError(
            f"the image processor of {source} needs torchvision, which LookAgain does without: process the images "
            "elsewhere and hand their tensors to model.generate(custom_generate=LookAgainDecoding(...))"
        ) from error


def bound_pixels(image_processor: Any, max_pixels: int | None) -> Any:
    """A copy of an image processor that scales larger images down to `max_pixels`; None: the processor itself.

    Smaller images are not scaled up beyond it either. An image keeps one visual token per side: one that is much longer
    than wide can have more pixels than a bound of a few tokens. ValueError for fewer pixels than one visual token.
    """
    if max_pixels is None:
        return image_processor
    side = image_processor.patch_size * image_processor.merge_size
    if max_pixels < side**2:
        raise ValueError(f"max_pixels is {max_pixels}: use {side**2} or more, which is one visual token")
    own = copy.deepcopy(image_processor)
    least = min(own.size["shortest_edge"], max_pixels // 4)  # scaling up rounds up, beyond a nearer bound
    own.size = {"shortest_edge": least, "longest_edge": max_pixels}
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
