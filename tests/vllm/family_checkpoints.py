"""Small random checkpoints of several families, in sizes that vLLM takes on a CPU, with processors of both sides.

Freshly drawn weights never write `<REFLECTION>`: its row of the output layer changes places with that of a token that
the model writes now and then, so that the answers look again where that token stood.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import GenerationConfig

import look_again
from look_again.core.families import FAMILIES
from look_again.model import Request, Sampling
from look_again.tabletop.tiny import CHAT_TEMPLATE, TinyConfig, build_image_processor, build_model, build_tokenizer
from look_again.text.grammar import open_tag
from tests.tiny_families import ROPE, build, spread

SIDE, PATCH = 28, 14  # of a tile
SHOWN = "<|vision_start|><|image_pad|><|vision_end|>"
HEADERS = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
MARKS = {
    "internvl": list(INTERNVL_TOKENS.values()),
    "llava_onevision": ["<image>", "<video>"],
    "idefics3": ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *HEADERS],
}
MARKS["smolvlm"] = MARKS["idefics3"]
TILED = {"longest_edge": SIDE * 3}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "internvl": ("GotOcr2ImageProcessorPil", {"size": {"height": SIDE, "width": SIDE}, "max_patches": 6}),
    "llava_onevision": (
        "LlavaOnevisionImageProcessorPil",
        {"size": {"height": SIDE, "width": SIDE}, "image_grid_pinpoints": [[28, 28], [28, 56], [56, 28], [56, 56]]},
    ),
    "idefics3": ("Idefics3ImageProcessorPil", {"size": TILED, "max_image_size": {"longest_edge": SIDE}}),
    "smolvlm": ("SmolVLMImageProcessorPil", {"size": TILED, "max_image_size": {"longest_edge": SIDE}}),
}
OWN = {
    "qwen2_vl": ("Qwen2VLProcessor", {}),
    "qwen3_vl": ("Qwen3VLProcessor", {}),
    "internvl": ("InternVLProcessor", {"image_seq_length": 4}),
    "llava_onevision": ("LlavaOnevisionProcessor", {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}),
    "idefics3": ("Idefics3Processor", {"image_seq_len": 4}),
    "smolvlm": ("SmolVLMProcessor", {"image_seq_len": 4}),
}
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rope_parameters": ROPE,
    "tie_word_embeddings": False,
}
VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH,
    "image_size": SIDE,
}


def write_checkpoint(name: str, folder: Path) -> Path:
    """A random model of a family with everything that either side reads, and answers that look again."""
    tokenizer = build_tokenizer(400)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS.get(name, [])}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT_TEMPLATE.replace(SHOWN, _placeholder(name))
    if name == "internvl":
        tokenizer._set_model_specific_special_tokens(INTERNVL_TOKENS)
    model = _build_qwen(name, tokenizer) if name.startswith("qwen") else _build_tiled(name, tokenizer)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    kind, own = OWN[name]
    for part in (model, tokenizer, _image_processor(name)):
        part.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": kind, **own}))
    (folder / "look_again.json").write_text('{"trained": true}')
    _let_look(folder)
    return folder


def _placeholder(name: str) -> str:
    return SHOWN if name.startswith("qwen") else FAMILIES[name].image_text


def _image_processor(name: str) -> Any:
    if name.startswith("qwen"):
        return build_image_processor()
    kind, settings = PROCESSORS[name]
    return getattr(transformers, kind)(**settings)


def _build_qwen(name: str, tokenizer: Any) -> Any:
    shapes = TinyConfig(family=name, layers=3, vision_layers=3, deepstack_layers=(0, 1))
    return spread(build_model(tokenizer, shapes), 0.1)


def _build_tiled(name: str, tokenizer: Any) -> Any:
    vision, ids = dict(VISION), tokenizer.get_vocab()
    text = TEXT | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    if name == "internvl":
        settings = {"image_token_id": ids["<IMG_CONTEXT>"], "image_seq_length": 4, "downsample_ratio": 0.5}
        vision |= {"image_size": [SIDE, SIDE], "patch_size": [PATCH // 2, PATCH // 2]}
        return build(name, text_config=text | {"model_type": "qwen3", "head_dim": 32}, vision_config=vision, **settings)
    if name == "llava_onevision":
        points = PROCESSORS[name][1]["image_grid_pinpoints"]
        settings = {"image_token_index": ids["<image>"], "video_token_index": ids["<video>"]}
        settings |= {"image_grid_pinpoints": points, "vision_feature_layer": -1, "tie_word_embeddings": False}
        vision |= {"model_type": "siglip_vision_model", "num_channels": 3, "vision_use_head": False}
        return build(name, text_config=text | {"model_type": "qwen2"}, vision_config=vision, **settings)
    settings = {"image_token_id": ids["<image>"], "scale_factor": 1, "tie_word_embeddings": False}
    return build(name, text_config=text | {"model_type": "llama"}, vision_config=vision, **settings)


def _let_look(folder: Path) -> None:
    """Let the tag and a token that answers hold now and then change places in the output layer."""
    looker = look_again.load(folder, device="cpu")
    tag = looker.checkpoint.tokenizer.convert_tokens_to_ids(open_tag("REFLECTION"))
    answers = looker.ask_batch(requests(8), reattention="text", sampling=Sampling(max_new_tokens=80))
    written = Counter(token for answer in answers for token in set(_sampled(answer)))
    ends = {looker.checkpoint.tokenizer.eos_token_id}
    often = next(token for token, count in written.most_common() if token not in ends and count <= len(answers))
    model = looker.checkpoint.model
    head = model.get_output_embeddings().weight.data
    head[[tag, often]] = head[[often, tag]]
    model.save_pretrained(folder)


def _sampled(answer: Any) -> Sequence[int]:
    slots = answer.slots
    return slots.token_ids[slots.provenance == 1].tolist()


def requests(n: int) -> list[Request]:
    return [Request([noise_image(number)], f"What is in image {number}?") for number in range(n)]


def noise_image(number: int) -> Image.Image:
    """Images that differ, in sizes that make several tiles."""
    width, height = ((56, 28), (28, 56), (60, 50), (30, 20))[number % 4]
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(number))
    return Image.fromarray(pixels.to(torch.uint8).numpy(), "RGB")
