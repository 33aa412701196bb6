"""`look-again bench` on every install: decoding is measured with the base alone, the others name what they need."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from look_again.commands import bench
from look_again.commands.main import main

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name: {re.split(r"[\[>=<]", line)[0].replace("-", "_") for line in lines if not line.startswith("look-again")}
    for name, lines in PROJECT["optional-dependencies"].items()
    if name not in ("dev", "docs")
}
INSTALLABLE = set().union(*EXTRAS.values()) | {"pyarrow", "torchvision"}


def run_with(extras: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Python code where nothing beyond the base and these extras can be imported."""
    there = set().union(*(EXTRAS[extra] for extra in extras)) if extras else set()
    blocked = sorted(INSTALLABLE - there)
    block = f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, timeout=600)


def test_decoding_is_measured_with_the_base_install_alone():
    """Would catch an import of training's or serving's packages on the way to the simplest measurement."""
    arguments = [
        "bench",
        "decode",
        "--json",
        "--only",
        "chunk_over_resubmit",
        "--tokens",
        "12",
        "--every",
        "6",
        "--pairs",
        "1",
        "--layers",
        "1",
    ]
    done = run_with(set(), f"from look_again.commands.main import main\nsys.exit(main({arguments}))")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ratios"]["chunk_over_resubmit"] > 0


@pytest.mark.parametrize("part", [part for part, extras in bench.EXTRAS.items() if extras])
def test_a_part_names_its_extra_where_that_is_missing(part, capsys, monkeypatch):
    for extra, packages in bench.EXTRAS[part].items():
        assert set(packages) <= EXTRAS[extra]
        with monkeypatch.context() as patched:
            for package in packages:
                patched.setitem(sys.modules, package, None)
            assert main(["bench", part]) == 2
        assert f"look-again-vlm[{extra}]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("decode --layers 0", "layers must be at least 1"),
        ("decode --layers -1", "layers must be at least 1"),
        ("decode --keep 101", "keep is a whole percentage"),
        ("decode --device cuda", "no CUDA device"),
        ("decode --device nonsense", "unknown device"),
        ("decode --shapes qwen2.5-vl-7b --vocabulary 0", "vocabulary must be at least 1"),
        ("sft --layers 0", "layers must be at least 1"),
        ("sft --keep -1", "keep is a whole percentage"),
        ("sft --image-pixels 0", "image_pixels must be at least 1"),
        ("sft --device cuda", "no CUDA device"),
        ("brpo --seed -1", "seed is from 0"),
        ("serve --vllm-url nonsense", "http://HOST:PORT"),
        ("serve --vllm-url http://127.0.0.1:9", "127.0.0.1:9"),
    ],
)
def test_what_cannot_be_measured_is_one_line_before_any_work(arguments, said, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("look_again.bench.serve_costs.batched_over_single", lambda *_: pytest.fail("measured"))
    assert main(["bench", *arguments.split()]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", bench.EXTRAS)
def test_a_parts_extras_are_all_that_it_imports(part):
    """Would catch a part that asks for one extra and dies for want of another."""
    done = run_with(set(bench.EXTRAS[part]), f"import look_again.bench.{part}_costs")
    assert done.returncode == 0, done.stderr
