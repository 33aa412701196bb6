"""Adapters and copies of the shipped checkpoint, small enough to be made in a test."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from look_again.loading import default_checkpoint, load_checkpoint
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample
from look_again.text.grammar import TAG_TOKENS

ROWS = 542  # of the embedding that the shipped tokenizer has a token for
STRENGTH = 0.3  # of random adapters: the answer changes and stays well formed


def make_adapter(folder: Path, base: Path | None = None, **options: Any) -> Path:
    """A LoRA adapter with random weights on a base (None is the shipped one), as peft saves it."""
    from peft import LoraConfig, get_peft_model

    model = load_checkpoint(base or default_checkpoint(), device="cpu").model
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False} | options)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # peft asks for it
        wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.mul_(STRENGTH)
    wrapped.save_pretrained(folder)
    return folder


def copy_base(folder: Path, change: Callable[[dict[str, torch.Tensor]], None] | None = None) -> Path:
    """A copy of the shipped checkpoint, its weights changed in place by `change`."""
    shutil.copytree(default_checkpoint(), folder)
    if change is not None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def ask_about() -> tuple[Image.Image, str]:
    """A Tabletop picture and a question about it, which the shipped model answers with two reflections."""
    sample = make_sample("train", 0, 3)
    return render(sample.scene), sample.prompt


def copy_without_tags(folder: Path) -> Path:
    """A copy of the shipped checkpoint whose tokenizer knows the tags under other names, so that they are missing.

    The embedding has no spare rows: it has to grow.
    """

    def cut(weights: dict[str, torch.Tensor]) -> None:
        weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:ROWS].clone()

    copy_base(folder, cut)
    (folder / "look_again.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = ROWS
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8")
        for tag in TAG_TOKENS:
            text = text.replace(tag, tag.replace("<", "<x-"))
        (folder / name).write_text(text, encoding="utf-8")
    return folder
