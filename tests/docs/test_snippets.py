"""The documentation does what it says: commands parse, cheap ones run, Python snippets run against the tiny model.

`<!-- compiled only: WHY -->` right above a block of Python that needs a GPU or the network keeps it from being run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import look_again
from look_again.commands.main import build_parser, main
from look_again.loading import Checkpoint, default_checkpoint, load_checkpoint
from tests.docs.snippets import (
    ELLIPSIS,
    ROOT,
    Snippet,
    check_mention,
    find_commands,
    find_documents,
    find_mentions,
    find_options,
    find_snippets,
)

COMPILED_ONLY = "compiled only: "
VLLM = (
    "--api-key --api-server-count --block-size --data-parallel-size --enable-mm-embeds --enable-prompt-tokens-details "
    "--enable-scale-out "
    "--gpu-memory-utilization "
    "--limit-mm-per-prompt --logprobs-mode --max-model-len --max-num-batched-tokens --max-num-seqs "
    "--mm-processor-kwargs --structured-outputs-config --tensor-parallel-size"
)
OF_OTHER_PROGRAMS = {*VLLM.split(), "--include_path", "--tasks", "--offset", "--limit", "--machine_rank"}
"""Options in running text that are not this project's."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documentation's relative paths name, the tiny model for every checkpoint."""
    path = tmp_path_factory.mktemp("reader")
    for name in ("examples", "recipes", "docs", "README.md", ".ci"):
        (path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "examples" / "table.png", path / "photo.jpg")
    final = path / "runs" / "qwen-la-copy" / "sft" / "final"
    final.parent.mkdir(parents=True)
    final.symlink_to(default_checkpoint())
    return path


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader in that folder, for whom a name on the hub stands for the tiny model."""
    load = look_again.load
    monkeypatch.chdir(folder)

    def load_here(name: object = None, options: Any = None, **given: Any) -> Any:
        return load(None, options, **given | {"device": "cpu"})

    monkeypatch.setattr(look_again.model, "load", load_here)
    return folder


@pytest.fixture(scope="module")
def presumed() -> dict[str, Any]:
    """The names that snippets presume: a model, its tokenizer, and the inputs of one prompt with an image."""
    from transformers import AutoModelForImageTextToText

    checkpoint = load_checkpoint(device="cpu")
    return {
        "model": checkpoint.model,
        "tokenizer": checkpoint.tokenizer,
        "inputs": prepare_inputs(checkpoint, "How many cubes are there? Answer briefly."),
        "AutoModelForImageTextToText": AutoModelForImageTextToText,
    }


def prepare_inputs(checkpoint: Checkpoint, question: str) -> dict[str, torch.Tensor]:
    """The inputs of `generate` for a question about the shipped image, made by the library's own pieces alone."""
    pixels = checkpoint.image_processor(images=[Image.open(ROOT / "examples" / "table.png")], return_tensors="pt")
    visual_tokens = int(pixels["image_grid_thw"].prod()) // 4
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = checkpoint.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * visual_tokens)
    return {**checkpoint.tokenizer(prompt, return_tensors="pt"), **pixels}


def name_snippet(case: Any) -> str | None:
    return str(case) if isinstance(case, Snippet) else None


@pytest.mark.parametrize(("place", "arguments"), find_commands(), ids=[place for place, _ in find_commands()])
def test_every_command_line_is_accepted_by_the_parser(place: str, arguments: list[str]) -> None:
    """Would catch an option that was renamed in the program alone."""
    if ELLIPSIS in arguments:
        check_mention([word for word in arguments if word != ELLIPSIS])
        return
    try:
        build_parser(arguments[0]).parse_args(arguments)
    except SystemExit as error:
        pytest.fail(f"{place}: exit status {error.code}")


@pytest.mark.parametrize(("place", "words"), find_mentions(), ids=[place for place, _ in find_mentions()])
def test_every_command_in_running_text_exists(place: str, words: list[str]) -> None:
    check_mention(words)


@pytest.mark.parametrize("document", find_documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_in_running_text_exists(document: Path) -> None:
    mentioned = set(re.findall(r"`(--[a-z][a-z_-]*)", document.read_text(encoding="utf-8")))
    assert mentioned <= find_options() | OF_OTHER_PROGRAMS


def test_every_environment_variable_in_the_documents_is_read_somewhere() -> None:
    sources = [
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("examples/*.py"),
        ROOT / ".ci" / "run",
    ]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources if path != Path(__file__))
    for document in find_documents():
        for name in re.findall(r"\bLOOK_AGAIN_[A-Z_]+\b", document.read_text(encoding="utf-8")):
            assert re.search(rf"\b{name}\b", code), f"{document.relative_to(ROOT)}: {name}"


