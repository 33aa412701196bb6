"""Checkpoints that know themselves: what the side file says of training is followed, and said, unless overridden."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, TextStreamer

import look_again
from look_again.commands.common import build_reattention
from look_again.commands.main import build_parser, main
from look_again.core.reattention import Reattention
from look_again.loading import GUESSED, default_checkpoint, load_checkpoint
from look_again.tabletop.tiny import build_image_processor, build_model
from look_again.training.export import write_checkpoint
from look_again.training.sft import stage_export
from look_again.training.sft_config import SftConfig, build_stage
from look_again.weights.checkpoint_record import OLD_SIDE_FILE, SIDE_FILE, CheckpointRecord, read_record
from tests.tiny_model import TINIER

TABLE = Path(__file__).parents[1] / "examples" / "table.png"
QUESTION = "Subtract all balls. How many objects are left? Answer briefly."
ROUTE_25 = Reattention(mode="route", keep=25)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., str]:
    """Copies the shipped checkpoint with other fields in its side file; None leaves the file out."""

    def make(fields: dict[str, Any] | None, name: str = SIDE_FILE) -> str:
        folder = tmp_path / "checkpoint"
        shutil.copytree(default_checkpoint(), folder)
        (folder / SIDE_FILE).unlink()
        if fields is not None:
            (folder / name).write_text(json.dumps(fields))
        return str(folder)

    return make


def test_the_shipped_checkpoint_says_everything() -> None:
    record = read_record(str(default_checkpoint()))
    assert record == CheckpointRecord(
        trained=True, reattention=Reattention(), format=1, version="0.1.0", scope="tabletop"
    )


def test_the_api_follows_the_record_and_is_overridden(copy: Callable[..., str]) -> None:
    """Would catch COPY asked of a checkpoint that was trained with ROUTE."""
    looker = look_again.load(copy({"trained": True, "mode": "route", "keep": 25}), device="cpu")

    def reinserted(**options: Any) -> list[int]:
        return [reflection.reinserted_tokens for reflection in looker.ask(TABLE, QUESTION, **options).reflections]

    assert looker.checkpoint.reattention == ROUTE_25
    assert looker.checkpoint.notes == ()
    assert set(reinserted()) == {9}
    assert set(reinserted(reattention="route-50")) == {18}
    assert set(reinserted(reattention="copy")) == set(reinserted(reattention=Reattention())) == {36}
    assert set(reinserted(reattention="text")) == {0}


@pytest.mark.parametrize("name", [SIDE_FILE, OLD_SIDE_FILE])
def test_the_command_line_follows_says_so_and_is_overridden(
    copy: Callable[..., str], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = copy({"trained": True, "mode": "route", "keep": 25, "layout": "strip"}, name)

    def policy(*argv: str) -> Reattention:
        return build_reattention(build_parser("ask").parse_args(["ask", "?", "--model", folder, *argv]))

    strip = Reattention(mode="route", keep=25, layout="strip")
    assert policy() == strip
    assert "note: re-attention as in the checkpoint's training: route-25, layout strip" in capsys.readouterr().err
    assert policy("--keep", "75").keep == 75
    assert policy("--reattention", "route-10").keep == 10
    assert policy("--reattention", "copy", "--layout", "grid").mode == "copy"
    assert policy("--reattention", "route") == strip
    capsys.readouterr()
    policy("--reattention", "text")
    assert capsys.readouterr().err == ""


def test_mode_and_percentage_of_older_checkpoints_are_in_their_generation_configuration(
    copy: Callable[..., str],
) -> None:
    folder = copy({"trained": True})
    assert read_record(folder).reattention == Reattention()
    path = Path(folder) / "generation_config.json"
    facts = json.loads(path.read_text())
    facts["lookagain"] = {**facts.pop("look_again"), "mode": "route", "keep": 25}
    path.write_text(json.dumps(facts))
    assert read_record(folder).reattention == ROUTE_25


def test_what_nothing_says_is_guessed_and_said(copy: Callable[..., str]) -> None:
    """Would catch a checkpoint trained elsewhere that is prompted without a word."""
    folder = copy(None)
    guessed = load_checkpoint(folder, device="cpu")
    assert (guessed.trained, guessed.notes) == (False, (GUESSED,))
    for trained in (True, False):
        told = load_checkpoint(folder, device="cpu", trained=trained)
        assert (told.trained, told.notes) == (trained, ())


def test_the_flag_says_that_a_checkpoint_was_trained(
    copy: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["ask", str(TABLE), QUESTION, "--json", "--model", copy(None), "--max-new-tokens", "8"]
    prompts = {}
    for flag in ("--trained", "--prompted"):
        assert main([*argv, flag]) == 0
        printed = capsys.readouterr()
        assert "note" not in printed.err
        prompts[flag] = json.loads(printed.out)["tokens"]["prompt"]
    assert prompts["--prompted"] > prompts["--trained"]  # the instructions of the format


def test_a_newer_format_is_said(copy: Callable[..., str]) -> None:
    notes = load_checkpoint(copy({"trained": True, "mode": "copy", "format": 2, "version": "9.0"}), device="cpu").notes
    assert len(notes) == 1
    assert "number 2, written by look-again-vlm 9.0" in notes[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trained": "yes"}, "trained is 'yes'"),
        ({"mode": "rout"}, "unknown mode 'rout'"),
        ({"mode": "route", "keep": 120}, "keep is a whole percentage"),
        ({"max_pixels": "many"}, "max_pixels is 'many'"),
        (["trained"], "is a JSON list"),
    ],
)
def test_a_damaged_record_is_named(
    copy: Callable[..., str], capsys: pytest.CaptureFixture[str], fields: Any, message: str
) -> None:
    assert main(["ask", str(TABLE), "?", "--model", copy(fields)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "look_again.json" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--keep", "30"], "--keep belongs to --reattention route, and would change nothing with copy"),
        (["--rule", "relative", "--reattention", "text"], "--rule belongs to --reattention route"),
        (["--reattention", "route-30", "--keep", "40"], "contradict each other"),
    ],
)
def test_an_option_that_changes_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(["ask", str(TABLE), "?", *argv]) == 2
    assert message in capsys.readouterr().err


def test_max_new_tokens_goes_without_a_sampling() -> None:
    looker = look_again.load(device="cpu")
    assert looker.ask(TABLE, QUESTION, max_new_tokens=5).tokens["sampled"] == 5
    with pytest.raises(ValueError, match="unknown re-attention 'rout'; known: text, copy, route, vision"):
        looker.ask(TABLE, QUESTION, reattention="rout")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    final = tmp_path_factory.mktemp("run") / "final"
    stage = build_stage(name="sft", task="answers", steps=3, modes={"route": 1}, keep=40, max_pixels=84 * 84)
    export = stage_export(SftConfig(output="runs/x", stages=(stage,)), stage, {})
    model = build_model(tokenizer, TINIER, seed=3)
    write_checkpoint(final, model, tokenizer, build_image_processor(), export, torch.float32)
    return final


def test_an_export_is_loaded_as_it_was_trained(exported: Path) -> None:
    """Would catch images of 12.8 million pixels at a checkpoint that was trained with less than a hundredth."""
    record = read_record(str(exported))
    assert record.max_pixels == 84 * 84
    checkpoint = load_checkpoint(exported, device="cpu")
    assert checkpoint.image_processor.size["longest_edge"] == 84 * 84
    assert checkpoint.reattention == Reattention(mode="route", keep=40)
    wider = load_checkpoint(exported, device="cpu", max_pixels=168 * 168)
    assert wider.image_processor.size["longest_edge"] == 168 * 168
    assert json.loads((exported / "preprocessor_config.json").read_text())["size"]["longest_edge"] == 84 * 84


def test_the_example_of_the_card_runs(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert len(code) == 1
    Image.new("RGB", (56, 56)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(io.StringIO()) as printed:
        exec(code[0].replace("THIS FOLDER", str(exported)), {})
    assert printed.getvalue().strip()


def prompt(folder: Path) -> tuple[Any, dict[str, Any]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, dict(tokenizer("Where is it?", return_tensors="pt", add_special_tokens=False))


def test_generate_on_an_export_has_a_budget_for_an_answer(exported: Path) -> None:
    """Would catch answers that end after the library's own 20 tokens."""
    _, inputs = prompt(exported)
    model = AutoModelForImageTextToText.from_pretrained(exported, trust_remote_code=True)
    assert model.generation_config.max_new_tokens == 1024
    model.generation_config.max_new_tokens = 30
    assert model.generate(**inputs, eos_token_id=[10_000]).shape[1] == inputs["input_ids"].shape[1] + 30


