"""The cells of a study: one arm at one length with one model over a block of rows, as runs of the evaluation.

A cell's folder is a run's folder: it resumes by itself, refuses another configuration and pins the weights it was made
with. Cells are independent, so several processes may work on those of one study, and a study with more rows keeps the
blocks that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from look_again.core.inputs import count_visual_tokens
from look_again.core.prefix_cache import PrefixCache
from look_again.core.reattention import Reattention
from look_again.core.reuse.rotated_keys import check_rotates
from look_again.data.image_files import open_image
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation
from look_again.evaluation.run import load_items, run_benchmark
from look_again.evaluation.subjects import PREFIX_FACT, LocalSubject, wrong_images
from look_again.images import ImageError
from look_again.model import LookAgain
from look_again.study.arm_models import build_policy, load_arm, load_once, mask_checkpoint
from look_again.study.designs import ANSWER_TOKENS
from look_again.study.rows import folder_benchmark
from look_again.study.settings import BLOCK, StudySettings, answer_room, check_context, split_arm
from look_again.tabletop.long_world.long_studies import LONG_BENCHMARKS
from look_again.tabletop.world import WORLD_SIZES
from look_again.text.instructions import LOOK_AGAIN_TEXT, question_messages


@dataclass(frozen=True)
class Cell:
    """model: its place among the settings' models. start, stop: its rows, by number."""

    model: int
    length: int
    arm: str
    start: int
    stop: int

    def folder(self, out: Path) -> Path:
        """Where its run is kept."""
        return out / "cells" / f"model-{self.model}" / f"{self.length}" / self.arm / f"rows-{self.start}-{self.stop}"


def list_cells(settings: StudySettings) -> list[Cell]:
    """All cells of a study, block by block of every arm and length.

    Within a block what others begin with comes first: the longest work, and arms that measure attention.
    """
    blocks = {arm: dict(cut_blocks(settings.items(arm))) for arm in settings.arms}
    return [
        Cell(model, length, arm, start, blocks[arm][start])
        for start, _ in cut_blocks(settings.n)
        for model in range(len(settings.models))
        for arm in sorted(settings.arms, key=_reading_order)
        if start in blocks[arm]
        for length in sorted(settings.lengths, reverse=True)
    ]


def cut_blocks(n: int) -> list[tuple[int, int]]:
    """First and last row of every block, the last not included: BLOCK rows each, and no last one of a single row, which
    would have no other image to be shown."""
    ends = [*range(BLOCK, n - 1, BLOCK), n]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _reading_order(arm: str) -> tuple[str, int]:
    """Mask by mask arms that rank by attention first, and last those whose prompts are their own."""
    policy = build_policy(Reattention(), arm)
    return split_arm(arm)[1], 2 if policy.prompt_copies > 1 else 1 - policy.needs_scores


def find_items(settings: StudySettings, cell: Cell) -> tuple[Benchmark, DataLocation]:
    """The benchmark of a cell and the place of its rows."""
    n = cell.stop - cell.start
    if settings.rows is not None:
        benchmark = folder_benchmark(cell.length, cell.start, swapped=settings.design.kind == "swap")
        return benchmark, DataLocation(path=settings.rows, split="rows", limit=n)
    path = f"seed={settings.seed},pieces={cell.length},size={settings.size},from={cell.start}"
    return LONG_BENCHMARKS[settings.design.kind], DataLocation(path=path, split=settings.split, limit=n)


def check_study(settings: StudySettings, out: Path) -> list[str]:
    """Load each model once and check that it carries every arm at every length; returns the models' fingerprints.

    ValueError, before any work, for lengths beyond a model's context, images that a model sees too coarsely, an arm
    that its family or chat template cannot carry, unknown arms, cells of fewer rows than asked for or of one image that
    another is wanted beside, and two models of the same weights.
    """
    for arm in settings.arms:
        build_policy(Reattention(), arm)
    items = [find_rows(settings, length) for length in settings.lengths]
    if few := [n for n, part in zip(settings.lengths, items, strict=True) if len(part) < settings.n]:
        raise ValueError(f"there are fewer than {settings.n} rows with {few[0]} tokens of work")
    check_other_images(settings, items[0])
    fingerprints: list[str] = []
    for place in range(len(settings.models)):
        model = load_once(settings.models[place])
        check_model(settings, model, items[0][0])
        check_room(settings, model, items)
        policy = build_policy(model.checkpoint.reattention, "text")
        mark = str(LocalSubject(model, policy, max_new_tokens=1).settings["fingerprint"])
        if mark in fingerprints:
            first = settings.models[fingerprints.index(mark)] or "the shipped model"
            raise ValueError(
                f"--model {settings.models[place]} holds the weights of {first}: name each training seed once"
            )
        fingerprints.append(mark)
    for mask in sorted({split_arm(arm)[1] for arm in settings.arms} - {""}):
        for place in range(len(settings.models)):
            mask_checkpoint(settings, place, mask, out)
    return fingerprints


