"""The class that lmms-eval runs: which requests go together, what is asked, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model, get_model_manifest
from loguru import logger
from PIL import Image

from look_again.evaluation.lmms import LookAgainModel, build_lmms_item, build_result, groups, manifest, read_messages
from look_again.evaluation.subjects import Output
from look_again.images import load_image
from tests.lmms.local_rows import YES_OR_NO, image, tabletop


def request(index: int, ask: Any = None, **options: Any) -> Instance:
    """The request of row `index` of a task, as lmms-eval makes it."""

    def messages(row: int) -> list[dict[str, Any]]:
        shown = {"type": "image", "url": load_image(image(row)["bytes"])}
        return [{"role": "user", "content": [shown, {"type": "text", "text": tabletop(row).prompt}]}]

    metadata = {"task": "tabletop", "doc_id": index, "repeats": 1}
    arguments = ("", ask or messages, options, index, "tabletop", "test")
    return Instance(request_type="generate_until", arguments=arguments, idx=0, metadata=metadata)


def answers(requests: list[Instance], **arguments: Any) -> list[str]:
    model = LookAgainModel.create_from_arg_string(
        "max_new_tokens=160", {"device": "cpu", "max_batch_size": None, **arguments}
    )
    model.task_dict = {"tabletop": {"test": range(100)}}
    return [result.text for result in model.generate_until(requests)]


def test_lmms_eval_finds_it_by_its_entry_point() -> None:
    assert get_model("look_again") is LookAgainModel
    assert get_model_manifest("look_again") == manifest()
    assert LookAgainModel.is_simple is False


def test_tiny_budgets_stop_words_and_batches_change_no_answer() -> None:
    """Cut at four tokens, or at the first "ball", there is no CONCLUSION; in a mixed-up batch there is another one."""
    rows = [*YES_OR_NO, 0]
    plain = answers([request(index) for index in rows])
    assert set(plain[:3]) <= {" yes", " no", "yes", "no"}
    hostile = [request(i, until=["ball", "\n\n"], max_new_tokens=4 + i, temperature=0) for i in rows]
    assert answers(hostile, batch_size="3") == plain


def test_requests_go_together_by_budget() -> None:
    """A task's budget lost to the smallest or the largest of another task."""
    requests = [request(i, max_new_tokens=n) for i, n in enumerate((16, 4096, 128, None, 4096))]
    assert groups(requests, 2048) == [(2048, [0, 2, 3]), (4096, [1, 4])]


@pytest.mark.parametrize("options", [{"temperature": 0.6}, {"temperature": 1, "do_sample": True}, {"num_beams": 5}])
def test_samples_and_beams_are_refused(options: dict[str, Any]) -> None:
    """Greedy answers passed off as samples."""
    with pytest.raises(ValueError, match=r"tabletop .*--gen_kwargs"):
        groups([request(0, **options)], 2048)


def test_a_temperature_that_is_not_used_is_no_sampling() -> None:
    assert groups([request(0, temperature=1.0, do_sample=False, num_beams=1)], 8) == [(8, [0])]


def turn(*content: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(content)}]


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def test_images_within_a_text_are_named_at_their_place() -> None:
    one, two = ({"type": "image", "url": Image.new("RGB", (8, 8), colour)} for colour in ("red", "blue"))
    assert read_messages(turn(one, two, text("Which?")), "t") == ([one["url"], two["url"]], "Which?")
    assert read_messages(turn(text("Is"), one, text(" "), text("or"), two, text("older?")), "t") == (
        [one["url"], two["url"]],
        "Is\n[image 1]\nor\n[image 2]\nolder?",
    )
    assert read_messages([{"role": "user", "content": "No picture?"}], "t") == ([], "No picture?")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (turn(text("?"), {"type": "video", "url": "v.mp4"}), "t shows video"),
        (turn(text("?"), role="system"), "t asks in 1 messages"),
        (turn(text("?")) + turn(text("!"), role="assistant"), "t asks in 2 messages"),
    ],
)
def test_what_it_cannot_see_is_refused(messages: list[dict[str, Any]], message: str) -> None:
    """A dropped video or turn."""
    with pytest.raises(ValueError, match=message):
        read_messages(messages, "t")


def test_a_path_is_an_image(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(file)
    asked = turn({"type": "image", "url": str(file)}, text("?"))
    assert build_lmms_item(request(0, lambda row: asked), {"tabletop": {"test": range(1)}}).images == (file,)


def test_an_image_that_cannot_be_read_is_an_empty_answer_and_logged(tmp_path: Path) -> None:
    """One bad image ending a run of thousands, or passing unseen."""
    gone = turn({"type": "image", "url": str(tmp_path / "gone.png")}, text("?"))
    logged: list[str] = []
    handle = logger.add(logged.append)
    try:
        found = answers([request(2), request(3, lambda row: gone)], batch_size=2)
    finally:
        logger.remove(handle)
    assert found[0]
    assert found[1] == ""
    assert any("tabletop 3 was not asked" in line and "gone.png" in line for line in logged)


def test_tokens_that_are_reported() -> None:
    tokens = {"prompt": 10, "visual": 36, "sampled": 50, "reinserted": 18, "forced": 2}
    result = build_result(Output(text="<CONCLUSION>4</CONCLUSION>", conclusion="4", tokens=tokens))
    assert result.text == "4"
    assert result.token_counts.to_dict() == {"input_tokens": 66, "output_tokens": 50}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": "auto"}, "batch_size must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"keep": 150}, "keep is a whole percentage"),
        ({"reattention": "look"}, "unknown re-attention 'look'"),
    ],
)
def test_bad_arguments_are_named_before_a_model_is_loaded(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookAgainModel(pretrained="nowhere/at-all", **arguments)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process answering everything."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        LookAgainModel()


def test_other_kinds_of_tasks_are_refused() -> None:
    model = LookAgainModel.__new__(LookAgainModel)
    with pytest.raises(NotImplementedError, match="likelihoods"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="several rounds"):
        model.generate_until_multi_round([])
