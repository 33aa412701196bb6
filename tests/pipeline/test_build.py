"""What is built loads for training, with pictures inside or beside, and is the same whoever built it."""

from __future__ import annotations

import asyncio
import io
import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from look_again.data.checks import select_samples
from look_again.data.image_files import open_image
from look_again.data.loaders import load_samples
from look_again.data.sample import Sample
from look_again.data.source import Source
from look_again.pipeline.build import BuildConfig, BuildError, build, build_record, push
from look_again.pipeline.build_folder import BuildFolder
from look_again.pipeline.engine import PipelineStage, open_chat_client, run_stages
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem
from look_again.pipeline.ledger.ledger import Ledger
from look_again.tabletop.loader import tabletop_samples

pytest.importorskip("pyarrow")
LAST = StageKey("last", "v", samples=2)


def filled(ledger: Ledger, response: str, pictures: tuple[bytes, ...], key: StageKey = LAST) -> Ledger:
    """Five rows with two samples each; of the last the second sample breaks the grammar."""

    async def work(item, chat):
        return Outcome(output={"response": "no tags" if item.row.id == "text" and item.sample else response})

    made = [replace(row, response=None, silent=()) for row in tabletop_samples("train", 1, range(3))]
    made.append(Sample(id="two", images=pictures, question="Q?", options=("a", "b"), source="s"))
    made.append(Sample(id="text", question="What is 2 + 2?", reference="4", source="s"))
    add_rows(ledger, made, "here")

    async def go():
        async with open_chat_client(ledger, [], "test") as client:
            await run_stages(client, [PipelineStage(key, work=work)], workers=3)

    asyncio.run(go())
    return ledger


@pytest.fixture
def pictures(encoded):
    return encoded(30, 20, "JPEG"), encoded()


@pytest.fixture
def ledger(ledger, response, pictures):
    return filled(ledger, response, pictures)


@pytest.mark.parametrize("table", ["embedded", "paths"])
def test_a_build_loads_for_training(ledger, tmp_path, table, response):
    out = tmp_path / "out"
    made = build(ledger, LAST, out, BuildConfig(table=table))
    assert (made["rows"], made["without_image"], made["left_out"]) == (9, 1, {"not in the grammar": 1})
    loaded = []
    for loader, name in (("jsonl", "train.jsonl"), ("parquet", "train.parquet")):
        rows, report = select_samples(load_samples(Source(loader=loader, path=str(out / name))), progress=False)
        assert report.rows == 9
        assert {row.response for row in rows} == {response}
        loaded.append(
            [(r.id, r.question, r.options, r.reference, [open_image(i).tobytes() for i in r.images]) for r in rows]
        )
    assert loaded[0] == loaded[1]
    ids = [row[0] for row in loaded[0]]
    assert ids[-3:] == ["two", "two#1", "text"]
    assert next(row for row in loaded[0] if row[0] == "two")[2] == ("a", "b")


def test_a_build_loads_as_a_training_stage(ledger, tmp_path):
    """The rows must pass what `train sft` does before its first step."""
    from look_again.training.sft_config import build_stage

    build(ledger, LAST, tmp_path / "out")
    stage = build_stage(
        name="s",
        task="rows",
        trains="language_model",
        epochs=1,
        data=(Source(loader="jsonl", path=str(tmp_path / "out" / "train.jsonl")),),
    )
    selection = stage.selection
    found = [row for source in selection.data for row in load_samples(source)]
    good, _ = select_samples(
        found, on_bad_row=selection.on_bad_row, min_reflections=selection.min_reflections, progress=False
    )
    assert len(good) == 9


def test_builds_are_the_same_bytes_twice(ledger, tmp_path, response, pictures):
    with Ledger(tmp_path / "other") as other:
        filled(other, response, pictures)
        files = []
        for source, out in ((ledger, tmp_path / "a"), (other, tmp_path / "b")):
            build(source, LAST, out)
            files.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert files[0] == files[1]
    assert not any(path.suffix == ".part" for path in files[0])


def test_one_sample_of_a_row_if_so_configured(ledger, tmp_path):
    made = build(ledger, LAST, tmp_path / "out", BuildConfig(per_row="first", table="none"))
    assert (made["rows"], made["left_out"]) == (5, {"a further sample": 5})
    assert not (tmp_path / "out" / "train.parquet").exists()


def test_rows_can_be_left_out_with_a_reason(ledger, tmp_path):
    made = build(ledger, LAST, tmp_path / "out", leave_out=lambda item: "shared" if item.row.id == "two" else None)
    assert made["left_out"] == {"shared": 2, "not in the grammar": 1}