def check_other_images(settings: StudySettings, items: Sequence[BenchmarkItem]) -> None:
    """NotPossibleError where an arm shows another image's rows and a block has none for one of its rows."""
    for arm in settings.arms:
        if build_policy(Reattention(), arm).control == "wrong-image":
            for start, stop in cut_blocks(settings.items(arm)):
                for place in range(stop - start):
                    wrong_images(items[start:stop], place)


def check_model(settings: StudySettings, model: LookAgain, item: BenchmarkItem) -> None:
    """ValueError, as `check_study`, for what one model does not carry, its image being that of `item`."""
    check, visual = model.checkpoint, visual_tokens(model, item)
    if settings.rows is None:
        check_context(settings.lengths, check.model.config.get_text_config().max_position_embeddings, visual)
    places = WORLD_SIZES[settings.size].side ** 2 if settings.rows is None else 0
    if visual < places:
        raise ValueError(
            f"a {settings.size} table has {places} places, and this model sees it as {visual} visual tokens: take a "
            "model whose images may be larger"
        )
    arms = [build_policy(check.reattention, arm) for arm in settings.arms]
    if any(policy.reuse for policy in arms):
        check_rotates(check.model)
    if any(policy.opens_turn for policy in arms):
        check.renderer.render_turn(question_messages("?", 1), LOOK_AGAIN_TEXT, [1], images=True)


def check_room(settings: StudySettings, model: LookAgain, rows: Sequence[Sequence[BenchmarkItem]]) -> None:
    """Open the images of a folder's rows and measure every row at every length.

    ValueError for an image that cannot be opened, and for work that does not fit the model's context as it is.
    """
    shown = rows[0] if settings.rows is not None else rows[0][:1]  # drawn images are of one size
    visual = max(visual_tokens(model, item) for item in shown)
    context = model.checkpoint.model.config.get_text_config().max_position_embeddings
    for length, items in zip(settings.lengths, rows, strict=True):
        longest, row = max((tokens_between(model, item), item.id) for item in items)
        if longest > (room := answer_room(context, visual)):
            raise ValueError(
                f"row {row!r}, length {length}: {longest} tokens of question and work do not fit; the model's context "
                f"is {context}, which leaves {room} beside the image twice and an answer"
            )


def visual_tokens(model: LookAgain, item: BenchmarkItem) -> int:
    """Visual tokens of an item's image. ImageError, naming the row, for one that cannot be opened."""
    try:
        size = open_image(item.images[0]).size
    except ImageError as error:
        raise ImageError(f"row {item.id!r}: {error}") from error
    return count_visual_tokens(model.checkpoint.image_processor, model.checkpoint.model.config, [size])[0]


@lru_cache(maxsize=8)
def find_rows(settings: StudySettings, length: int) -> list[BenchmarkItem]:
    """All rows of a study at one length."""
    return load_items(*find_items(settings, Cell(0, length, settings.arms[0], 0, settings.n)))[0]


def run_cell(settings: StudySettings, cell: Cell, out: Path) -> dict[str, Any]:
    """The result of a cell; resumes what its folder holds."""
    model = load_arm(settings, cell.model, cell.arm, out)
    model.prefix_cache = model.prefix_cache or PrefixCache(BLOCK + 1)
    benchmark, location = find_items(settings, cell)
    policy = build_policy(model.checkpoint.reattention, cell.arm)
    longest = max(work_tokens(model, item) for item in load_items(benchmark, location)[0])
    subject = LocalSubject(model, policy, max_new_tokens=longest + ANSWER_TOKENS, batch=settings.batch)
    return run_benchmark(benchmark, location, subject, cell.folder(out))


def run_cells(settings: StudySettings, cells: Sequence[Cell], out: Path) -> None:
    """Run the cells that are not finished, in this process or in several."""
    with tqdm(total=len(cells), desc="cells", unit="cell") as progress:
        if settings.jobs == 1:
            for cell in cells:
                run_cell(settings, cell, out)
                progress.update()
            return
        blocks = groupby(cells, key=lambda cell: (cell.start, cell.model))
        with ProcessPoolExecutor(settings.jobs, mp_context=get_context("spawn")) as pool:
            running = [pool.submit(_run_block, settings, list(block), out) for _, block in blocks]
            for future in as_completed(running):
                progress.update(future.result())


def _run_block(settings: StudySettings, cells: Sequence[Cell], out: Path) -> int:
    """Run cells that begin alike in one process; returns their number."""
    for cell in cells:
        run_cell(settings, cell, out)
    return len(cells)


def work_tokens(model: LookAgain, item: BenchmarkItem) -> int:
    """Tokens that the item's response begins with."""
    return len(model.checkpoint.tokenizer(str(item.facts[PREFIX_FACT]), add_special_tokens=False)["input_ids"])


def tokens_between(model: LookAgain, item: BenchmarkItem) -> int:
    """Tokens between the image and `<REFLECTION>`: the question behind the image and the work."""
    check = model.checkpoint
    ids = check.renderer.render_prompt(question_messages(item.prompt, 1), [1])
    image = check.tokenizer.convert_tokens_to_ids(check.renderer.image_text)
    return len(ids) - ids.index(image) - 1 + work_tokens(model, item) - 1
