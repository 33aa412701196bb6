"""No command makes a library warn of what its next version will not do any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RECIPE = """
output: {output}
tiny: {{vocabulary: 400, hidden: 64, layers: 2, heads: 2, kv_heads: 2, mlp: 96, vision_hidden: 64, vision_layers: 2,
  vision_heads: 2, vision_mlp: 96, full_attention_layers: [1]}}
stages:
  - {{name: vision, task: vision, steps: 1, batch: 2, max_length: 768}}
  - {{name: answers, task: answers, steps: 1, batch: 2, max_length: 768, modes: {{copy: 1, route: 1}}, keep: 50}}
"""
RUN = """
import sys
from look_again.commands.main import main

folder = sys.argv[1]
asked = ["ask", folder + "/image.png", "How many balls are there?", "--max-new-tokens", "20", "--device", "cpu"]
for command in (
    [*asked, "--reattention", "copy"],
    [*asked, "--reattention", "route"],
    ["eval", "tabletop", "--n", "2", "--out", folder + "/eval", "--max-new-tokens", "20", "--device", "cpu"],
    ["train", "sft", "--config", folder + "/recipe.yaml", "--dry-run"],
    ["train", "sft", "--config", folder + "/recipe.yaml"],
):
    assert main(command) == 0, command
"""


def test_no_command_warns_of_a_next_version(tmp_path: Path) -> None:
    """Every command printed that `past_key_values` would go; a warning is an error in a process of its own here."""
    from PIL import Image

    Image.new("RGB", (168, 168), "gray").save(tmp_path / "image.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(output=tmp_path / "run"))
    command = [sys.executable, "-W", "error::FutureWarning", "-c", RUN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "FutureWarning" not in done.stdout + done.stderr
    assert (tmp_path / "run" / "answers" / "final" / "model.safetensors").exists()
