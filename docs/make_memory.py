"""Writes the tables of docs/memory.md: memory by model size and mode, from shapes and from the plans of `--dry-run`."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForImageTextToText

from look_again.commands.main import main as look_again
from look_again.training.large_shapes import KNOWN
from look_again.weights.devices import build_skeleton

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "memory.md"
SIZES = {name.removeprefix("Qwen/Qwen2.5-VL-").removesuffix("-Instruct"): name for name in KNOWN}
BFLOAT16 = 2  # bytes
TEXT_TOKENS, SAMPLED_TOKENS, REFLECTIONS = 200, 1000, 2
DELIMITERS = 2  # slots around an image's visual tokens
QUANTISED = {"`int8`, `bnb-8bit`": 1.0, "`int4`": 0.5 + 4 / 32, "`bnb-4bit`": 0.5 + 4 / 64}  # bytes, scales included
ENGINES = {
    "full language model, ZeRO-3, 8 GPUs": ("sft", "recipes/paper/sft_copy.yaml", {"gpus": 8, "engine": "zero3"}),
    "full language model, FSDP2, 8 GPUs": ("sft", "recipes/paper/sft_copy.yaml", {"gpus": 8, "engine": "fsdp2"}),
    "adapters, 1 GPU": ("sft", "recipes/lora_24gb/sft_copy.yaml", {"gpus": 1, "engine": "single"}),
    "BRPO, all parameters, ZeRO-3, 8 GPUs": ("brpo", "recipes/paper/brpo.yaml", {"gpus": 8, "engine": "zero3"}),
    "BRPO, adapters, 1 GPU": ("brpo", "recipes/lora_24gb/brpo.yaml", {"gpus": 1, "engine": "single"}),
}


def count_slots(visual_tokens: int, mode: str) -> int:
    """Returns the slots of one answer when its last token has been fed."""
    kept = {"text": 0, "copy": visual_tokens, "route": (visual_tokens + 1) // 2}[mode]
    block = kept + DELIMITERS if kept else 0
    return TEXT_TOKENS + visual_tokens + DELIMITERS + SAMPLED_TOKENS + REFLECTIONS * block


def build_answer_table() -> str:
    lines = [
        "| model | parameters | weights | cache of 1,000 slots | answer: text | ROUTE, m = 50 | COPY "
        "| 16 answers, COPY |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, name in SIZES.items():
        config = KNOWN[name].model_config()
        with torch.device("meta"):
            parameters = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
        text: Any = config.get_text_config()
        head = text.hidden_size // text.num_attention_heads
        slot = 2 * text.num_hidden_layers * text.num_key_value_heads * head * BFLOAT16
        answers = [slot * count_slots(334, mode) / 1e6 for mode in ("text", "route", "copy")]
        cells = [f"{parameters / 1e9:.2f} billion", f"{parameters * BFLOAT16 / 1e9:.1f} GB", f"{slot / 1e3:.0f} MB"]
        cells += [f"{answer:.0f} MB" for answer in answers] + [f"{16 * answers[-1] / 1e3:.1f} GB"]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def build_quantised_table() -> str:
    """Weights whose language model is quantised: its layers by the format, everything else in bfloat16."""
    lines = [f"| weights | {' | '.join(SIZES)} |", "|---" * (len(SIZES) + 1) + "|"]
    counts = []
    for name in SIZES.values():
        model = build_skeleton(KNOWN[name].model_config())
        linears = [module for module in model.get_decoder().modules() if isinstance(module, torch.nn.Linear)]
        layers = sum(linear.weight.numel() for linear in linears)
        counts.append((layers, sum(parameter.numel() for parameter in model.parameters()) - layers))
    for title, size in {"bfloat16": BFLOAT16, **QUANTISED}.items():
        cells = [f"{(layers * size + rest * BFLOAT16) / 1e9:.1f} GB" for layers, rest in counts]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def build_training_table() -> str:
    lines = [f"| per GPU | {' | '.join(SIZES)} |", "|---" * (len(SIZES) + 1) + "|"]
    for title, (kind, recipe, hardware) in ENGINES.items():
        lines.append(f"| {title} | {' | '.join(plan(kind, recipe, hardware, name) for name in SIZES.values())} |")
    return "\n".join(lines) + "\n"


def plan(kind: str, recipe: str, hardware: dict[str, Any], base: str) -> str:
    """Returns what `--dry-run` says of a recipe with another base, on hardware where everything fits."""
    settings = yaml.safe_load((ROOT / recipe).read_text())
    roomy = hardware | {"memory_gb": 10_000, "shapes": base}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings | {"base": base, "hardware": roomy}))
        with contextlib.redirect_stdout(io.StringIO()) as output:
            if look_again(["train", kind, "--config", str(path), "--dry-run"]):
                raise SystemExit(f"no plan of {recipe} for {base}")
    found = re.search(r"memory per GPU +about ([\d.]+) GB", output.getvalue())
    if found is None:
        raise SystemExit(f"no memory in the plan of {recipe}:\n{output.getvalue()}")
    return f"{float(found[1]):.0f} GB"


def write_tables() -> None:
    text = PAGE.read_text()
    tables = {
        "answers": build_answer_table(),
        "quantised": build_quantised_table(),
        "training": build_training_table(),
    }
    for name, table in tables.items():
        text = re.sub(rf"(<!-- table: {name} -->\n).*?(<!-- end table -->)", rf"\g<1>{table}\g<2>", text, flags=re.S)
        print(table)
    PAGE.write_text(text)


if __name__ == "__main__":
    write_tables()
