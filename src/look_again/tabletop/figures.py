"""The figures of `look-again eval tabletop` without a run folder: both Tabletop benchmarks on one local checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from look_again.core.reattention import Reattention
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, Scores
from look_again.evaluation.run import means
from look_again.evaluation.subjects import LocalSubject, Output
from look_again.model import LookAgain
from look_again.scoring.statistics import wilson_interval
from look_again.tabletop.oracle import LENGTHS
from look_again.tabletop.tabletop_benchmark import load_free, load_planted, score_free, score_planted


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is asked, and how.

    n: items of the stream. batch: items decoded together. planted: whether to add those with planted mistakes. length:
    the requested length of all responses, None for the stream's own.
    """

    n: int
    seed: int
    split: str = "test"
    batch: int = 50
    max_new_tokens: int = 512
    max_reasoning_tokens: int | None = None
    planted: bool = True
    length: str | None = None

    @property
    def location(self) -> DataLocation:
        """Where the items are: a stream of the Tabletop benchmarks."""
        length = f",length={self.length}" if self.length else ""
        return DataLocation(path=f"seed={self.seed}{length}", split=self.split, limit=self.n)


def evaluate(model: LookAgain, config: EvalConfig, policy: Reattention) -> dict[str, Any]:
    """Everything that `look-again eval tabletop --json` prints. ValueError for an item that cannot be asked."""
    subject = LocalSubject(
        model,
        policy,
        max_new_tokens=config.max_new_tokens,
        max_reasoning_tokens=config.max_reasoning_tokens,
        batch=config.batch,
    )
    items = _by_length(load_free(config.location))
    outputs = _answers(subject, items, "answers")
    result = {"benchmark": "tabletop", **summarise_free(score_free(items, [o.reply for o in outputs]), outputs)}
    if config.planted:
        items = _by_length(load_planted(config.location))
        outputs = _answers(subject, items, "planted")
        result["planted"] = summarise_planted(score_planted(items, [o.reply for o in outputs]))
    result["settings"] = {"model": model.checkpoint.name, **asdict(config), "reattention": asdict(policy)}
    return result


def measure_accuracy(model: LookAgain, policy: Reattention, *, n: int, seed: int, length: str | None = None) -> float:
    """Accuracy of free answers on the split test: what training reports between its steps."""
    config = EvalConfig(n=n, seed=seed, planted=False, length=length)
    return float(evaluate(model, config, policy)["accuracy"])


def summarise_free(scores: Scores, outputs: Sequence[Output]) -> dict[str, Any]:
    """Accuracy with its interval and per kind, hallucinations and recall, tokens, format."""
    n, metrics = len(outputs), scores.metrics
    right = sum(int(score.strict or 0) for score in scores.items)
    kinds = {name.removeprefix("kind/"): part for name, part in sorted(scores.subsets.items())}
    return {
        "n": n,
        "accuracy": metrics["accuracy"],
        "interval": wilson_interval(right, n),
        "per_kind": {kind: {"n": part["items"], "accuracy": part["accuracy"]} for kind, part in kinds.items()},
        "well_formed": metrics["well_formed"],
        "unanswered": sum(output.conclusion is None for output in outputs),
        "caption": _object_lists(scores, "caption"),
        "reflection": _object_lists(scores, "reflection"),
        "reflections_per_answer": sum(output.reflections for output in outputs) / n,
        "tokens_per_answer": means(output.tokens for output in outputs),
    }


def summarise_planted(scores: Scores) -> dict[str, Any]:
    """How many planted mistakes the last reflection mends, per kind of mistake, and the accuracy of the answers."""
    metrics, per_kind = scores.metrics, {}
    for name, value in metrics.items():
        if name.startswith("mended_"):
            per_kind[name.removeprefix("mended_")] = value
    return {
        "rows": len(scores.items),
        "mistakes": metrics["mistakes"],
        "mended": sum(int(score.facts["mended"]) for score in scores.items),
        "share": metrics["mended"],
        "per_kind": per_kind,
        "accuracy": metrics["accuracy"],
    }


def _object_lists(scores: Scores, section: str) -> dict[str, float | int | None]:
    return {name: scores.metrics[f"{section}_{name}"] for name in ("hallucinated", "recall", "empty")}


def _by_length(items: Any) -> list[BenchmarkItem]:
    """The items, those with a request for the same length together: their answers take equally many steps."""
    return sorted(items, key=lambda item: LENGTHS.index(item.facts["length"]))


def _answers(subject: LocalSubject, items: Sequence[BenchmarkItem], what: str) -> list[Output]:
    """The outputs of all items, in their order."""
    outputs: dict[int, Output] = {}
    with tqdm(total=len(items), desc=what, unit="item") as progress:
        for index, output in subject.answers(items, ()):
            if output.error is not None:
                raise ValueError(f"{items[index].id}: {output.error}")
            outputs[index] = output
            progress.update()
    return [outputs[index] for index in range(len(items))]
