"""Adding the tags to a checkpoint: which kind of token, which rows, which values, and nothing else changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)

from lookagain.chat import encode_text
from lookagain.grammar import TAG_TOKENS
from lookagain.prepare import MissingTagsError, prepare, prepare_tokenizer, tag_ids

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
N_BASE_PIECES = 300
CORPUS = ["<SUMMARY> the image </SUMMARY> a reflection of the conclusion, reasoning"] * 20
PLAIN_PIECES = "SUMMARY"


def tiny_tokenizer(chat_template: str | None = None) -> Qwen2Tokenizer:
    """Qwen's own tokenizer class and pattern with a byte-level BPE of 300 pieces, trained here."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=N_BASE_PIECES, initial_alphabet=alphabet, show_progress=False),
    )
    backend.save
    raise NotImplementedError
