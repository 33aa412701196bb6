"""The build: what came through all stages, as a data set to train on.

A folder with `train.jsonl` (rows that `train sft` reads with the loader jsonl), `images/`, `train.parquet` (the same
rows with their images inside, or their paths), `statistics.json` and a card. It is a function of the ledger alone:
the same results give the same bytes, whoever made them and in what order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from look_again.data.encoded_images import sendable
from look_again.data.sample import Sample
from look_again.extras import require
from look_again.images import ImageError
from look_again.pipeline.build_folder import BuildFolder
from look_again.pipeline.ledger.items import StageKey, WorkItem, results
from look_again.pipeline.ledger.ledger import Ledger
from look_again.text.grammar import parse

NAME = "build"
GROUP_ROWS = 64  # of the Parquet file, with their images in memory
PER_ROW = ("all", "first")
TABLES = ("embedded", "paths", "none")


class BuildError(ValueError):
    """A folder that cannot be built; the message says why."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """per_row: "all" good samples of a row, or the "first". table: images "embedded" in the Parquet file, or their
    "paths", or "none" for no such file. name: of the data set, for the card. ValueError for other values."""

    per_row: str = "all"
    table: str = "embedded"
    name: str = "Qwen-Zero-40k, made again"

    def __post_init__(self) -> None:
        for field_name, value, known in (("per_row", self.per_row, PER_ROW), ("table", self.table, TABLES)):
            if value not in known:
                raise ValueError(f"{field_name} is {value!r}: use one of {', '.join(known)}")


@dataclass
class Statistics:
    """Counts of what was built."""

    rows: int = 0
    without_image: int = 0
    rewritten: int = 0
    reviewed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    reflections: Counter[int] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        counted = {
            name: dict(sorted(value.items())) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }
        means = {tag: round(total / self.rows, 1) for tag, total in sorted(self.characters.items())}
        return {**counted, "characters": means}


def check_build(config: BuildConfig) -> None:
    """MissingExtraError where a table is asked for and pyarrow is not there; before anything else is done."""
    if config.table != "none":
        require("pyarrow", extra="data")


def build(
    ledger: Ledger,
    last: StageKey,
    out: Path,
    config: BuildConfig | None = None,
    *,
    leave_out: Callable[[WorkItem], str | None] = lambda item: None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build from the results of the stage `last` into the folder `out`, which is made; the statistics.

    leave_out: a reason to leave an item out, or None. about: what the card says of how the rows were made.
    ValueError when nothing is left to build, BuildError when the folder cannot be written, MissingExtraError without
    pyarrow where a table is asked for; what was built there before stays then.
    """
    config = config or BuildConfig()
    check_build(config)
    statistics = Statistics()
    try:
        with BuildFolder(out) as folder:
            records = _records(ledger, last, folder, config, leave_out, statistics)
            with folder.draft("train.jsonl").open("w", encoding="utf-8") as file:
                for record in records:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if not statistics.rows:
                raise ValueError(f"no row of {ledger.folder} has come through {last.stage}: nothing to build")
            if config.table != "none":
                write_table(folder, embedded=config.table == "embedded")
            summary = statistics.as_dict()
            folder.write_text("statistics.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
            folder.write_text("README.md", card(config.name, summary, about or {}))
    except OSError as error:
        raise BuildError(f"{out} cannot be written ({error.strerror or error}): what was built before stays") from error
    return summary


def _records(
    ledger: Ledger,
    last: StageKey,
    folder: BuildFolder,
    config: BuildConfig,
    leave_out: Callable[[WorkItem], str | None],
    statistics: Statistics,
) -> Iterator[dict[str, Any]]:
    before = -1
    for item, output in results(ledger, last):
        if config.per_row == "first" and item.n == before:
            statistics.left_out["a further sample"] += 1
            continue
        parsed = parse(output.get("response") or "")
        reason = leave_out(item) if parsed.well_formed else "not in the grammar"
        if reason is None:
            try:
                record = build_record(item, parsed.text, folder)
            except ImageError:
                reason = "an image that cannot be read"
        if reason is not None:
            statistics.left_out[reason] += 1
            continue
        before = item.n
        _count(statistics, item, output, parsed)
        yield record


def build_record(item: WorkItem, response: str, folder: BuildFolder) -> dict[str, Any]:
    """An item as a line of `train.jsonl`; its images are written into the folder."""
    sample = item.row
    record: dict[str, Any] = {"id": sample.id if item.sample == 0 else f"{sample.id}#{item.sample}"}
    if sample.images:
        record["images"] = [folder.write_image(*sendable(image)) for image in sample.images]
    record["question"] = sample.question
    if sample.options:
        record["options"] = list(sample.options)
    if sample.reference is not None:
        record["reference"] = sample.reference
    if silent := still_silent(sample, response):
        record["silent"] = [list(span) for span in silent]
    return {**record, "response": response, "origin": sample.source}


def still_silent(sample: Sample, response: str) -> list[tuple[int, int]]:
    """The row's silent spans that mean the same in `response`: those up to whose ends nothing was changed."""
    before = sample.response or ""
    return [(start, stop) for start, stop in sample.silent if response[:stop] == before[:stop]]


def _count(statistics: Statistics, item: WorkItem, output: Mapping[str, Any], parsed: Any) -> None:
    statistics.rows += 1
    statistics.without_image += not item.row.images
    statistics.rewritten += bool(output.get("rewritten", item.output.get("rewritten")))
    statistics.reviewed += bool(output.get("reviewed"))
    statistics.sources[item.row.source] += 1
    statistics.reflections[len(parsed.reflections)] += 1
    for section in parsed.sections:
        statistics.characters[section.tag] += len(section.text)


def write_table(folder: BuildFolder, *, embedded: bool) -> None:
    """`train.parquet` from the folder's new `train.jsonl`, a group of rows in memory at a time."""
    import pyarrow
    from pyarrow import parquet

    image_type = (
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]) if embedded else pyarrow.string()
    )
    texts = [(name, pyarrow.string()) for name in ("id", "question", "reference", "response", "origin")]
    lists = [
        ("images", pyarrow.list_(image_type)),
        ("options", pyarrow.list_(pyarrow.string())),
        ("silent", pyarrow.list_(pyarrow.list_(pyarrow.int64()))),
    ]
    schema = pyarrow.schema([*texts, *lists])
    rows, draft = folder.draft("train.jsonl"), folder.draft("train.parquet")
    with rows.open(encoding="utf-8") as lines, parquet.ParquetWriter(draft, schema) as writer:
        while group := [json.loads(line) for line in islice(lines, GROUP_ROWS)]:
            for record in group if embedded else ():
                record["images"] = [_embedded(folder.path, name) for name in record.get("images", ())]
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _embedded(out: Path, name: str) -> dict[str, Any]:
    return {"bytes": (out / name).read_bytes(), "path": name}


