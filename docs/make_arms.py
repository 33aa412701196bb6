"""Writes docs/results/arms.md and tabletop-seeds/arms.json from a run of recipes/box/brpo_arms.yaml.

python docs/make_arms.py RUN    (without RUN: the table again, from the JSON that is there)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_controls import RESULTS, difference, write_table

from look_again.evaluation.comparison import check_same_items, paired_difference

TEXT, SUMMARY = RESULTS / "arms.md", RESULTS / "tabletop-seeds" / "arms.json"
SEEDS = ("0", "1", "2")
BASE = "text"
ARMS = {
    "text": ("trained and answered text-only", "4"),
    "copy": ("trained and answered with COPY", "4"),
    "route": ("trained and answered with ROUTE, m = 50", "4"),
    "untrained-copy": ("trained text-only, answered with COPY", "4"),
    "untrained-route": ("trained text-only, answered with ROUTE, m = 50", "4"),
    "route-25": ("trained with ROUTE, m = 50; answered with m = 25", "5"),
    "route-75": ("trained with ROUTE, m = 50; answered with m = 75", "5"),
    "route-100": ("trained with ROUTE, m = 50; answered with m = 100", "5"),
    "copy-wrong-image": ("the COPY arm, another image's rows", "control"),
    "text-wrong-image": ("the text-only arm, another image's rows by COPY", "control"),
}
START = ("text", "copy", "route")

Result = dict[str, Any]


def read(run: Path, stage: str) -> Result:
    folder = json.loads((run / "stages.json").read_text())["stages"][stage]
    return json.loads((run / "made" / folder / "out" / "tabletop" / "result.json").read_text())


def facts(result: Result) -> dict[str, Any]:
    metrics, counts = result["metrics"], result["counts"]
    return {
        "accuracy": metrics["strict_accuracy"],
        "reflection_hallucinated": metrics["reflection_hallucinated"],
        "unparsed": counts["unparsed"],
        "cut_off": counts["cut_off"],
        "tokens_per_answer": result["tokens_per_answer"],
        "looks_per_answer": result["looks_per_answer"],
    }


def mean_scores(results: list[Result]) -> list[float]:
    """Of each question, over seeds."""
    return [
        sum(scores) / len(scores) for scores in zip(*([i["strict"] for i in r["items"]] for r in results), strict=True)
    ]


def summary(run: Path) -> dict[str, Any]:
    found = {arm: [read(run, f"eval-{arm}-{seed}") for seed in SEEDS] for arm in ARMS}
    arms = {}
    for arm, results in found.items():
        for seed, base, result in zip(SEEDS, found[BASE], results, strict=True):
            check_same_items(f"{BASE}, seed {seed}", base, f"{arm}, seed {seed}", result)
        pooled = paired_difference(mean_scores(found[BASE]), mean_scores(results))
        arms[arm] = {
            "seeds": {seed: facts(result) for seed, result in zip(SEEDS, results, strict=True)},
            "against_text": None if arm == BASE else {"difference": pooled.difference, "interval": pooled.interval},
        }
    start = {mode: facts(read(run, f"start-{mode}")) for mode in START}
    config = found[BASE][0]["config"]
    return {"items": config["items"], "versions": config["versions"], "start": start, "arms": arms}


def table(made: dict[str, Any]) -> str:
    lines = [
        "| table | arm | exact answers, seeds 0, 1, 2 | mean | against text-only, paired (95%) |"
        " hallucinated in last REFLECTION | rows put back | unparsed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mode in START:
        one = made["start"][mode]
        lines.append(line("", f"before BRPO, answered with {mode}", [one], "-"))
    for arm, (title, number) in ARMS.items():
        one = made["arms"][arm]
        lines.append(line(number, title, list(one["seeds"].values()), difference(one["against_text"])))
    return "\n".join(lines) + "\n"


def line(number: str, title: str, seeds: list[dict[str, Any]], against: str) -> str:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    accuracies = [one["accuracy"] for one in seeds]
    cells = [
        number,
        title,
        ", ".join(f"{accuracy:.3f}" for accuracy in accuracies),
        f"{mean(accuracies):.3f}",
        against,
        f"{mean([one['reflection_hallucinated'] for one in seeds]):.3f}",
        f"{mean([one['tokens_per_answer']['reinserted'] for one in seeds]):.1f}",
        str(sum(one["unparsed"] for one in seeds)),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SUMMARY.parent.mkdir(exist_ok=True)
        SUMMARY.write_text(json.dumps(summary(Path(sys.argv[1])), indent=1) + "\n")
    write_table(TEXT, table(json.loads(SUMMARY.read_text())))
