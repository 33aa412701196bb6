"""`look-again bench sft`: what re-attention costs in training, as ratios of two arms of one run.

The baseline is the straightforward way: the image repeated inside the assistant's turn, batched by TRL's own collator,
encoded again for every time it is shown, logits at every slot. Both arms train the same parameters on the same rows.
A step is forward and backward; collation, which data workers do meanwhile, is timed apart.

Legend: B rows, S padded slots of a step, P vision patches.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from look_again.bench.decode_costs import describe_machine
from look_again.bench.loss_costs import measure_loss
from look_again.bench.measure import Call, describe_spread, paired_ratios, peak_bytes, timed
from look_again.bench.packing_costs import measure_packing
from look_again.bench.settings import SHAPES, SftSettings
from look_again.core.reattention import Reattention
from look_again.data.image_files import open_image
from look_again.extras import require
from look_again.processing import LookAgainProcessor
from look_again.tabletop.loader import build_sample
from look_again.tabletop.samples import TabletopSample, make_sample
from look_again.tabletop.tiny import SPECIAL_TOKENS, TinyConfig, build_image_processor, build_model, build_tokenizer
from look_again.text.grammar import open_tag
from look_again.text.tags import tag_ids
from look_again.training.batches import Codec, collate
from look_again.training.large_shapes import TOKEN_PIXELS, LargeConfig
from look_again.training.module import Reattending
from look_again.training.run_parts import TrainedParts
from look_again.training.trainable import choose_trainable
from look_again.weights.devices import resolve_device

# A visual token of the 7B model costs its tower 0.4 times what a token costs its decoder; so it does here.
SHAPE = TinyConfig(vision_hidden=64, vision_layers=2, vision_heads=2, vision_mlp=128, full_attention_layers=(1,))
PARTS = TrainedParts(trains="language_model")
TARGETS = {
    "copy_time_over_repeated": 1.0,
    "copy_memory_over_repeated": 1.0,
    "route_over_copy": 1.35,
    "chunked_peak_over_whole": 0.35,
    "chunked_time_over_whole": 1.1,
    "packed_over_padded": 0.75,
    "long_step_over_count": 1.5,
}


class SftBench:
    """One model, the same rows as re-attentive items and as TRL's batch, and the steps on them.

    LoadError for a device that is not here.
    """

    def __init__(self, settings: SftSettings) -> None:
        require("trl", extra="train")
        self.settings = settings
        self.device = resolve_device(settings.device)
        self.tokenizer = build_tokenizer()
        self.model, self.side = _model(settings, self.tokenizer, self.device)
        tags = choose_trainable(self.model, PARTS, list(tag_ids(self.tokenizer).values()))
        self.module = Reattending(self.model, tag_ids(self.tokenizer), tags).train()
        self.rows = [
            make_sample("train", 0, index, length="long", reflections=settings.reflections, error_rate=0.2)
            for index in range(settings.rows)
        ]
        self.image_processor = build_image_processor()
        self.image_processor.size = {"shortest_edge": self.side**2, "longest_edge": self.side**2}

    def collated(self, policy: Reattention) -> dict[str, Any]:
        """Our batch of the rows."""
        codec = Codec.of(self.model.config, self.tokenizer, self.image_processor)
        return collate([codec.item(build_sample(row, "train"), policy) for row in self.rows])

    def collated_by_trl(self) -> dict[str, Any]:
        """TRL's batch of the rows, the image repeated before every reflection."""
        from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

        processor = LookAgainProcessor(self.image_processor, self.tokenizer)
        return dict(DataCollatorForVisionLanguageModeling(processor)([_conversation(row) for row in self.rows]))

    def step(self, policy: Reattention) -> Call:
        """Forward and backward of our step."""
        batch = self.on_device(self.collated(policy))
        return partial(self.run_step, lambda: self.module(**batch)["loss"])

    def repeated_step(self) -> Call:
        """Forward and backward of the baseline's step."""
        batch = self.on_device(self.collated_by_trl())
        return partial(self.run_step, lambda: self.model(**batch, use_cache=False).loss)

    def run_step(self, loss: Callable[[], torch.Tensor]) -> None:
        """Forward and backward of a loss."""
        loss().backward()
        self.module.zero_grad(set_to_none=True)

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its tensors where the model is."""
        return {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    def count_operations(self, batch: dict[str, Any]) -> float:
        """Multiplications of our step on a collated batch."""
        with torch.no_grad():
            features, _ = self.module.features(batch["examples"], batch["pixel_values"], batch["image_grid_thw"])
            parts = list(self.module.batches(batch["examples"], features))
        decoder = sum(_decoder_operations(self.model, part.token_ids) for part in parts)
        targets = sum(int((part.targets != -100).sum()) for part in parts)
        vision = _vision_operations(self.model, batch["pixel_values"])
        return decoder + vision + 2 * _head_operations(self.model) * targets

    def predicted_ratio(self) -> float:
        """Time of COPY over the baseline's, from multiplications alone: the operations of both steps' shapes."""
        ours = self.count_operations(self.on_device(self.collated(Reattention(mode="copy"))))
        theirs = self.collated_by_trl()
        baseline = _decoder_operations(self.model, theirs["input_ids"])
        baseline += _vision_operations(self.model, theirs["pixel_values"])
        baseline += 2 * _head_operations(self.model) * theirs["input_ids"].numel()
        return ours / baseline


def _model(settings: SftSettings, tokenizer: Any, device: torch.device) -> tuple[Any, int]:
    """The model on its device, and the side of its images in pixels."""
    dtype = getattr(torch, settings.dtype or SHAPES[settings.shapes])
    if settings.shapes == "tiny":
        model: Any = build_model(tokenizer, SHAPE)
        return model.to(device, dtype), 6 * TOKEN_PIXELS
    from transformers import AutoModelForImageTextToText

    large = LargeConfig(layers=settings.layers or LargeConfig.layers, image_pixels=settings.image_pixels)
    config, vocabulary = large.model_config(), tokenizer.get_vocab()
    names = dict(zip(("vision_start", "vision_end", "image", "video"), (3, 4, 6, 7), strict=True))
    for name, place in names.items():
        setattr(config, f"{name}_token_id", vocabulary[SPECIAL_TOKENS[place]])
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype), settings.image_pixels


def _conversation(row: TabletopSample) -> dict[str, Any]:
    """A row in TRL's shape, its image repeated before every reflection."""
    image, tag = open_image(build_sample(row, "train").images[0]), open_tag("REFLECTION")
    head, *rest = row.written.text.split(tag)
    parts: list[dict[str, str]] = [{"type": "text", "text": head}]
    for part in rest:
        parts += [{"type": "image"}, {"type": "text", "text": tag + part}]
    user = [{"type": "image"}, {"type": "text", "text": row.prompt}]
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": parts}]
    return {"messages": messages, "images": [image] * (1 + len(rest))}


