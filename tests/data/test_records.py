"""Records in every shape in use become rows; odd ones name the row, the field and the remedy."""

from __future__ import annotations

import base64
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from look_again.data.checks import Needs, check_sample
from look_again.data.loaders import load_samples
from look_again.data.records import sample_from_record, samples_from_records
from look_again.data.sample import BadSample, Sample, SampleError
from look_again.data.source import Source

BASE = Path("/data/set")
CAT, DOG = BASE / "img/cat.png", BASE / "img/dog.png"


def read(base: Path | None = BASE, **record: Any) -> Sample:
    return sample_from_record(record, index=4, source="test", base=base)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


# Shapes


def test_flat_record() -> None:
    row = read(
        id="r7",
        question="Which?",
        options=["red", "blue"],
        answer="A",
        response="<SUMMARY>",
        silent=[[0, 3]],
        image="img/cat.png",
    )
    assert row == Sample(
        id="r7",
        images=(CAT,),
        question="Which?",
        options=("red", "blue"),
        reference="A",
        response="<SUMMARY>",
        source="test",
        split="train",
        silent=((0, 3),),
    )


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Q?", "response": "R", "images": ["img/cat.png"]},
        {"problem": "<image>Q?", "response": "R", "images": ["img/cat.png"]},
        {"question": "Q?", "response": "R", "file_name": "img/cat.png"},
        {"prompt": "Q?", "completion": "R", "image": "img/cat.png"},
        {"prompt": [user("Q?")], "completion": [assistant("R")], "image": "img/cat.png"},
        {"prompt": [user([{"type": "image"}, {"type": "text", "text": "Q?"}])], "completion": [assistant("R")]}
        | {"images": ["img/cat.png"]},
        {"messages": [user("<image>\nQ?"), assistant("R")], "images": ["img/cat.png"]},
        {
            "messages": [
                user([{"type": "image", "image": "img/cat.png"}, {"type": "text", "text": "Q?"}]),
                assistant("R"),
            ]
        },
        {
            "conversations": [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "R"}],
            "image": "img/cat.png",
        },
        {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "R"}], "image": "img/cat.png"},
        {"conversations": [user("Q?\n<image>"), assistant("R")], "image": ["img/cat.png"]},
    ],
)
def test_every_shape_gives_the_same_row(record: dict[str, Any]) -> None:
    """Training and evaluation would otherwise see different prompts for one data set in two formats."""
    assert read(**record) == Sample(id="test-4", images=(CAT,), question="Q?", response="R", source="test")


def test_columns_filled_with_none_are_absent() -> None:
    """A table gives every row every key: messages of text and picture parts come with None in each other's."""
    parts = [
        {"type": "image", "text": None, "image": None, "index": 0},
        {"type": "text", "text": "Q?", "image": None, "index": None},
    ]
    row = read(
        messages=[user(parts), assistant([{"type": "text", "text": "R", "image": None}])],
        conversations=None,
        prompt=None,
        id=None,
        image=None,
        images=["img/cat.png"],
        options=None,
        answer=None,
        silent=None,
    )
    assert row == Sample(id="test-4", images=(CAT,), question="Q?", response="R", source="test")


def test_question_without_a_response_is_a_row() -> None:
    """Reinforcement learning and evaluation have none."""
    for record in ({"prompt": "Q?"}, {"prompt": [user("Q?")]}, {"messages": [user("Q?")]}, {"question": "Q?"}):
        row = read(**record)
        assert (row.question, row.response, row.images) == ("Q?", None, ())


def test_image_url_parts_hold_data_urls() -> None:
    link = {"url": "data:image/png;base64," + base64.b64encode(b"picture").decode()}
    row = read(messages=[user([{"type": "text", "text": "Q?"}, {"type": "image_url", "image_url": link}])])
    assert row.images == (b"picture",)


# Placeholders


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("<image>What?", "What?"),
        ("Is  <image>  big?", "Is big?"),
        ("Left:\n<image>\nBig?", "Left:\nBig?"),
        ("<image> Is  big?", "Is  big?"),
    ],
)
def test_placeholder_leaves_the_text_readable(text: str, question: str) -> None:
    assert read(question=text, image="img/cat.png").question == question


def test_neighbouring_placeholders_are_each_counted() -> None:
    """The first must not swallow the blank that the second is found by."""
    row = read(question="a <image> <image><image>\n<image> b", images=["img/cat.png"] * 4)
    assert row.question == "a\nb"


def test_question_without_placeholders_keeps_its_blanks() -> None:
    assert read(question="  a  \n", image="img/cat.png").question == "  a  \n"