def test_planted_mistakes_stay_silent(response, tmp_path):
    """A reflection put in behind them does not move them; a rewrite of what is before them ends it."""
    text = response.replace("<REFLECTION></REFLECTION>", "")
    row = Sample(id="r", question="Q?", response=text, silent=((9, 10), (30, 31)), source="s")
    item = WorkItem(1, 0, row, {}, "i")
    folder = BuildFolder(tmp_path)
    assert build_record(item, response, folder)["silent"] == [[9, 10], [30, 31]]
    assert build_record(item, response.replace("<CAPTION>c", "<CAPTION>x"), folder)["silent"] == [[9, 10]]
    assert "silent" not in build_record(item, "z" + response, folder)


def test_nothing_to_build_is_an_error(tmp_path):
    with Ledger(tmp_path / "empty") as empty, pytest.raises(ValueError, match="nothing to build"):
        build(empty, LAST, tmp_path / "out")


def test_many_rows_go_through_the_table(tmp_path, response):
    """A group of the table has 64 rows: none may get lost between two groups."""

    async def work(item, chat):
        return Outcome(output={"response": response})

    with Ledger(tmp_path / "run") as ledger:
        add_rows(ledger, [Sample(id=f"r{i}", question="Q?", source="s") for i in range(150)], "here")

        async def go():
            async with open_chat_client(ledger, [], "test") as client:
                await run_stages(client, [PipelineStage(StageKey("last", "v"), work=work)], workers=3)

        asyncio.run(go())
        build(ledger, StageKey("last", "v"), tmp_path / "out")
    source = Source(loader="parquet", path=str(tmp_path / "out" / "train.parquet"))
    assert [row.id for row in load_samples(source)] == [f"r{i}" for i in range(150)]


def test_statistics_and_card_say_what_was_built(ledger, tmp_path):
    made = build(ledger, LAST, tmp_path / "out", about={"models": "m1"})
    assert json.loads((tmp_path / "out" / "statistics.json").read_text()) == json.loads(json.dumps(made))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "- models: m1" in card
    assert "tabletop (6)" in card


def test_a_push_that_fails_is_said(tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(ValueError, match="some/where was not pushed: no network"):
        push(Path(tmp_path), "some/where")
    with pytest.raises(ValueError, match="per_row"):
        BuildConfig(per_row="last")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: writes fail as on a full disk, wherever they come from."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [0, 50, 300, 700, 1000, 2000, 4000, 8000])
@pytest.mark.parametrize("built_before", [True, False])
def test_a_full_disk_leaves_no_halves(ledger, tmp_path, size, built_before):
    """New rows stood beside the old table, or half a table beside no statistics."""
    out = tmp_path / "out"
    if built_before:
        build(ledger, LAST, out, leave_out=lambda item: None if item.row.id == "text" else "not now")
    before = files_in(out) if built_before else {}
    with file_size_limit(size), pytest.raises(BuildError, match="cannot be written"):
        build(ledger, LAST, out)
    assert files_in(out) == before
    build(ledger, LAST, out)
    build(ledger, LAST, tmp_path / "other")
    assert files_in(out) == files_in(tmp_path / "other")


def test_an_error_in_the_middle_leaves_the_earlier_build(ledger, tmp_path):
    out = tmp_path / "out"
    build(ledger, LAST, out, leave_out=lambda item: None if item.row.id == "text" else "not now")
    before = files_in(out)

    def stop(item: WorkItem) -> None:
        if item.row.id == "text":
            raise ValueError("shared")

    with pytest.raises(ValueError, match="shared"):
        build(ledger, LAST, out, leave_out=stop)
    assert files_in(out) == before


def test_nothing_of_an_earlier_build_stays_and_nothing_else_goes(ledger, tmp_path):
    """An old table beside new rows, and images of rows that are gone, would be pushed with them."""
    out = tmp_path / "out"
    build(ledger, LAST, out)
    (out / "notes.txt").write_text("mine")
    (out / "images" / "mine.png").write_text("mine")
    build(ledger, LAST, out, BuildConfig(table="none"), leave_out=lambda i: None if i.row.id == "text" else "not now")
    assert set(files_in(out)) == {
        "README.md", "statistics.json", "train.jsonl", "notes.txt", "images/mine.png",
    }  # fmt: skip


def test_a_built_image_has_no_position(ledger, tmp_path):
    """A phone's photo went into the data set with where it was taken."""
    exif = Image.Exif()
    exif[0x010E] = "52.5163N 13.3777E"
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "JPEG", exif=exif)
    item = WorkItem(1, 0, Sample(id="r", question="Q?", images=(file.getvalue(),), source="s"), {}, "i")
    with BuildFolder(tmp_path / "out") as folder:
        (name,) = build_record(item, "x", folder)["images"]
    assert b"52.5163" in file.getvalue()
    assert b"52.5163" not in (tmp_path / "out" / name).read_bytes()
    assert name.endswith(".jpg")
