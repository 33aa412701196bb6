"""Every command on every extra alone: it works, or it names the extra that it needs, in one line and early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from look_again.commands import main
from look_again.data.source import Source
from look_again.loading import default_checkpoint
from look_again.pipeline.ledger.ledger import Ledger
from look_again.tabletop.demo import DemoConfig
from look_again.yaml_config import dump_yaml

REPOSITORY = Path(__file__).parents[2]
TABLE = str(REPOSITORY / "examples" / "table.png")
TABLETOP, BOX = REPOSITORY / "recipes" / "tabletop", REPOSITORY / "recipes" / "box"
NOBODY = "http://127.0.0.1:9 --model m --retries 0"
TRAIN_TO = "--base {folder}/none --output {folder}/trained"
EXTRAS = ("", "train", "data", "serve", "eval", "video", "ui", "ray", "load", "quantize")
FAILS = "its own complaint"  # with its extra a command goes on to complain of what it was given
COMMANDS: dict[str, tuple[str, str, str, Any]] = {
    # arguments, the package that is needed ("" for none), its extra, and what comes with it: status 0, or a complaint
    "families": ("families", "", "", 0),
    "ask": (f"ask {TABLE} Question --max-new-tokens 1", "", "", 0),
    "ask --video": ("ask --video {folder}/no.mp4 Question", "av", "video", FAILS),
    "ask --quantization": (f"ask {TABLE} Q --max-new-tokens 1 --quantization int8", "torchao", "quantize", 0),
    "ask --adapter": (f"ask {TABLE} Question --adapter {{folder}}/adapter", "peft", "load", FAILS),
    "ask --device-map": (f"ask {TABLE} Question --max-new-tokens 1 --device-map auto", "accelerate", "load", 0),
    "eval": ("eval tabletop --n 1 --max-new-tokens 4", "", "", 0),
    "eval --base-url": (f"eval tabletop --n 1 --out {{folder}}/asked --base-url {NOBODY}", "openai", "eval", FAILS),
    "compare": ("compare {folder}/none {folder}/other", "", "", FAILS),
    "analyze heatmap": (
        f"analyze heatmap --image {TABLE} --question Q --out {{folder}}/heat --max-new-tokens 4",
        "matplotlib",
        "eval",
        0,
    ),
    "analyze dilution": ("analyze dilution --n 0 --out {folder}/dilution", "matplotlib", "eval", FAILS),
    "prepare": ("prepare {folder}/none {folder}/prepared", "", "", FAILS),
    "train sft": (f"train sft --config {TABLETOP}/sft_text.yaml {TRAIN_TO}", "accelerate", "train", FAILS),
    "train brpo": (f"train brpo --config {TABLETOP}/brpo.yaml {TRAIN_TO}", "accelerate", "train", FAILS),
    "tabletop make": ("tabletop make --n 2 --out {folder}/rows", "", "", 0),
    "tabletop clips": ("tabletop clips --n 1 --out {folder}/clips", "av", "video", 0),
    "tabletop serve": ("tabletop serve --port 70000", "uvicorn", "serve", FAILS),
    "data run": ("data run --config {folder}/run.yaml --run {folder}/run", "", "", 0),
    "data run --engine ray": (
        "data run --config {folder}/run.yaml --run {folder}/run --engine ray",
        "ray",
        "ray",
        FAILS,
    ),
    "data build": ("data build --config {folder}/run.yaml --run {folder}/built", "pyarrow", "data", FAILS),
    "data status": ("data status --run {folder}/nowhere", "", "", FAILS),
    "data overlap": ("data overlap --rows tabletop:1:3 --evaluation tabletop:2:3", "", "", 0),
    "data review": ("data review {folder}/nowhere", "gradio", "ui", FAILS),
    "data demo": ("data demo --rows 2 --oracle --out {folder}/demo", "pyarrow", "data", 0),
    "serve": ("serve --host 192.0.2.1", "llguidance", "serve", FAILS),
    "ui": ("ui --host 0.0.0.0", "gradio", "ui", FAILS),
    "reproduce": (f"reproduce --plan {BOX}/tabletop.yaml --quick --dry-run --out {{folder}}/box", "", "", 0),
    "study": ("study distance --out {folder}/study --lengths none", "matplotlib", "eval", FAILS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("extras")
    (made / "no.mp4").write_bytes(b"this is no video")
    sources = (Source(loader="tabletop", path="3:2", split="test"),)
    (made / "run.yaml").write_text(dump_yaml(replace(DemoConfig(rows=2, oracle=True).distilled(), sources=sources)))
    Ledger(made / "built").close()
    (made / "adapter").mkdir()
    save_file({"weight": torch.zeros(1)}, made / "adapter" / "adapter_model.safetensors")
    named = {"peft_type": "LORA", "base_model_name_or_path": str(default_checkpoint())}
    (made / "adapter" / "adapter_config.json").write_text(json.dumps(named))
    return made


def run_alone(extra: str, folder: Path, names: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The packages that an installation with this extra alone finds, and what the commands do there."""
    packages = sorted({COMMANDS[name][1] for name in names} - {""})
    commands = [COMMANDS[name][0].format(folder=folder).split() for name in names]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("one_extra.py")), extra],
        input=json.dumps({"packages": packages, "commands": commands}), capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=REPOSITORY, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    return report["there"], dict(zip(names, report["outcomes"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_a_command_works_or_names_its_extra(extra, folder):
    """Commands that need nothing are tried on the base alone, the others on every extra."""
    names = [name for name, (_, package, _, _) in COMMANDS.items() if package or not extra]
    there, outcomes = run_alone(extra, folder, names)
    wrong = {}
    for name, got in outcomes.items():
        _, package, needed, expected = COMMANDS[name]
        lines = [line for line in got["error"].splitlines() if line.startswith("look-again: ")]
        named = [line for line in lines if "look-again-vlm[" in line]
        if package and package not in there:
            fine = got["status"] == 2 and len(lines) == 1 and named and f"look-again-vlm[{needed}]" in named[0]
        else:
            fine = not named and (got["status"] == 0 if expected == 0 else got["status"] == 2 and len(lines) == 1)
        if not fine:
            wrong[name] = got
    assert wrong == {}, json.dumps(wrong, indent=1)


def test_every_command_is_tried():
    assert set(main.COMMANDS) - {"bench"} == {name.split()[0] for name in COMMANDS}