@pytest.mark.parametrize(
    ("record", "numbers"),
    [
        ({"question": "<image> <image> Q?", "image": "img/cat.png"}, "2 image placeholders for 1 images"),
        ({"question": "<image> Q?"}, "1 image placeholders for 0 images"),
        ({"question": "<image> Q?", "images": ["img/cat.png", "img/dog.png"]}, "1 image placeholders for 2 images"),
        ({"messages": [user([{"type": "image"}, {"type": "image", "image": "img/cat.png"}])]}, "2 .* for 1 images"),
        ({"prompt": [user([{"type": "image"}, {"type": "text", "text": "Q?"}])]}, "1 .* for 0 images"),
    ],
)
def test_placeholders_and_images_must_agree(record: dict[str, Any], numbers: str) -> None:
    """A picture dropped to make them agree would teach the model to answer without it."""
    with pytest.raises(SampleError, match=f"row 'test-4': {numbers}"):
        read(**record)


def test_images_in_two_places_are_refused() -> None:
    with pytest.raises(SampleError, match="images and image: keep one"):
        read(question="Q?", image="img/cat.png", images=["img/dog.png"])
    with pytest.raises(SampleError, match="images and the messages"):
        read(messages=[user([{"type": "image", "image": "img/cat.png"}])], images=["img/dog.png"])


def test_long_runs_of_blanks_take_linear_time() -> None:
    """A pattern that retries at every blank takes minutes for a question of 100,000 of them."""
    assert read(question=" " * 200_000 + "Q?" + " " * 200_000 + "<image>", image="img/cat.png").question == "Q?"


# Conversations a row has no place for


@pytest.mark.parametrize("field", ["messages", "conversations", "prompt"])
def test_further_turns_are_refused(field: str) -> None:
    """Keeping the first turn only would drop most of such a record without a word."""
    turns = [user("Q?"), assistant("R"), user("And?"), assistant("S")]
    with pytest.raises(
        SampleError, match=f"{field} has the turns user, assistant, user, assistant.*one row per question"
    ):
        read(**{field: turns})


def test_system_messages_are_refused() -> None:
    with pytest.raises(SampleError, match=r"messages\[0\] is a system message.*put it into the question"):
        read(messages=[{"role": "system", "content": "Be brief."}, user("Q?")])


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"messages": [assistant("R")]}, "messages has the turns assistant"),
        ({"messages": [user("Q?"), user("Q?")]}, "messages has the turns user, user"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\] is said by 'tool'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, r"messages\[0\] is said by \['user'\]"),
        ({"messages": ["Q?"]}, r"messages\[0\] is 'Q\?': a message"),
        ({"messages": "Q?"}, "messages is 'Q.': a list"),
        ({"messages": [user(None)]}, r"messages\[0\] is None: a text"),
        ({"messages": [user([{"type": "video", "video": "x"}])]}, r"messages\[0\]\.content\[0\] is .*video"),
        ({"messages": [user("Q?"), assistant([{"type": "image"}])]}, "picture in the response"),
        ({"prompt": "Q?", "completion": [assistant("R")]}, "both texts or both messages"),
        ({"prompt": 3}, "prompt is 3"),
        ({"question": 3}, "question is 3: a text"),
        ({"question": "Q?", "response": ["R"]}, "response is"),
        ({"question": "a\ud800"}, "question is not valid Unicode"),
        ({"image": "a.png", "caption": "x"}, r"no question, .*\(caption, image\)"),
        ({"question": "Q?", "options": "red"}, "options is 'red': a list"),
        ({"question": "Q?", "options": [None]}, r"options\[0\] is None"),
        ({"question": "Q?", "answer": ["red"]}, r"answer is \['red'\]"),
        ({"question": "Q?", "answer": True}, "answer is True"),
        ({"question": "Q?", "options": ["3", "1"], "answer": 1}, "number 1 beside options"),
        ({"question": "Q?", "answer": "1", "reference": "2"}, "reference and answer disagree"),
        ({"question": "Q?", "silent": [[1, 2, 3]]}, "silent has"),
        ({"question": "Q?", "silent": [[0, 1]]}, "silent: span"),
        ({"question": "Q?", "image": 3}, r"image\[0\] is 3"),
        ({"question": "Q?", "images": [None]}, r"images\[0\] is None"),
        ({"question": "Q?", "image": {"bytes": None, "path": None}}, r"image\[0\] is"),
        ({"question": "Q?", "image": "https://x.org/a.png"}, "nothing is fetched: download"),
        ({"question": "Q?", "image": "file:///etc/a.png"}, "which is outside"),
        ({"question": "Q?", "image": "file://host/etc/a.png"}, "nothing is fetched"),
        ({"question": "Q?", "image": "data:image/png;base64,!!"}, "not base64"),
        ({"question": "Q?", "id": [1]}, r"id is \[1\]"),
    ],
)
def test_odd_records_name_row_and_field(record: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SampleError, match=f"row 'test-4': .*{complaint}"):
        read(**record)


