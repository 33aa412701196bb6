"""The tiny model: a real Qwen2.5-VL at small size, with a byte-level BPE of its own and Qwen's chat format.

Everything here makes it from nothing; its training is a recipe of `look-again train sft`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from look_again.tabletop.render import SIDE_PIXELS
from look_again.tabletop.samples import make_sample
from look_again.tabletop.world import PLACES
from look_again.text.tags import prepare_tokenizer

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
SPARE_ROWS = 32  # embedding rows beyond the vocabulary, as the large checkpoints have them


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Shapes of the tiny model. `hidden` must be `heads` times 32 (or more): servers need head dimensions of 32.

    vocabulary: most tokens of the BPE. full_attention_layers: vision layers that see the whole image. rope_theta: base
        of the language model's rotary frequencies.
    """

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
    max_positions: int = 4096
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.hidden // self.heads < 32:
            raise ValueError(f"hidden {self.hidden} over {self.heads} heads: head dimension must be 32 or more")

    def new_processors(self) -> tuple[PreTrainedTokenizerFast, Qwen2VLImageProcessorPil]:
        """Tokenizer (with tags) and image processor."""
        return build_tokenizer(self.vocabulary), build_image_processor()

    def new_model(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2_5_VLForConditionalGeneration:
        """The model with random weights, in float32."""
        return build_model(tokenizer, self, seed)

    def new_configuration(self) -> Qwen2_5_VLConfig:
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


def build_model(
    tokenizer: PreTrainedTokenizerFast, config: TinyConfig | None = None, seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """The tiny model with random weights, in float32."""
    tiny = config or TinyConfig()
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}
    rows = -(-(len(tokenizer) + SPARE_ROWS) // 32) * 32
    model_config = build_model_config(tiny, rows, ids)
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(model_config)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        pad_token_id=ids["<|endoftext|>"],
        do_sample=False,
    )
    return model


def build_model_config(tiny: TinyConfig, rows: int, ids: dict[str, int]) -> Qwen2_5_VLConfig:
    """The model's configuration; `rows` of the embedding, `ids` of the special tokens."""
    return Qwen2_5_VLConfig(
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


def _text_config(tiny: TinyConfig, rows: int, ids: dict[str, int]) -> dict:
    half = tiny.hidden // tiny.heads // 2
    section = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    return {
        "vocab_size": rows,
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.mlp,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "max_position_embeddings": tiny.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": tiny.rope_theta, "mrope_section": section},
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
    }


def _vision_config(tiny: TinyConfig) -> dict:
    return {
        "depth": tiny.vision_layers,
        "hidden_size": tiny.vision_hidden,
        "intermediate_size": tiny.vision_mlp,
        "num_heads": tiny.vision_heads,
        "out_hidden_size": tiny.hidden,
        "fullatt_block_indexes": list(tiny.full_attention_layers),
        "window_size": 112,
        "patch_size": 14,
        "spatial_merge_size": 2,
    }
