"""A finished stage as a checkpoint folder that stock transformers loads, and that re-attends when it generates.

`AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).generate(...)` finds `custom_generate/`
there, which hands over to this package. Sharded or adapted weights are put into a fresh copy of the base first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from look_again import __version__
from look_again.loading import SIDE_FILE
from look_again.text.tags import tag_ids
from look_again.training.module import Reattending
from look_again.training.recipe import SftConfig, Stage
from look_again.training.trainable import freeze, tag_rows

GENERATE = '"""Decoding with visual re-attention; needs look-again-vlm."""\n\nfrom look_again.hub import generate\n'


def merged(state: Mapping[str, torch.Tensor], stage: Stage, fresh: Any, tokenizer: Any) -> Any:
    """The model that a stage made: its state put into `fresh`, the stage's start, adapters and tag rows folded in."""
    ids = tag_ids(tokenizer)
    adapted = freeze(fresh, stage)
    tags = tag_rows(fresh, stage, list(ids.values()))
    module = Reattending(fresh, ids, tags)
    # What stayed frozen is not copied: training may have held it in a coarser type.
    module.load_state_dict({name: state[name] for name in module.trained}, strict=False)
    model = fresh if adapted is None else adapted.merge_and_unload()
    if tags is not None:
        tags.write_into(model)
    return model


def write_checkpoint(
    final: Path,
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    *,
    config: SftConfig,
    stage: Stage,
    facts: Mapping[str, Any],
    dtype: torch.dtype,
) -> None:
    """Write the folder beside its place and move it there whole. `facts` are what the run counted and measured."""
    unfinished = final.with_name("final.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    mode = max(stage.modes, key=lambda name: (stage.modes[name], name == "copy", name == "route"))
    settings = {"mode": mode, "keep": stage.keep}
    model.generation_config.look_again = {"tags": tag_ids(tokenizer), **settings}
    model.to(dtype).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    image_processor.save_pretrained(unfinished)
    (unfinished / "custom_generate").mkdir()
    (unfinished / "custom_generate" / "generate.py").write_text(GENERATE)
    (unfinished / "custom_generate" / "requirements.txt").write_text("look-again-vlm\n")
    (unfinished / SIDE_FILE).write_text(json.dumps({"trained": True, "stage": asdict(stage)}, indent=2) + "\n")
    (unfinished / "README.md").write_text(card(config, stage, settings, facts))
    unfinished.rename(final)


def card(config: SftConfig, stage: Stage, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The model card: what was trained on what, how, and how to use it."""
    data = [f"{source.loader}:{source.path}" for source in stage.data] or ["Tabletop, rows made on the fly"]
    length = f"{stage.steps} steps" if stage.steps is not None else f"{stage.epochs} epochs"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        *([f"base_model: {config.base}"] if config.base else []),
        "tags: [visual-re-attention, look-again]",
        "---",
        "",
        f"# {Path(config.output).name}, stage {stage.name}",
        "",
        "Fine-tuned to look again: before each `<REFLECTION>`, visual tokens of the image are put back.",
        "",
        f"- Base: {config.base or 'none, grown from nothing'}. Trained: {stage.trains}. Data: {', '.join(data)}.",
        f"- {length} of {stage.batch} x {stage.accumulation} rows per device, AdamW, peak rate "
        f"{stage.learning_rate:g}, schedule {stage.schedule}, seed {config.seed}, {'bf16' if config.bf16 else 'fp32'}.",
        f"- Re-attention in training: {_weights(stage.modes)}; ROUTE keeps {stage.keep}%.",
        *[f"- {name}: {value}" for name, value in facts.items()],
        f"- Made with look-again-vlm {__version__}.",
        "",
        "```python",
        "import look_again",
        'looker = look_again.load("THIS FOLDER")',
        f'print(looker.ask(["picture.png"], "What is this?", reattention="{settings["mode"]}").answer)',
        "```",
        "",
        "It was not evaluated by its training; the answers of a model can be wrong.",
        "",
    ]
    return "\n".join(lines)


def _weights(modes: Mapping[str, float]) -> str:
    total = sum(modes.values())
    return ", ".join(f"{name} {weight / total:.0%}" for name, weight in modes.items())