# Fields


def test_ids() -> None:
    assert read(id="a/1", question="Q?").id == "a/1"
    assert read(id=0, question="Q?").id == "0"
    assert read(id="", question="Q?").id == "test-4"
    with pytest.raises(SampleError, match="row 'a': answer"):
        read(id="a", question="Q?", answer=[])


def test_references() -> None:
    assert read(question="Q?", answer=3).reference == "3"
    assert read(question="Q?", answer=0.5).reference == "0.5"
    assert read(question="Q?", answer="", response="R").reference == ""
    assert read(question="Q?", answer="B", reference="B").reference == "B"
    assert read(prompt="Q?", solution="$4$").reference == "$4$"


def test_worked_solution_is_no_reference() -> None:
    """MATH has `problem`, a page of `solution` and the `answer`; scoring against the page would fail every answer."""
    assert read(problem="Q?", solution="First … so 4.", answer="4").reference == "4"
    assert read(problem="Q?", solution="First … so 4.").reference is None


def test_lettered_options_are_not_lettered_twice() -> None:
    assert read(question="Q?", options=["A. red", "B. blue"]).prompt == "Q?\nA. red\nB. blue"
    assert read(question="Q?", options=["(A) red", "(B) blue"]).options == ("red", "blue")
    assert read(question="Q?", options=["A. Smith", "C. Jones"]).options == ("A. Smith", "C. Jones")
    assert read(question="Q?", options=[3, 4.5]).options == ("3", "4.5")


# Pictures


def test_pictures_of_every_kind() -> None:
    open_image = Image.new("RGB", (2, 2))
    assert read(question="Q?", image=open_image).images == (open_image,)
    assert read(question="Q?", image=b"png").images == (b"png",)
    assert read(question="Q?", image=bytearray(b"png")).images == (b"png",)
    assert read(question="Q?", image={"bytes": b"png", "path": "cat.png"}).images == (b"png",)
    assert read(question="Q?", image={"bytes": None, "path": "img/cat.png"}).images == (CAT,)
    assert read(question="Q?", images=("img/cat.png", "img/dog.png")).images == (CAT, DOG)
    assert read(question="Q?", image="").images == ()


@pytest.mark.parametrize(
    "name", ["../secret.png", "img/../../secret.png", "/etc/secret.png", "/data/set2/a.png", "..", "/"]
)
def test_paths_out_of_the_folder_are_refused(name: str) -> None:
    """A downloaded file could otherwise show the model any picture on the machine."""
    with pytest.raises(SampleError, match=r"row 'test-4': image\[0\] is .*outside /data/set.*images="):
        read(question="Q?", image=name)
    with pytest.raises(SampleError, match="outside /data/set"):
        read(question="Q?", image={"bytes": None, "path": name})


def test_paths_that_stay_inside_are_taken() -> None:
    assert read(question="Q?", image="img/../img/./cat.png").images == (CAT,)
    assert read(question="Q?", image="/data/set/img/cat.png").images == (CAT,)
    assert read(question="Q?", image="..cat.png").images == (BASE / "..cat.png",)


def test_relative_folder_does_not_widen_the_way_out(monkeypatch, tmp_path: Path) -> None:
    """Judged against ".", the text "../a.png" looks as if it stayed inside."""
    monkeypatch.chdir(tmp_path)
    assert read(Path("."), question="Q?", image="a.png").images == (tmp_path / "a.png",)
    with pytest.raises(SampleError, match="outside"):
        read(Path("."), question="Q?", image="../a.png")


def test_path_without_a_folder_is_refused() -> None:
    with pytest.raises(SampleError, match="have no folder"):
        read(None, question="Q?", image="cat.png")


def test_one_bad_record_does_not_end_the_stream() -> None:
    records = [{"question": "Q?"}, {"caption": "x"}, SampleError("line 3", "broken"), {"question": "S?"}]
    rows = list(samples_from_records(records, source="s", split="test", base=None))
    assert [row.id if isinstance(row, Sample) else row.row_id for row in rows] == ["s-0", "s-1", "line 3", "s-3"]
    assert [isinstance(row, SampleError) for row in rows] == [False, True, True, False]
    assert rows[0].split == "test"