def card(name: str, statistics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The data set's README."""
    sources = ", ".join(f"{source} ({count})" for source, count in statistics["sources"].items())
    lines = [
        "---",
        "task_categories: [image-text-to-text]",
        "configs: [{config_name: default, data_files: [{split: train, path: train.parquet}]}]",
        "tags: [look-again, visual-re-attention]",
        "---",
        "",
        f"# {name}",
        "",
        f"{statistics['rows']} questions with tagged answers (SUMMARY, CAPTION, REASONING, REFLECTION, CONCLUSION),",
        "made with LookAgain's data engine after the recipe of Qwen Look Again (arXiv 2505.23558).",
        "",
        f"- questions from: {sources}",
        f"- rewritten after objections: {statistics['rewritten']}; decided on by people: {statistics['reviewed']}",
        f"- without an image: {statistics['without_image']}",
        f"- answers by number of reflections: {json.dumps(statistics['reflections'])}",
        f"- left out: {json.dumps(statistics['left_out'])}",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
        "Train on it with the loader `jsonl` and the path of `train.jsonl`.",
    ]
    return "\n".join(lines) + "\n"


def push(out: Path, repo: str, *, private: bool = True) -> str:
    """Upload a built folder as a data set; its URL. ValueError when the hub does not take it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=out, ignore_patterns=["*.part"]))
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{repo} was not pushed: {error}") from error
