"""A finished stage as a checkpoint folder that stock transformers loads, and that re-attends when it generates.

`AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).generate(...)` finds `custom_generate/`
there, which hands over to this package.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from look_again import __version__
from look_again.core.reattention import Reattention
from look_again.loading import Checkpoint, resolve_sources
from look_again.model import DEFAULT_NEW_TOKENS
from look_again.processing import bound_pixels
from look_again.text.tags import tag_ids
from look_again.weights.checkpoint_record import (
    FORMAT,
    SIDE_FILE,
    CheckpointRecord,
    find_side_file,
    policy_fields,
    read_generation_entry,
)

GENERATE = '"""Decoding with visual re-attention; needs look-again-vlm."""\n\nfrom look_again.hub import generate\n'


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a checkpoint folder says of its run.

    title: the card's. base: where the run started, None for a model grown from nothing. trains: the parts that trained.
    data: what it trained on. length: how long, in words. optimizer: rate and schedule, in words. modes, keep: weights
    of the re-attention modes, and ROUTE's percentage. facts: what the run counted and measured. keys: of its recipe.
    max_pixels: of the images; None for no bound.
    """

    title: str
    base: str | None
    trains: str
    data: Sequence[str]
    length: str
    optimizer: str
    modes: Mapping[str, float]
    keep: int
    facts: Mapping[str, Any]
    keys: Mapping[str, Any]
    max_pixels: int | None = None

    @property
    def policy(self) -> Reattention:
        """How the checkpoint re-attends where nobody says otherwise."""
        mode = max(self.modes, key=lambda name: (self.modes[name], name == "copy", name == "route"))
        return Reattention(mode=mode, keep=self.keep)

    @property
    def record(self) -> CheckpointRecord:
        """What the side file says."""
        return CheckpointRecord(
            trained=True, reattention=self.policy, max_pixels=self.max_pixels, format=FORMAT, version=__version__
        )


def write_checkpoint(
    final: Path, model: Any, tokenizer: Any, image_processor: Any, export: Export, dtype: torch.dtype
) -> None:
    """Write the folder beside its place and move it there whole; weights are stored in `dtype`."""
    unfinished = final.with_name("final.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.generation_config.look_again = {"tags": tag_ids(tokenizer), **policy_fields(export.policy)}
    model.generation_config.max_new_tokens = DEFAULT_NEW_TOKENS  # the library's own default ends answers after 20
    model.to(dtype).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    bound_pixels(image_processor, export.max_pixels).save_pretrained(unfinished)
    write_custom_generate(unfinished)
    record = export.record.as_dict() | {"stage": dict(export.keys)}
    (unfinished / SIDE_FILE).write_text(json.dumps(record, indent=2) + "\n")
    (unfinished / "README.md").write_text(card(export))
    unfinished.rename(final)


def write_custom_generate(folder: Path) -> None:
    """The code by which stock transformers looks again with a checkpoint's folder."""
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(GENERATE)
    (folder / "custom_generate" / "requirements.txt").write_text("look-again-vlm\n")


def write_copy(out: Path, checkpoint: Checkpoint, name: str, adapter: str | None = None) -> None:
    """A loaded checkpoint as a folder of its own, with the side file that the checkpoint or its adapter has."""
    model = checkpoint.model
    if read_generation_entry(model.generation_config) is None:
        policy = policy_fields(checkpoint.reattention)
        model.generation_config.look_again = {"tags": tag_ids(checkpoint.tokenizer), **policy}
    for part in (model, checkpoint.tokenizer, checkpoint.image_processor):
        part.save_pretrained(out)
    write_custom_generate(out)
    side_file = find_side_file(resolve_sources(name, adapter).with_file(SIDE_FILE))
    if side_file is not None:
        shutil.copy(side_file, out / SIDE_FILE)


def card(export: Export) -> str:
    """The model card: what was trained on what, how, and how to use it."""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        *([f"base_model: {export.base}"] if export.base else []),
        "tags: [visual-re-attention, look-again]",
        "---",
        "",
        f"# {export.title}",
        "",
        "Fine-tuned to look again: before each `<REFLECTION>`, visual tokens of the image are put back.",
        "",
        f"- Base: {export.base or 'none, grown from nothing'}. Trained: {export.trains}. "
        f"Data: {', '.join(export.data)}.",
        f"- {export.length}, AdamW, {export.optimizer}.",
        f"- Re-attention in training: {_weights(export.modes)}; ROUTE keeps {export.keep}%.",
        *[f"- {name}: {value}" for name, value in export.facts.items()],
        f"- Made with look-again-vlm {__version__}.",
        "",
        "```python",
        "import look_again",
        'looker = look_again.load("THIS FOLDER")',
        f'print(looker.ask("image.png", "What is this?", reattention="{_word(export.policy)}").answer)',
        "```",
        "",
        "It was not evaluated by its training; the answers of a model can be wrong.",
        "",
    ]
    return "\n".join(lines)


def _word(policy: Reattention) -> str:
    """The policy as one word, which `Reattention.parse` reads."""
    return f"route-{policy.keep}" if policy.mode == "route" else policy.mode


def _weights(modes: Mapping[str, float]) -> str:
    total = sum(modes.values())
    return ", ".join(f"{name} {weight / total:.0%}" for name, weight in modes.items())