# Numbers and odd values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.float32("inf"), Decimal("NaN")])
@pytest.mark.parametrize("field", ["answer", "reference", "options", "question", "response", "id"])
def test_what_is_no_number_is_a_bad_row(value: Any, field: str) -> None:
    """Tables hold NaN for nothing: "nan" became the answer that a model was rewarded for."""
    fields = {"question": "Q?", field: [value, "b"] if field == "options" else value}
    with pytest.raises(SampleError, match=rf"row 'test-4': {field}"):
        read(**fields)


@pytest.mark.parametrize("value", [True, np.True_, b"4", ["4"], {"a": 1}, np.datetime64("2026-01-01"), complex(1, 2)])
def test_what_is_no_answer_is_a_bad_row(value: Any) -> None:
    with pytest.raises(SampleError, match=r"answer is .*: a text or a number is needed"):
        read(question="Q?", answer=value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4, "4"),
        (-0.5, "-0.5"),
        (np.int64(7), "7"),
        (np.float64(2.5), "2.5"),
        (Decimal("4.50"), "4.50"),
        (np.str_("a"), "a"),
    ],
)
def test_numbers_of_every_kind_are_written_out(value: Any, text: str) -> None:
    assert read(question="Q?", answer=value).reference == text
    assert read(question="Q?", options=np.array([value, value], dtype=object)).options == (text, text)
    with pytest.raises(SampleError, match="too long"):
        read(question="Q?", answer=10**5000)


def test_no_answer_is_none_or_bad_never_a_word() -> None:
    assert read(question="Q?", answer=None).reference is None
    assert check_sample(read(question="Q?", answer=""), Needs(needs_response=False, needs_reference=True))


@pytest.mark.parametrize("loader", ["jsonl", "parquet"])
def test_nan_in_a_file_is_a_bad_row(tmp_path: Path, loader: str) -> None:
    records = [{"id": "a", "question": "Q?", "answer": 4.5}, {"id": "b", "question": "Q?", "answer": math.nan}]
    path = tmp_path / f"q.{loader}"
    if loader == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    skipped: list[BadSample] = []
    (sample,) = load_samples(Source(loader=loader, path=str(path)), on_skip=skipped.append)
    assert sample.reference == "4.5"
    assert [(bad.id, "nan" in bad.reason) for bad in skipped] == [("b", True)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a1 <\ud800é", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("role", "from", "value", "content", "type", "text", "bytes", "path")), inner, max_size=3
        )
    ),
    max_leaves=8,
)
FIELDS = ("id", "question", "problem", "prompt", "completion", "messages", "conversations", "response", "options",
          "answer", "reference", "solution", "image", "images", "file_name", "silent")  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_record_is_a_sample_or_says_what_is_wrong(record: dict[str, Any]) -> None:
    """Would catch a record of odd types that ends a load of 100,000 with a traceback."""
    (found,) = samples_from_records([record], source="s", split="train", base=BASE)
    assert isinstance(found, Sample | SampleError)
    if isinstance(found, Sample) and found.reference is not None:
        given = [record[name] for name in ("reference", "answer", "solution") if record.get(name) is not None]
        assert all(not isinstance(value, float) or math.isfinite(value) for value in given[:1])


# URLs


@pytest.mark.parametrize(
    "url", ["file:///data/set/img/cat.png", "file://localhost/data/set/img/cat.png", "FILE:///data/set/img/c%61t.png"]
)
def test_a_file_url_inside_the_folder_is_its_path(url: str) -> None:
    assert read(question="Q?", image=url).images == (CAT,)


@pytest.mark.parametrize(
    "url", ["file:///data/set/../x.png", "file:///data/set/%2e%2e/x.png", "file:///data/settle/x.png"]
)
def test_a_file_url_outside_the_folder_is_refused(url: str) -> None:
    with pytest.raises(SampleError, match="which is outside"):
        read(question="Q?", image=url)
    with pytest.raises(SampleError, match="these rows have no folder"):
        read(base=None, question="Q?", image=url)


@pytest.mark.parametrize(
    "head", ["data:image/png;charset=utf-8;base64", "data:image/png;name=x.png;base64", "data:;base64"]
)
def test_a_data_url_may_have_parameters(head: str) -> None:
    """The server refused what this read: one reader serves both."""
    data = base64.b64encode(b"picture").decode()
    assert read(question="Q?", image=f"{head},{data}").images == (b"picture",)
