"""Bad rows are all found at once, named, and either refused or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from look_again.data.checks import Needs, SampleReport, check_sample, check_samples, select_samples
from look_again.data.loaders import load_samples
from look_again.data.sample import BadSample, Sample, SampleError
from look_again.data.source import Source


@pytest.fixture
def row(response: str, encoded):
    def make(**fields: Any) -> Sample:
        given = {"id": "r", "images": (encoded(40, 20),), "question": "Q?", "response": response, "source": "test"}
        return Sample(**given | fields)

    return make


def reasons(row: Sample, **needs: Any) -> list[str]:
    return check_sample(row, Needs(**needs))


def test_sound_rows_pass(row) -> None:
    assert reasons(row()) == []
    assert reasons(row(images=())) == []


def test_each_fault_is_named(row, tmp_path: Path) -> None:
    assert reasons(row(question=" \n")) == ["the question is empty"]
    assert reasons(row(response=None)) == ["no response"]
    assert reasons(row(response=" ")) == ["no response"]
    assert reasons(row(reference=" "), needs_reference=True) == ["no reference answer"]
    assert reasons(row(images=()), needs_image=True) == ["no picture"]
    (reason,) = reasons(row(images=(row().images[0], tmp_path / "gone.png")))
    assert reason == f"image 2: picture '{tmp_path / 'gone.png'}': no such file, or not a regular one"
    assert "max_pixels=799" in reasons(row(), max_pixels=799)[0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_an_image_that_is_cut_off_is_a_bad_row(row, encoded, tmp_path: Path, format: str) -> None:
    """The check read headers and the step decoded: such a file ended a run in its middle, at every restart again."""
    data = encoded(200, 100, format)
    (tmp_path / "cut").write_bytes(data[: len(data) * 9 // 10])
    cut = row(id="cut", images=(tmp_path / "cut",))
    good, report = select_samples([row(), cut], on_bad_row="skip", progress=False)
    assert ([sample.id for sample in good], [bad.id for bad in report.bad]) == (["r"], ["cut"])
    assert "truncated or damaged" in report.bad[0].reason
    with pytest.raises(SampleError, match="truncated or damaged"):
        select_samples([row(), cut], progress=False)
    assert format == "WEBP" or reasons(cut, decode=False) == []


def test_many_samples_keep_their_order(row) -> None:
    samples = [row(id=str(i), question="" if i % 7 == 0 else "Q?", images=()) for i in range(200)]
    good, bad = check_samples(iter(samples), progress=False)
    assert [sample.id for sample in good] == [str(i) for i in range(200) if i % 7]
    assert [sample.id for sample in bad] == [str(i) for i in range(0, 200, 7)]


def test_grammar_problems_have_their_names(row, response: str) -> None:
    plain = response.replace("<REFLECTION></REFLECTION>", "")
    assert reasons(row(response=plain)) == ["response: missing REFLECTION"]
    assert reasons(row(response=plain), min_reflections=0) == []
    assert reasons(row(response="Well. " + response)) == ["response: text-outside at character 0"]
    assert reasons(row(response="four")) == [
        "response: text-outside at character 0, missing SUMMARY, missing CAPTION, missing REASONING, and 2 more"
    ]


def test_response_that_is_not_needed_is_not_judged(row) -> None:
    """Evaluation rows may carry somebody's free-form answer."""
    assert reasons(row(response="four"), needs_response=False) == []


def test_rows_are_split_in_order_with_all_reasons(row) -> None:
    rows = [row(id="a"), row(id="b", question="", response=None), row(id="c")]
    good, bad = check_samples(rows, progress=False)
    assert good == [rows[0], rows[2]]
    assert bad == [BadSample("b", "the question is empty; no response")]


def test_refusing_lists_what_is_bad(row) -> None:
    with pytest.raises(SampleError) as caught:
        select_samples([row(), row(id="b", response=None)], progress=False)
    assert str(caught.value).splitlines() == [
        "1 bad row:",
        "  b: no response",
        'mend them, or leave them out with on_bad_row="skip"',
    ]


def test_skipping_reports_what_was_left_out(row) -> None:
    rows, report = select_samples([row(images=()), row(id="b", response=None)], on_bad_row="skip", progress=False)
    assert [r.id for r in rows] == ["r"]
    assert report == SampleReport(good=1, without_image=1, bad=(BadSample("b", "no response"),))
    assert str(report) == "1 of 2 rows are good, 1 of them without a picture\n1 bad row:\n  b: no response"


def test_rows_that_loading_passed_over_are_refused_with_the_others(tmp_path: Path, write_lines, response: str) -> None:
    """Taken before the stream is read, the list would still be empty, and a broken line would vanish."""
    path = write_lines(tmp_path / "q.jsonl", {"id": "a", "question": "Q?", "response": response}, "{", {"question": ""})
    skipped: list[BadSample] = []
    rows = load_samples(Source(loader="jsonl", path=str(path)), on_skip=skipped.append)
    with pytest.raises(SampleError, match="2 bad rows:") as caught:
        select_samples(rows, passed_over=skipped, progress=False)
    assert "q.jsonl line 2: not JSON" in str(caught.value)


def test_no_good_row_is_an_error_even_when_skipping(row) -> None:
    """An empty training set would otherwise start a run."""
    with pytest.raises(SampleError, match="no good rows\n1 bad row"):
        select_samples([row(response=None)], on_bad_row="skip", progress=False)
    with pytest.raises(SampleError, match="there are no rows"):
        select_samples([], on_bad_row="skip", progress=False)


def test_listing_is_bounded_and_printable() -> None:
    """Ids come from strangers' files: one with escape codes or a page of text must not take over the terminal."""
    bad = tuple(BadSample(f"r{i}", "no response") for i in range(12))
    lines = SampleReport(good=0, without_image=0, bad=bad).listing().splitlines()
    assert lines[0] == "12 bad rows:"
    assert lines[-1] == "  and 4 more"
    assert len(lines) == 10
    wild = SampleReport(good=0, without_image=0, bad=(BadSample("a\n\x1b[31m" + "x" * 500, "y" * 5000),)).listing()
    assert len(wild.splitlines()) == 2
    assert "\x1b" not in wild
    assert len(wild) < 400


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"on_bad_row": "ignore"}, "on_bad_row is 'ignore': use one of refuse, skip"),
        ({"min_reflections": -1}, "min_reflections is -1"),
        ({"max_pixels": 0}, "max_pixels is 0"),
    ],
)
def test_settings_are_checked_before_any_row(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        select_samples(iter(()), **fields)


def test_unknown_need_is_an_error() -> None:
    """A misspelt one that was ignored would let every row pass."""
    with pytest.raises(TypeError, match="need_image"):
        check_samples([], need_image=True)


def test_progress_bar_can_be_turned_off(row, capsys, monkeypatch) -> None:
    monkeypatch.setattr("look_again.data.checks.BAR_DELAY_S", 0)
    check_samples([row()], progress=False)
    assert capsys.readouterr().err == ""
    check_samples([row()], progress=True)
    assert "checking rows" in capsys.readouterr().err