def _decoder_operations(model: Any, ids: torch.Tensor) -> float:
    """Multiplications of the decoder's forward and backward (twice the forward) on padded ids (B, S)."""
    text = model.config.get_text_config()
    linear = _linear_parameters(model.base_model.language_model.layers)
    attention = 2 * text.num_hidden_layers * text.hidden_size * ids.shape[1] / 2  # causal: half of all pairs
    return 3 * ids.numel() * (linear + attention)


def _vision_operations(model: Any, pixel_values: torch.Tensor) -> float:
    """Multiplications of the frozen tower's forward on patches (P, values)."""
    visual = model.base_model.visual
    merge = model.config.vision_config.spatial_merge_size**2
    per_patch = _linear_parameters(visual.blocks) + visual.patch_embed.proj.weight.numel()
    return pixel_values.shape[0] * (per_patch + _linear_parameters(visual.merger) / merge)


def _head_operations(model: Any) -> float:
    return float(model.get_output_embeddings().weight.numel())


def _linear_parameters(module: torch.nn.Module) -> float:
    return float(sum(m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Linear)))


def vision_over_language(model: Any) -> float:
    """Operations of the tower per visual token over those of the decoder per token, both forward."""
    merge = model.config.vision_config.spatial_merge_size**2
    values = torch.empty(merge, 1)
    return _vision_operations(model, values) / _linear_parameters(model.base_model.language_model.layers)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure: {"ratios", "spread", "predicted", "vision_over_language", "settings"}."""
    names = SftSettings.__dataclass_fields__
    bench = SftBench(SftSettings(**{name: getattr(args, name) for name in names}))
    samples = measure(bench) | measure_loss(bench.settings) | measure_packing(bench)
    return {
        "ratios": {name: statistics.median(values) for name, values in samples.items()},
        "spread": {name: describe_spread(values) for name, values in samples.items()},
        "predicted": {"copy_time_over_repeated": bench.predicted_ratio()},
        "vision_over_language": {
            "here": vision_over_language(bench.model),
            "qwen2.5-vl-7b": vision_over_language_of_7b(),
        },
        "settings": {**vars(bench.settings), **describe_machine(bench.device)},
    }


def vision_over_language_of_7b() -> float:
    """The same for the 7B shapes, counted on a model without storage."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return vision_over_language(AutoModelForImageTextToText.from_config(LargeConfig().model_config()))


def measure(bench: SftBench) -> dict[str, list[float]]:
    """Samples of every ratio."""
    pairs, device = bench.settings.pairs, bench.device
    time, peak = partial(timed, device=device), partial(peak_bytes, device=device)
    copy, route = Reattention(mode="copy"), Reattention(mode="route", keep=bench.settings.keep)
    copy_step, repeated = bench.step(copy), bench.repeated_step()
    return {
        "copy_time_over_repeated": paired_ratios(copy_step, repeated, pairs, time),
        "copy_memory_over_repeated": paired_ratios(copy_step, repeated, 1, peak),
        "route_over_copy": paired_ratios(bench.step(route), copy_step, pairs, time),
        "copy_collation_over_repeated": paired_ratios(
            partial(bench.collated, copy), bench.collated_by_trl, pairs, time
        ),
    }


def table(result: dict[str, Any]) -> str:
    """A result for people."""
    lines = [f"{'ratio':42}{'median':>8}{'quartiles':>16}{'target':>8}"]
    for name, value in result["ratios"].items():
        spread, target = result["spread"][name], TARGETS.get(name)
        shown = "" if target is None else f"{target:.2f}" + ("  MISSED" if value > target else "")
        lines.append(f"{name:42}{value:8.3f}{spread['q1']:9.3f} - {spread['q3']:.3f}{shown:>8}")
    predicted, cost = result["predicted"]["copy_time_over_repeated"], result["vision_over_language"]
    lines += [
        "",
        f"operation counts predict copy_time_over_repeated {predicted:.3f}",
        f"a visual token costs the tower {cost['here']:.2f} of what a token costs the decoder "
        f"(7B: {cost['qwen2.5-vl-7b']:.2f})",
        "",
        ", ".join(f"{name} {value}" for name, value in result["settings"].items()),
    ]
    return "\n".join(lines)
