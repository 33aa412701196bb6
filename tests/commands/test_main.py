"""The command line: bad input gets one line and exit status 2, good input what is documented."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from look_again.commands.main import COMMANDS, main
from look_again.tabletop.tiny import build_image_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, tokenizer):
    path = tmp_path_factory.mktemp("checkpoint")
    for part in (model, tokenizer, build_image_processor()):
        part.save_pretrained(path)
    (path / "look_again.json").write_text('{"trained": true}')
    return str(path)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "picture.png"
    Image.effect_noise((168, 168), 90).convert("RGB").save(path)
    return str(path)


def failed(capsys, *argv: str) -> str:
    """What a failing command says; asserts status 2, one line, nothing on standard output."""
    try:
        status = main(list(argv))
    except SystemExit as error:  # argparse
        status = error.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_an_image_without_a_question(capsys, image):
    assert "no question" in failed(capsys, "ask", image)


def test_no_such_image(capsys):
    assert "nowhere.png" in failed(capsys, "ask", "nowhere.png", "How many?")


def test_not_an_image(capsys, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    assert "notes.png" in failed(capsys, "ask", str(path), "How many?")


def test_truncated_image(capsys, tmp_path, image):
    path = tmp_path / "half.png"
    data = Path(image).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "half.png" in failed(capsys, "ask", str(path), "How many?")


def test_image_beyond_the_pixel_bound_is_refused_before_decoding(capsys, tmp_path):
    """A bomb: a header that promises 900 million pixels, with hardly any data behind it."""
    path = tmp_path / "bomb.png"
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (30000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    assert "pixels" in failed(capsys, "ask", str(path), "How many?")


@pytest.mark.parametrize("question", ["", "x" * 100_000])
def test_bad_questions(capsys, image, folder, question):
    assert "question" in failed(capsys, "ask", image, question, "--model", folder)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["--reattention", "sideways"], "sideways"),
        (["--keep", "101"], "101"),
        (["--keep", "-1"], "-1"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
        (["--max-reasoning-tokens", "-1"], "max_reasoning_tokens"),
        (["--max-new-tokens", "20", "--max-reasoning-tokens", "20"], "max_reasoning_tokens"),
        (["--temperature", "-1"], "temperature"),
        (["--device", "abacus"], "abacus"),
        (["--model", "no/such-model"], "no/such-model"),
    ],
)
def test_bad_options(capsys, image, extra, named):
    assert named in failed(capsys, "ask", image, "How many?", *extra)


def test_unknown_family_names_the_known_ones(capsys, image, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert "qwen2_5_vl" in failed(capsys, "ask", image, "How many?", "--model", str(tmp_path))


@pytest.mark.parametrize("mode", ["copy", "route", "vision", "text"])
def test_ask_json(capsys, image, folder, mode):
    argv = ["ask", image, "How many?", "--model", folder, "--reattention", mode, "--json", "--max-new-tokens", "20"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["tokens"]["visual"] == 36
    assert result["tokens"]["sampled"] <= 20
    assert {"rows", "skipped", "mode", "reinserted_tokens"} == set(
        *[r.keys() for r in result["reflections"][:1]] or [{"rows", "skipped", "mode", "reinserted_tokens"}]
    )


def test_ask_streams_the_answer(capsys, image, folder):
    assert main(["ask", image, "How many?", "--model", folder, "--max-new-tokens", "20"]) == 0
    assert "20 tokens sampled" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["animated", "sixteen-bit", "cmyk", "palette-alpha", "one-pixel"])
def test_odd_images_are_converted(capsys, tmp_path, folder, kind):
    """Each of these reached users as a crash in some project; none is wrong."""
    path = tmp_path / {"animated": "a.gif", "cmyk": "c.jpg"}.get(kind, "p.png")
    save_odd(kind, path)
    assert main(["ask", str(path), "How many?", "--model", folder, "--max-new-tokens", "3", "--json"]) == 0


def save_odd(kind: str, path) -> None:
    noise = Image.effect_noise((168, 168), 90)
    if kind == "animated":
        frames = [Image.effect_noise((60, 60), 50).convert("P") for _ in range(3)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "sixteen-bit":
        Image.fromarray(np.asarray(noise).astype(np.uint16) * 257).save(path)
    elif kind == "cmyk":
        noise.convert("CMYK").save(path)
    elif kind == "palette-alpha":
        palette = noise.convert("P")
        palette.save(path, transparency=3)
    else:
        Image.new("RGB", (1, 1)).save(path)


def test_prepare_writes_a_checkpoint_with_tags(capsys, tmp_path, folder):
    out = tmp_path / "prepared"
    assert main(["prepare", folder, str(out)]) == 0
    assert "all tags already" in capsys.readouterr().out
    assert (out / "model.safetensors").is_file()
    assert "exists already" in failed(capsys, "prepare", folder, str(out))


def test_tabletop_make(capsys, tmp_path):
    assert main(["tabletop", "make", "--n", "2", "--seed", "7", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {"id", "image", "question", "kind", "answer", "objects", "caption"}
    assert (tmp_path / rows[1]["image"]).is_file()


def test_eval_tabletop_json(capsys, folder):
    argv = ["eval", "tabletop", "--n", "4", "--batch", "3", "--model", folder, "--max-new-tokens", "200", "--json"]
    assert main([*argv, "--control", "wrong-image"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 4
    assert 0 <= result["interval"][0] <= result["accuracy"] <= result["interval"][1] <= 1
    assert result["settings"]["reattention"]["control"] == "wrong-image"
    assert set(result["planted"]) >= {"mistakes", "mended", "share"}


def test_unknown_recipe_keys_are_named(capsys, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("output: x\nstages: [{name: a, task: vision, steps: 1, lerning_rate: 1}]\n")
    assert "lerning_rate" in failed(capsys, "train", "sft", "--config", str(path))


def test_missing_recipe(capsys):
    assert "no.yaml" in failed(capsys, "train", "sft", "--config", "no.yaml")


def test_missing_extra_names_it(capsys, tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "accelerate" else real(name, *a))
    path = tmp_path / "recipe.yaml"
    path.write_text("output: x\nstages: [{name: a, task: vision, steps: 1}]\n")
    assert "look-again-vlm[train]" in failed(capsys, "train", "sft", "--config", str(path))


def test_help_lists_every_command_without_loading_torch(capsys):
    """Help that takes seconds is help nobody reads."""
    import subprocess

    code = "import sys; from look_again.commands.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(command in out for command in COMMANDS)


def test_debug_raises(monkeypatch):
    monkeypatch.setenv("LOOK_AGAIN_DEBUG", "1")
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        main(["ask", "nowhere.png", "How many?"])
