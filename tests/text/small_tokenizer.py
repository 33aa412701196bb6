"""A tokenizer of Qwen's own class, small enough to be trained in a test."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

IMAGE_TOKEN = "<|image_pad|>"
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", IMAGE_TOKEN)


def tiny_tokenizer() -> Qwen2Tokenizer:
    """Qwen's own tokenizer class, with 299 byte-level pieces trained here and Qwen's control tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = ["<SUMMARY> the image </SUMMARY> a reflection of the conclusion, reasoning\n\n"] * 20
    backend.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
    tokens = [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
    tokenizer.add_tokens(tokens, special_tokens=True)
    return tokenizer