def is_cheap(arguments: list[str]) -> bool:
    """Whether a command line runs offline in seconds: a plan, a listing, or one answer of the shipped model."""
    if "--model" in arguments or ELLIPSIS in " ".join(arguments):
        return False
    if "--dry-run" in arguments:
        return True
    shown = [word for word in arguments if word.endswith((".png", ".jpg"))]
    if arguments[0] == "ask" or arguments[:2] == ["analyze", "heatmap"]:
        return bool(shown) and all((ROOT / word).is_file() for word in shown)
    return False


CHEAP = {tuple(arguments): place for place, arguments in find_commands() if is_cheap(arguments)}


def test_some_commands_are_run() -> None:
    kinds = {arguments[0] for arguments in CHEAP}
    assert {"ask", "train", "analyze"} <= kinds


@pytest.mark.parametrize("arguments", CHEAP, ids=CHEAP.values())
def test_cheap_commands_run(arguments: tuple[str, ...], reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(arguments)) == 0
    assert capsys.readouterr().out.strip()


def test_the_first_command_prints_what_the_readme_shows_and_nothing_else(tmp_path: Path) -> None:
    """Would catch a warning, a progress bar, and an example that the shipped model does not give any more."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    arguments = next(words for place, words in find_commands() if place.startswith("README.md") and words[0] == "ask")
    shown = re.search(r"with every look at the image:\n\n```\n(.*?)```", text, re.S)
    assert shown is not None
    settings = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    run = subprocess.run(
        [sys.executable, "-m", "look_again", *arguments],
        cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stderr == ""
    assert hide_seconds(run.stdout).strip() == hide_seconds(shown[1]).strip()


def hide_seconds(text: str) -> str:
    return re.sub(r"\d+(\.\d+)? s,", "N s,", text)


@pytest.mark.parametrize("snippet", find_snippets("python"), ids=name_snippet)
def test_python_snippets_run(snippet: Snippet, reader: Path, presumed: dict[str, Any]) -> None:
    code = compile(snippet.text, str(snippet), "exec")
    if not snippet.mark.startswith(COMPILED_ONLY):
        exec(code, {"__name__": "__main__", **presumed})


@pytest.mark.parametrize("snippet", find_snippets("sh"), ids=name_snippet)
def test_shell_snippets_are_bash(snippet: Snippet) -> None:
    subprocess.run(["bash", "-n"], input=snippet.text, text=True, check=True)


@pytest.mark.parametrize("snippet", find_snippets("sh"), ids=name_snippet)
def test_files_of_the_repository_that_commands_name_exist(snippet: Snippet) -> None:
    for path in re.findall(r"\b((?:recipes|examples|docs|tests)/[\w./-]+\.\w+)", snippet.text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("snippet", find_snippets("json"), ids=name_snippet)
def test_json_snippets_are_json(snippet: Snippet) -> None:
    text = snippet.text.strip()
    json.loads(text if text.startswith("{") else f"{{{text}}}")


@pytest.mark.parametrize("snippet", find_snippets("yaml"), ids=name_snippet)
def test_yaml_snippets_are_yaml(snippet: Snippet) -> None:
    assert isinstance(yaml.safe_load(snippet.text), dict)


def test_modules_that_the_documents_name_exist() -> None:
    """Would catch a dotted name or a path in a document that a move has left behind."""
    for document in find_documents():
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"\blook_again(?:\.[A-Za-z_]+)+", text):
            assert exists(name), f"{document.relative_to(ROOT)}: {name}"
        for path in re.findall(r"`((?:src|tests|recipes|examples|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{document.relative_to(ROOT)}: {path}"


def exists(name: str) -> bool:
    """Whether a dotted name is a module of the package, or a name inside one."""
    if name in ("look_again.json",) or name.startswith("look_again.notes"):
        return True
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ROOT / "src" / Path(*parts[:length])
        path = module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / "__init__.py"
        if path.is_file():
            rest = parts[length:]
            return not rest or re.search(rf"\b{re.escape(rest[0])}\b", path.read_text(encoding="utf-8")) is not None
    return False


def test_the_api_page_names_everything_that_the_package_offers() -> None:
    text = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = {name for line in re.findall(r"^\| (`.*?`) \|", text, re.M) for name in re.findall(r"`(\w+)`", line)}
    assert listed == set(look_again.__all__)