def test_a_streamer_gets_the_answer(exported: Path) -> None:
    """Would catch a streamer that is given the prompt and then nothing."""
    tokenizer, inputs = prompt(exported)
    model = AutoModelForImageTextToText.from_pretrained(exported, trust_remote_code=True)
    with redirect_stdout(io.StringIO()) as printed:
        ids = model.generate(**inputs, max_new_tokens=12, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert printed.getvalue().strip() == tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]).strip()
    twice = {name: tensor.repeat(2, 1) for name, tensor in inputs.items()}
    with pytest.raises(ValueError, match="a streamer takes one sequence, not 2"):
        model.generate(**twice, max_new_tokens=2, streamer=TextStreamer(tokenizer))


def test_public_objects_print_shortly() -> None:
    """Would catch an answer whose print is pages of tensors."""
    looker = look_again.load(device="cpu")
    answer = looker.ask(TABLE, QUESTION)
    assert str(answer).startswith("Answer('4', ")
    assert str(looker) == "LookAgain(Checkpoint('tabletop-tiny', trained, re-attention copy))"
    assert re.fullmatch(r"Slots\(\d+: .*36 reinserted.*\)", str(answer.slots))
    assert str(answer.reflections[0]).endswith("36 visual tokens re-inserted)")
    assert str(ROUTE_25) == "route-25"
    for thing in (answer, looker, answer.slots, *answer.reflections, looker.checkpoint):
        assert len(str(thing)) < 200


def test_dir_shows_what_is_public() -> None:
    assert {"load", "Reattention", "LookAgain", "__version__"} <= set(dir(look_again))
