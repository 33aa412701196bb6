"""The tiny model: a real Qwen2.5-VL at small size, with a byte-level BPE of its own and Qwen's chat format.

Qwen2-VL and Qwen3-VL, which take the same prompts and pixels, are grown in the same way.

Everything here makes it from nothing; its training is a recipe of `look-again train sft`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from look_again.tabletop.render import SIDE_PIXELS
from look_again.tabletop.samples import make_sample
from look_again.tabletop.world import PLACES
from look_again.text.tags import prepare_tokenizer
from look_again.training.run_parts import require_positive
from look_again.yaml_config import check_types

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A word, a place or a number with the space before it is one piece; Qwen's own pattern would cut "b3" in two.
PIECES = Regex(r" ?[A-Za-z]+[0-9]?| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+")
CORPUS_ROWS = 2000
CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
"""Configuration and model by family."""
SPARE_ROWS = 32  # embedding rows beyond the vocabulary, as the large checkpoints have them


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Shapes of the tiny model. `hidden` must be `heads` times 32 (or more): servers need head dimensions of 32.

    family: one of `CLASSES`. vocabulary: most tokens of the BPE. full_attention_layers: vision layers that see the
        whole image, of Qwen2.5-VL. deepstack_layers: vision layers whose features the language model's first layers
        read too, of Qwen3-VL. rope_theta: base of the language model's rotary frequencies.

    ValueError for values out of range.
    """

    family: str = "qwen2_5_vl"
    vocabulary: int = 640
    hidden: int = 160
    layers: int = 6
    heads: int = 5
    kv_heads: int = 5
    mlp: int = 448
    vision_hidden: int = 96
    vision_layers: int = 4
    vision_heads: int = 3
    vision_mlp: int = 256
    full_attention_layers: tuple[int, ...] = (1, 3)
    deepstack_layers: tuple[int, ...] = (1, 2)
    max_positions: int = 4096
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        check_types(self)
        sizes = [part.name for part in fields(self) if part.type in ("int", "float")]
        require_positive(self, *sizes)
        if self.family not in CLASSES:
            raise ValueError(f"family is {', '.join(CLASSES)}, not {self.family!r}")
        if self.hidden % self.heads or self.hidden // self.heads < 32:
            raise ValueError(f"hidden {self.hidden} over {self.heads} heads: head dimension must be 32 or more")
        if self.heads % self.kv_heads or self.vision_hidden % self.vision_heads:
            raise ValueError("kv_heads divides heads, and vision_heads divides vision_hidden")

    def new_processors(self) -> tuple[PreTrainedTokenizerFast, Qwen2VLImageProcessorPil]:
        """Tokenizer (with tags) and image processor."""
        return build_tokenizer(self.vocabulary), build_image_processor()

    def new_model(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
        """The model with random weights, in float32."""
        return build_model(tokenizer, self, seed)

    def new_configuration(self) -> Any:
        """The model's configuration before there is a tokenizer, for plans."""
        rows = -(-(self.vocabulary + len(SPECIAL_TOKENS)) // 32) * 32
        return build_model_config(self, rows, {name: i for i, name in enumerate(SPECIAL_TOKENS)})


def corpus() -> Iterator[str]:
    """Text that the tokenizer is trained on: Tabletop's prompts, responses and places."""
    for index in range(CORPUS_ROWS):
        row = make_sample("train", 0, index)
        yield f"{row.prompt}\n{row.written.text}"
    yield " ".join(f"{place} {place}" for place in PLACES)
    yield "system\nYou are a helpful assistant.\nuser\nassistant\n" * 50


def build_tokenizer(vocabulary: int = TinyConfig.vocabulary) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's special tokens and chat template, tags added as ordinary tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.chat_template = CHAT_TEMPLATE
    prepare_tokenizer(tokenizer)
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, config: TinyConfig | None = None, seed: int = 0) -> Any:
    """The tiny model with random weights, in float32."""
    tiny = config or TinyConfig()
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}
    rows = -(-(len(tokenizer) + SPARE_ROWS) // 32) * 32
    model_config = build_model_config(tiny, rows, ids)
    torch.manual_seed(seed)
    model = CLASSES[tiny.family][1](model_config)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        pad_token_id=ids["<|endoftext|>"],
        do_sample=False,
    )
    return model


def build_model_config(tiny: TinyConfig, rows: int, ids: dict[str, int]) -> Any:
    """The model's configuration; `rows` of the embedding, `ids` of the special tokens."""
    return CLASSES[tiny.family][0](
        text_config=_text_config(tiny, rows, ids),
        vision_config=_vision_config(tiny),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen's image processor with bounds that leave Tabletop's images as they are."""
    return Qwen2VLImageProcessorPil(size={"shortest_edge": SIDE_PIXELS**2, "longest_edge": SIDE_PIXELS**2})


def _text_config(tiny: TinyConfig, rows: int, ids: dict[str, int]) -> dict[str, Any]:
    head = tiny.hidden // tiny.heads
    own = {"head_dim": head} if tiny.family == "qwen3_vl" else {}
    return {
        "vocab_size": rows,
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.mlp,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "max_position_embeddings": tiny.max_positions,
        "rope_parameters": _rotary(tiny, head // 2),
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
        **own,
    }


def _rotary(tiny: TinyConfig, half: int) -> dict[str, Any]:
    """Rotary settings, with frequencies shared out to time, row and column; `half` of them in a head."""
    section = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    interleaved = {"mrope_interleaved": True} if tiny.family == "qwen3_vl" else {}
    if interleaved:  # every third frequency is a row's, every third a column's, as far as those go
        section = [half - 2 * (half // 3), half // 3, half // 3]
    return {"rope_type": "default", "rope_theta": tiny.rope_theta, "mrope_section": section, **interleaved}


def _vision_config(tiny: TinyConfig) -> dict[str, Any]:
    common = {"depth": tiny.vision_layers, "num_heads": tiny.vision_heads, "patch_size": 14, "spatial_merge_size": 2}
    if tiny.family == "qwen2_vl":
        ratio = tiny.vision_mlp // tiny.vision_hidden  # the family takes a whole one
        return common | {"embed_dim": tiny.vision_hidden, "hidden_size": tiny.hidden, "mlp_ratio": ratio}
    common |= {
        "hidden_size": tiny.vision_hidden,
        "intermediate_size": tiny.vision_mlp,
        "out_hidden_size": tiny.hidden,
    }
    if tiny.family == "qwen3_vl":
        places = (SIDE_PIXELS // common["patch_size"]) ** 2
        return common | {"num_position_embeddings": places, "deepstack_visual_indexes": list(tiny.deepstack_layers)}
    return common | {"fullatt_block_indexes": list(tiny.full_attention_layers), "window_size": 112}
