"""How a vLLM server is shown the images of each family, and which families it is not asked about.

Families of grids travel as files, at a size that the server's own processor leaves as it is. Others are scaled and cut
into tiles, which no two libraries do to the last bit, so their tensors travel as the image processor here made them:
as many items as there are runs of visual tokens, so that headers between tiles stay text. The paper serves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from look_again.clients.vllm_requests import Field, batched_field, flat_field, pack_item, shared_field

if TYPE_CHECKING:
    from look_again.serving.prompt import EncodedPrompt


@dataclass(frozen=True)
class TensorSlice:
    """What of a prompt's tensors shows one run of visual tokens. image: its number. tiles: of the whole prompt."""

    image: int
    tiles: slice


Packing = Callable[[Any, Mapping[str, torch.Tensor], TensorSlice], Mapping[str, Field]]
"""An item's fields, from the model's configuration, a prompt's tensors and the part of them that is meant."""


@dataclass(frozen=True)
class FamilyProtocol:
    """How one family is served. packing: None where images travel as files.

    compared: its answers by a real vLLM were compared with those in process; until then it is refused.
    """

    packing: Packing | None = None
    compared: bool = False


def _pack_internvl(config: Any, pixels: Mapping[str, torch.Tensor], part: TensorSlice) -> Mapping[str, Field]:
    tiles = pixels["pixel_values"][part.tiles]
    return {
        "pixel_values": flat_field(tiles),
        "image_num_patches": batched_field(torch.tensor(len(tiles)), on_cpu=True),
        "image_token_id": shared_field(torch.tensor(config.image_token_id)),
    }


def _pack_headed_tiles(config: Any, pixels: Mapping[str, torch.Tensor], part: TensorSlice) -> Mapping[str, Field]:
    tiles = pixels["pixel_values"][0, part.tiles]
    masks = pixels.get("pixel_attention_mask")
    shown = torch.ones_like(tiles[:, 0], dtype=torch.bool) if masks is None else masks[0, part.tiles].bool()
    return {
        "pixel_values": flat_field(tiles),
        "pixel_attention_mask": flat_field(shown),
        "num_patches": batched_field(torch.tensor(len(tiles)), on_cpu=True),
    }


def _pack_llava_onevision(config: Any, pixels: Mapping[str, torch.Tensor], part: TensorSlice) -> Mapping[str, Field]:
    return {
        "pixel_values": batched_field(pixels["pixel_values"][part.image]),
        "image_sizes": batched_field(pixels["image_sizes"][part.image], on_cpu=True),
    }


PROTOCOLS = {
    "qwen2_vl": FamilyProtocol(compared=True),
    "qwen2_5_vl": FamilyProtocol(compared=True),
    "qwen3_vl": FamilyProtocol(compared=True),
    "internvl": FamilyProtocol(_pack_internvl, compared=True),
    "llava_onevision": FamilyProtocol(_pack_llava_onevision),
    "smolvlm": FamilyProtocol(_pack_headed_tiles),
    "idefics3": FamilyProtocol(_pack_headed_tiles),
}
"""How families are served. A row becomes `compared` once `tests/vllm/test_vllm_families.py` has passed with it."""

SERVED = {name: protocol for name, protocol in PROTOCOLS.items() if protocol.compared}

NOT_COMPARED = "its answers there have not been compared with those in process"
UNSERVED = {
    **{name: NOT_COMPARED for name in PROTOCOLS if name not in SERVED},
    "qwen3_vl_moe": NOT_COMPARED,
    "glm4v": NOT_COMPARED,
    "glm46v": NOT_COMPARED,
    "glm4v_moe": NOT_COMPARED,
    "qwen3_5": "the state of its recurrent layers cannot be resumed from the middle of a cached block",
    "qwen3_5_moe": "the state of its recurrent layers cannot be resumed from the middle of a cached block",
    "mistral3": "the breaks between an image's lines belong to vLLM's placeholder, which takes no other tokens",
    "gemma3": "the visual tokens of an image see each other, which has not been compared there",
    "gemma4": "the visual tokens of an image see each other, which has not been compared there",
}
"""The other families, with the reason."""


def find_protocol(model_type: str) -> FamilyProtocol:
    """How a family is served. ValueError for one that is not, with the reason and what to do instead."""
    if model_type in SERVED:
        return SERVED[model_type]
    reason = UNSERVED.get(model_type, NOT_COMPARED)
    raise ValueError(
        f"models of type {model_type!r} are not served by vLLM: {reason}; start without --backend vllm. "
        f"vLLM serves {', '.join(SERVED)}"
    )


@dataclass
class PackedImages:
    """The images of one prompt as items for vLLM, each packed once. config: of the model. pixels: of all its images."""

    packing: Packing
    config: Any
    pixels: Mapping[str, torch.Tensor]
    visual_tokens: int
    _packed: dict[tuple[int, int, int], tuple[str, str]] = field(default_factory=dict)

    def pack(self, image: int, first: int, length: int) -> tuple[str, str]:
        """The name and the data of the visual tokens `first` to `first + length` - 1 of the prompt, all of `image`.

        Equal data have equal names.
        """
        key = (image, first, length)
        if key not in self._packed:
            data = pack_item(self.packing(self.config, self.pixels, self._slice(image, first, length)))
            self._packed[key] = hashlib.sha256(data.encode()).hexdigest(), data
        return self._packed[key]

    def _slice(self, image: int, first: int, length: int) -> TensorSlice:
        """Of tiles that have as many visual tokens each; where they do not, the image is whole."""
        values = self.pixels["pixel_values"]
        tiles = values.shape[1] if values.dim() == 5 else len(values)
        each = max(1, self.visual_tokens // tiles)
        return TensorSlice(image, slice(first // each, (first + length) // each))


def pack_prompt(model_type: str, config: Any, prompt: EncodedPrompt) -> PackedImages | None:
    """A prompt's images, where the family's tensors travel; None where its images do, and without any."""
    packing = find_protocol(model_type).packing
    if packing is None or not prompt.pixels:
        return None
    return PackedImages(packing, config, prompt.pixels, prompt.visual_tokens)
