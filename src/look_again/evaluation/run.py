"""One run: a benchmark's items through a subject, scored, as one JSON that is equal however often it was interrupted.

The paper reports scores without their answers; here every answer and its score are kept. What differs between equal
runs, times, is under the key "timing" alone.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from look_again.data.sample import BadSample
from look_again.evaluation.benchmark import JSON, Benchmark, BenchmarkItem, DataLocation, ItemScore, Judge, Scores
from look_again.evaluation.run_folder import JUDGED, RunFolder
from look_again.evaluation.scored import score_run
from look_again.evaluation.subjects import PREFIX_FACT, Output, Subject

PACKAGES = ("look-again-vlm", "torch", "transformers", "tokenizers", "numpy", "pillow", "openai", "math-verify")


def run_benchmark(
    benchmark: Benchmark, location: DataLocation, subject: Subject, out: Path, *, judge: Judge | None = None
) -> dict[str, Any]:
    """Ask and score every item, resuming what `out` holds of the same run; returns what `result.json` holds.

    ValueError for no items, ids that repeat, a judge that is missing, or a folder of another run.
    """
    if benchmark.needs_judge and judge is None:
        raise ValueError(f"{benchmark.name} is scored by a judge: give --judge-url and --judge-model")
    items, bad_rows = load_items(benchmark, location)
    config = build_config(benchmark, location, items, subject, judge)
    with RunFolder(out, config) as folder:
        with tqdm(total=len(items), initial=len(folder.done), desc=f"{benchmark.name} {out.parent.name}") as progress:
            for index, output in subject.answers(items, folder.done):
                folder.add(items[index].id, output)
                progress.update()
        outputs = [folder.outputs[item.id] for item in items]
        started = time.perf_counter()
        scores = score_run(benchmark, items, outputs, judge, out / JUDGED)
        result = assemble(benchmark, config, items, outputs, scores, bad_rows)
        result["timing"] = timing(outputs, time.perf_counter() - started)
        folder.finish(result)
    return result


def load_items(benchmark: Benchmark, location: DataLocation) -> tuple[list[BenchmarkItem], list[BadSample]]:
    """The items and the rows that were left out. ValueError for no items and for ids that repeat."""
    if location.split not in benchmark.splits:
        raise ValueError(f"{benchmark.name} has no split {location.split!r}; known: {', '.join(benchmark.splits)}")
    items: list[BenchmarkItem] = []
    bad_rows: list[BadSample] = []
    for row in benchmark.load(location):
        if isinstance(row, BadSample):
            bad_rows.append(row)
        else:
            items.append(row)
    if not items:
        reasons = "".join(f"; {row.id}: {row.reason}" for row in bad_rows[:3])
        raise ValueError(f"{location.path} gives no items of {benchmark.name}, {len(bad_rows)} bad rows{reasons}")
    repeated = [id for id, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise ValueError(f"{location.path}: {len(repeated)} ids repeat, the first is {repeated[0]!r}")
    return items, bad_rows


def digest_item(item: BenchmarkItem) -> str:
    """What tells whether two runs asked the same, 16 hexadecimals: of id, prompt, number of images, reference."""
    parts = [item.id, item.prompt, item.facts.get(PREFIX_FACT), len(item.images), item.reference]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def build_config(
    benchmark: Benchmark, location: DataLocation, items: Sequence[BenchmarkItem], subject: Subject, judge: Judge | None
) -> dict[str, JSON]:
    """Everything that determines the result."""
    digests = "".join(map(digest_item, items))
    return {
        "benchmark": benchmark.name,
        "place": {
            "path": str(location.path),
            "split": location.split,
            "images": None if location.images is None else str(location.images),
            "limit": location.limit,
        },
        "items": {"n": len(items), "digest": hashlib.sha256(digests.encode()).hexdigest()[:16]},
        "subject": dict(subject.settings),
        "judge": None if judge is None else getattr(judge, "settings", "a function"),
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Of Python and of what answers depend on; None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def assemble(
    benchmark: Benchmark,
    config: Mapping[str, JSON],
    items: Sequence[BenchmarkItem],
    outputs: Sequence[Output],
    scores: Scores,
    bad_rows: Sequence[BadSample],
) -> dict[str, Any]:
    """The JSON of a run, without its times."""
    scored = list(zip(items, scores.items, strict=True))
    unparsed = [item.id for item, score in scored if score.unparsed]
    unjudged = [{"id": item.id, "reason": score.unjudged} for item, score in scored if score.unjudged is not None]
    errors = [{"id": item.id, "reason": o.error} for item, o in zip(items, outputs, strict=True) if o.error is not None]
    answered = [output for output in outputs if output.error is None] or outputs
    left_out = [{"id": row.id, "reason": row.reason} for row in bad_rows]
    return {
        "benchmark": benchmark.name,
        "primary": benchmark.primary,
        "paired": benchmark.paired,
        "metrics": dict(scores.metrics),
        "subsets": {name: dict(metrics) for name, metrics in scores.subsets.items()},
        "notes": dict(scores.notes),
        "counts": {
            "items": len(items),
            "unparsed": len(unparsed),
            "errors": len(errors),
            "bad_rows": len(bad_rows),
            "cut_off": sum(o.finish_reason in ("length", "context") for o in outputs),
        },
        "tokens_per_answer": means(output.tokens for output in answered),
        "looks_per_answer": sum(output.looks for output in answered) / len(answered),
        "lists": {"unparsed": unparsed, "unjudged": unjudged, "errors": errors, "bad_rows": left_out},
        "config": dict(config),
        "items": [
            item_line(item, output, score) for item, output, score in zip(items, outputs, scores.items, strict=True)
        ],
    }


def item_line(item: BenchmarkItem, output: Output, score: ItemScore) -> dict[str, JSON]:
    """One item with its answer and score."""
    return {
        "id": item.id,
        "digest": digest_item(item),
        "prompt": item.prompt,
        "facts": dict(item.facts),
        "reference": item.reference,
        "text": output.text,
        "conclusion": output.conclusion,
        "extracted": score.extracted,
        "official": score.official,
        "strict": score.strict,
        "unparsed": score.unparsed,
        "score_facts": dict(score.facts),
        "tokens": dict(output.tokens),
        "finish_reason": output.finish_reason,
        "reflections": output.reflections,
        "looks": output.looks,
        "error": output.error,
    }


def means(counts: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """Mean of each kind of token, over all answers."""
    rows = list(counts)
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row)
    return {kind: total[kind] / len(rows) for kind in total}


def timing(outputs: Sequence[Output], scoring_s: float) -> dict[str, JSON]:
    """Seconds: of answering, per item and in all (of an endpoint asked in parallel, more than passed), and scoring."""
    per_item = [round(output.seconds, 4) for output in outputs]
    return {
        "answering_s": round(sum(per_item), 3),
        "per_item_s": per_item,
        "scoring_s": round(scoring_s, 4),
        "scoring_per_item_s": round(scoring_s / len(outputs), 6),
    }
