"""Shapes of the large checkpoints, for plans and measurements that need no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import Qwen2_5_VLConfig

PATCH_PIXELS = 14
TOKEN_PIXELS = 28  # side of one visual token: two patches
SPECIAL_IDS = 16  # ids at the end of the large shapes' vocabulary that stand for images, tags and padding


@dataclass(frozen=True, kw_only=True)
class LargeConfig:
    """Shapes of Qwen2.5-VL-7B, from its published configuration; the rope sections scale with the head dimension.

    image_pixels: side of the prompt's square image, a multiple of 28. tied: the head's weights are the embedding's.
    """

    vocabulary: int = 152064
    hidden: int = 3584
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    mlp: int = 18944
    vision_hidden: int = 1280
    vision_layers: int = 32
    vision_heads: int = 16
    vision_mlp: int = 3420
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)
    image_pixels: int = 448
    tied: bool = False

    def __post_init__(self) -> None:
        if self.image_pixels < TOKEN_PIXELS or self.image_pixels % TOKEN_PIXELS:
            raise ValueError(f"image_pixels is a multiple of {TOKEN_PIXELS}, not {self.image_pixels}")
        if self.vocabulary <= 2 * SPECIAL_IDS:
            raise ValueError(f"vocabulary must be above {2 * SPECIAL_IDS}, not {self.vocabulary}")

    def model_config(self) -> Qwen2_5_VLConfig:
        """The configuration of a model with these shapes; its special ids are the last of the vocabulary."""
        special = self.vocabulary - SPECIAL_IDS
        return Qwen2_5_VLConfig(
            text_config=_text_config(self),
            vision_config=_vision_config(self),
            vision_start_token_id=special + 1,
            vision_end_token_id=special + 2,
            image_token_id=special + 3,
            video_token_id=special + 4,
            tie_word_embeddings=self.tied,
        )


# Shapes of checkpoints whose configuration may be out of reach.
KNOWN = {
    "Qwen/Qwen2.5-VL-3B-Instruct": LargeConfig(
        vocabulary=151936, hidden=2048, layers=36, heads=16, kv_heads=2, mlp=11008, tied=True
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": LargeConfig(),
    "Qwen/Qwen2.5-VL-32B-Instruct": LargeConfig(
        hidden=5120, layers=64, heads=40, kv_heads=8, mlp=27648, vision_mlp=3456
    ),
    "Qwen/Qwen2.5-VL-72B-Instruct": LargeConfig(
        hidden=8192, layers=80, heads=64, kv_heads=8, mlp=29568, vision_mlp=3456
    ),
}


def _text_config(large: LargeConfig) -> dict[str, Any]:
    eighth = large.hidden // large.heads // 16
    return {
        "vocab_size": large.vocabulary,
        "hidden_size": large.hidden,
        "intermediate_size": large.mlp,
        "num_hidden_layers": large.layers,
        "num_attention_heads": large.heads,
        "num_key_value_heads": large.kv_heads,
        "max_position_embeddings": 128000,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [2 * eighth, 3 * eighth, 3 * eighth],
        },
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": large.tied,
    }


def _vision_config(large: LargeConfig) -> dict[str, Any]:
    return {
        "depth": large.vision_layers,
        "hidden_size": large.vision_hidden,
        "intermediate_size": large.vision_mlp,
        "num_heads": large.vision_heads,
        "out_hidden_size": large.hidden,
        "fullatt_block_indexes": list(large.full_attention_layers),
        "window_size": 112,
        "patch_size": PATCH_PIXELS,
        "spatial_merge_size": 2,
    }
