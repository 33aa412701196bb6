"""Each loader on rows written in its layout, and what it says where there are none."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from look_again.data.image_files import image_size, open_image
from look_again.data.loaders import Counts, load_samples
from look_again.data.sample import BadSample, Sample, SampleError
from look_again.data.source import LOADERS, Source
from look_again.extras import MissingExtraError
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample, write_samples
from look_again.text.grammar import parse


def load(loader: str, path: Path | str, **fields) -> list[Sample]:
    return list(load_samples(Source(loader=loader, path=str(path), **fields)))


# Sources


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"loader": "csv", "path": "x"},
            "loader is 'csv': use one of jsonl, parquet, folder, hub, llava-cot, math, mathvision, .*, tabletop",
        ),
        ({"loader": "jsonl", "path": ""}, "path is ''"),
        ({"loader": "tabletop", "path": 7}, "path is 7: a text"),
        ({"loader": "jsonl", "path": "x", "split": ""}, "split is ''"),
        ({"loader": "jsonl", "path": "x", "limit": 0}, "limit is 0"),
        ({"loader": "jsonl", "path": "x", "limit": True}, "limit is True"),
        ({"loader": "jsonl", "path": "x", "limit": 1.5}, "limit is 1.5"),
        ({"loader": "jsonl", "path": "x", "without_image": "drop"}, "without_image is 'drop': use one of keep, skip"),
        ({"loader": "jsonl", "path": "x", "name": "main"}, "name is 'main': only the loaders hub and math"),
        ({"loader": "tabletop", "path": "x"}, "path is 'x': for tabletop use SEED, SEED:ROWS"),
        ({"loader": "tabletop", "path": "7:0"}, "path is '7:0'"),
        ({"loader": "tabletop", "path": "7", "split": "dev"}, "split is 'dev': for tabletop use one of train"),
        ({"loader": "tabletop", "path": "7", "images": "x"}, "images is 'x'"),
    ],
)
def test_sources_are_checked_on_construction(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Source(**fields)


def test_nothing_is_read_before_the_first_row(tmp_path: Path) -> None:
    """A configuration with many sources must be constructible, and fail at the source that is missing."""
    for loader in ("jsonl", "parquet", "folder", "hub", "llava-cot"):
        rows = load_samples(Source(loader=loader, path=str(tmp_path / "gone")))
        with pytest.raises(ValueError, match="gone"):
            next(rows)


# JSON lines


def test_jsonl_with_relative_pictures(tmp_path: Path, write_lines, encoded) -> None:
    (tmp_path / "a.png").write_bytes(encoded(40, 20))
    path = write_lines(tmp_path / "q.jsonl", {"question": "Q?", "image": "a.png"}, "", {"id": "x", "question": "R?"})
    first, second = load("jsonl", path, split="test")
    assert first.id == f"{tmp_path.name}/q-0"
    assert first.split == "test"
    assert image_size(first.images[0]) == (40, 20)
    assert second.id == "x"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "Q?"', "row 'q.jsonl line 3': not JSON"),
        ('["Q?"]', "line 3': a JSON list where an object is needed"),
        ("[", "line 3': not JSON.*one JSON array"),
        ("3" * 5000, "line 3': JSON that cannot be read"),
        ("[" * 100_000, "line 3'"),
    ],
)
def test_broken_line_is_named_by_its_number(tmp_path: Path, write_lines, line: str, complaint: str) -> None:
    """Counted in the file, blank lines included, as an editor shows it."""
    path = write_lines(tmp_path / "q.jsonl", {"question": "Q?"}, "", line, {"question": "R?"})
    with pytest.raises(SampleError, match=complaint):
        load("jsonl", path)
    skipped: list[BadSample] = []
    rows = list(load_samples(Source(loader="jsonl", path=str(path)), on_skip=skipped.append))
    assert [row.question for row in rows] == ["Q?", "R?"]
    assert [row.id for row in skipped] == ["q.jsonl line 3"]


def test_encodings(tmp_path: Path) -> None:
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "Gr\xc3\xbcn?"}\r\n')
    assert load("jsonl", tmp_path / "bom.jsonl")[0].question == "Grün?"
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "Gr\xfcn?"}\n')
    with pytest.raises(SampleError, match=r"latin\.jsonl line 1.*not UTF-8"):
        load("jsonl", tmp_path / "latin.jsonl")


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path, write_lines) -> None:
    """A limit must not read, or stumble over, what lies behind it."""
    path = write_lines(tmp_path / "q.jsonl", {"question": "1"}, {"question": "2"}, "broken")
    assert [row.question for row in load("jsonl", path, limit=2)] == ["1", "2"]


def test_repeated_id_is_refused_or_counted(tmp_path: Path, write_lines) -> None:
    """Results are joined on ids: of two rows with one id, one would be scored as the other."""
    path = write_lines(tmp_path / "q.jsonl", {"id": 1, "question": "a"}, {"id": "1", "question": "b"})
    with pytest.raises(SampleError, match="row '1': this id occurs twice"):
        load("jsonl", path)
    counts, skipped = Counts(), []
    source = Source(loader="jsonl", path=str(path))
    assert [row.question for row in load_samples(source, on_skip=skipped.append, counts=counts)] == ["a"]
    assert counts == Counts(rows=1, without_image=1, skipped=1)


def test_limit_counts_rows_handed_out(tmp_path: Path, write_lines) -> None:
    records = [
        {"question": "text"},
        {"question": "1", "image": "a"},
        {"question": "text"},
        {"question": "2", "image": "a"},
    ]
    path = write_lines(tmp_path / "q.jsonl", *records)
    assert [row.question for row in load("jsonl", path, limit=2, without_image="skip")] == ["1", "2"]


def test_pictures_in_another_folder_must_be_asked_for(tmp_path: Path, write_lines) -> None:
    path = write_lines(tmp_path / "rows" / "q.jsonl", {"question": "Q?", "image": str(tmp_path / "pics" / "a.png")})
    with pytest.raises(SampleError, match="outside"):
        load("jsonl", path)
    (row,) = load("jsonl", path, images=str(tmp_path / "pics"))
    assert row.images == (tmp_path / "pics" / "a.png",)


# Parquet and folders


def table(path: Path, *records: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)


def test_parquet_with_pictures_inside(tmp_path: Path, encoded) -> None:
    """More rows than a batch, with ids that go on counting."""
    picture = {"bytes": encoded(40, 20), "path": None}
    table(tmp_path / "q.parquet", *({"problem": f"<image>{i}", "images": [picture], "answer": "4"} for i in range(150)))
    rows = load("parquet", tmp_path / "q.parquet")
    assert [row.question for row in rows] == [str(i) for i in range(150)]
    assert rows[149].id.endswith("/q-149")
    assert image_size(rows[149].images[0]) == (40, 20)


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(ValueError, match=r"q\.parquet cannot be read as Parquet"):
        load("parquet", tmp_path / "q.parquet")


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for loader in ("parquet", "hub"):
        with pytest.raises(MissingExtraError, match=r"look-again-vlm\[data\]"):
            load(loader, tmp_path)


def test_folder_that_tabletop_make_writes(tmp_path: Path) -> None:
    """The command's rows and the loader's must stay one format."""
    written = list(write_samples(tmp_path, "test", 5, 3))
    rows = load("folder", tmp_path, split="test")
    assert [(row.id, row.question, row.reference) for row in rows] == [(w.id, w.prompt, w.answer) for w in written]
    for row, made in zip(rows, written, strict=True):
        assert np.array_equal(np.asarray(open_image(row.images[0])), np.asarray(render(made.scene)))


def test_folder_prefers_the_file_of_the_split(tmp_path: Path, write_lines) -> None:
    write_lines(tmp_path / "rows.jsonl", {"question": "any"})
    write_lines(tmp_path / "test.jsonl", {"question": "test"})
    assert load("folder", tmp_path, split="test")[0].question == "test"
    assert load("folder", tmp_path, split="train")[0].question == "any"


def test_folder_like_imagefolder(tmp_path: Path, write_lines, encoded) -> None:
    write_lines(tmp_path / "train" / "metadata.jsonl", {"file_name": "a.png", "question": "Q?"})
    (tmp_path / "train" / "a.png").write_bytes(encoded(40, 20))
    (row,) = load("folder", tmp_path)
    assert row.images == (tmp_path / "train" / "a.png",)


def test_folder_of_tables_keeps_splits_apart(tmp_path: Path) -> None:
    """Reading training tables as a test set would report scores on training rows."""
    table(tmp_path / "data" / "train-00000-of-00002.parquet", {"question": "1"})
    table(tmp_path / "data" / "train-00001-of-00002.parquet", {"question": "2"})
    table(tmp_path / "data" / "training_extra.parquet", {"question": "3"})
    rows = load("folder", tmp_path)
    assert [row.question for row in rows] == ["1", "2"]
    assert [row.id for row in rows] == [f"{tmp_path.name}-0", f"{tmp_path.name}-1"]
    with pytest.raises(ValueError, match="has no rows of test"):
        load("folder", tmp_path, split="test")


def test_folder_of_tables_without_splits(tmp_path: Path) -> None:
    table(tmp_path / "part0.parquet", {"question": "1"})
    assert load("folder", tmp_path, split="validation")[0].question == "1"


def test_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"dev\.jsonl, rows\.jsonl, dev/metadata\.jsonl, metadata\.jsonl, dev\*\.parquet"
    ):
        load("folder", tmp_path, split="dev")
    with pytest.raises(ValueError, match="is no folder"):
        load("folder", tmp_path / "x")


# datasets


def test_hub_loader_leaves_pictures_encoded(tmp_path: Path, encoded) -> None:
    """Decoding while iterating would take hours for a column nobody opened, and end at the first damaged picture."""
    features = datasets.Features(
        images=datasets.List(datasets.Image()), problem=datasets.Value("string"), answer=datasets.Value("string")
    )
    pictures = [{"bytes": encoded(40, 20), "path": None}, {"bytes": b"damaged", "path": None}]
    records = [{"images": [picture], "problem": "<image>Find x.", "answer": "4"} for picture in pictures]
    datasets.Dataset.from_list(records, features=features).to_parquet(tmp_path / "set" / "data" / "train-0.parquet")
    rows = load("hub", tmp_path / "set")
    assert [row.images for row in rows] == [(pictures[0]["bytes"],), (b"damaged",)]
    assert [(row.id, row.question, row.reference) for row in rows] == [
        ("set-0", "Find x.", "4"),
        ("set-1", "Find x.", "4"),
    ]


def test_hub_loader_on_an_imagefolder(tmp_path: Path, write_lines, encoded) -> None:
    write_lines(tmp_path / "set" / "metadata.jsonl", {"file_name": "a.png", "question": "Q?"})
    (tmp_path / "set" / "a.png").write_bytes(encoded(40, 20))
    (row,) = load("hub", tmp_path / "set")
    assert image_size(row.images[0]) == (40, 20)


@pytest.mark.parametrize("whole", [True, False])
def test_hub_loader_on_a_saved_data_set(tmp_path: Path, whole: bool) -> None:
    saved = datasets.Dataset.from_list([{"question": "Q?"}])
    (datasets.DatasetDict(train=saved) if whole else saved).save_to_disk(str(tmp_path / "set"))
    assert [row.question for row in load("hub", tmp_path / "set")] == ["Q?"]


def test_cached_images(tmp_path: Path, monkeypatch, encoded) -> None:
    """A remote picture folder is downloaded there and named by absolute paths; others on the machine stay closed."""
    cached, other = tmp_path / "cache" / "a.png", tmp_path / "private.png"
    features = datasets.Features(image=datasets.Image(), question=datasets.Value("string"))
    remote = datasets.Dataset.from_list(
        [{"image": {"bytes": None, "path": str(path)}, "question": "Q?"} for path in (cached, other)],
        features=features,
    )
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: asked.append((args, options)) or remote)
    skipped: list[BadSample] = []
    source = Source(loader="hub", path="some/set", name="easy", split="test")
    (row,) = load_samples(source, on_skip=skipped.append)
    assert row.images == (cached,)
    assert row.source == "some/set"
    assert "private.png" in skipped[0].reason
    assert asked == [(("some/set", "easy"), {"split": "test"})]


def test_hub_errors_name_split_and_set(tmp_path: Path, write_lines) -> None:
    write_lines(tmp_path / "set" / "train.jsonl", {"question": "Q?"})
    with pytest.raises(ValueError, match=r"split 'test' of .*set cannot be loaded"):
        load("hub", tmp_path / "set", split="test")
    with pytest.raises(ValueError, match="split 'train' of no/such-set, configuration x cannot be loaded"):
        load("hub", "no/such-set", name="x")


# Tabletop


def test_tabletop_rows_are_those_of_make_row() -> None:
    """Training reads what evaluation and the published streams are made of: same picture, text and planted spans."""
    rows = load("tabletop", "20261121:12")
    assert len(rows) == 12
    for index, row in enumerate(rows):
        made = make_sample("train", 20261121, index)
        assert (row.id, row.question, row.reference) == (made.id, made.prompt, made.answer)
        assert row.response == made.written.text
        assert row.silent == tuple(made.written.planted_spans)
        assert np.array_equal(np.asarray(open_image(row.images[0])), np.asarray(render(made.scene)))
        assert parse(row.response).well_formed
    assert any(row.silent for row in rows)


def test_tabletop_stream_has_no_end_but_its_limit() -> None:
    rows = load("tabletop", "7", split="heldout", limit=3)
    assert [row.id for row in rows] == ["tabletop-heldout-7-0", "tabletop-heldout-7-1", "tabletop-heldout-7-2"]
    assert {row.split for row in rows} == {"heldout"}


def test_tabletop_rows_pickle_without_their_pixels() -> None:
    (row,) = load("tabletop", "7:1")
    pickled = pickle.dumps(row)
    assert len(pickled) < 5000
    assert pickle.loads(pickled) == row


def test_table_of_loaders_is_what_the_documentation_lists() -> None:
    sets = ["llava-cot", "math", "mathvision", "polymath", "scemqa", "geometry3k"]
    assert list(LOADERS) == ["jsonl", "parquet", "folder", "hub", *sets, "tabletop"]
