"""Curves of BRPO runs: reflections, tokens per reflection and accuracy against steps (the paper's figures 6 and 7).

    python -m look_again.rl.reward_curves runs/brpo-text-0 runs/brpo-text-1 --out recipes/tabletop/results/text

writes `text.json`, what is drawn and every logged figure, and `text.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from look_again.extras import require
from look_again.style import LIGHT, LINES, MARKS, legend_below, styled

SMOOTHED = 5  # steps that a drawn point averages, itself in the middle
PANELS = (
    ("reflections", "reflections per answer"),
    ("tokens_per_reflection", "tokens per reflection"),
    ("accuracy", "accuracy of sampled answers"),
    ("test_accuracy", "test accuracy, greedy"),
)

Log = Sequence[Mapping[str, float]]


def read_log(run: Path) -> list[dict[str, float]]:
    """The lines of a run's `log.jsonl`. ValueError for a folder without one, or an empty one."""
    path = run / "log.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} holds no log.jsonl: give the output folders of BRPO runs")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines:
        raise ValueError(f"{path} is empty: the run has made no step yet")
    return lines


def name_runs(texts: Sequence[str]) -> dict[str, Path]:
    """Folders by the names that come before `=`, else by their own. ValueError for a name that two of them have."""
    found: dict[str, Path] = {}
    for text in texts:
        given, named, folder = text.partition("=")
        folder = folder if named else text
        name = given if named else Path(folder).name
        if name in found:
            raise ValueError(f"two runs are called {name!r}: say NAME={folder} for one of them")
        found[name] = Path(folder)
    return found


def curves(logs: Mapping[str, Log]) -> dict[str, dict[str, list[float]]]:
    """Per run and figure of its log, the values of all steps; `NAME_steps` where not every step has one."""
    figures: dict[str, dict[str, list[float]]] = {}
    for run, log in logs.items():
        names = sorted(set().union(*log) - {"step"})
        figures[run] = {"step": [line["step"] for line in log]}
        for name in names:
            points = [(line["step"], line[name]) for line in log if name in line]
            figures[run][name] = [value for _, value in points]
            if len(points) < len(log):
                figures[run][f"{name}_steps"] = [step for step, _ in points]
    return figures


def smoothed(values: Sequence[float], width: int = SMOOTHED) -> list[float]:
    """Each value's mean with its neighbours, `width` in all where there are as many."""
    half = width // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def plot(figures: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw the panels, one line per run. MissingExtraError without matplotlib."""
    require("matplotlib", extra="eval")
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(10, 7.0), layout="constrained", dpi=110)
        for axes, (name, label) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
            for i, (run, values) in enumerate(figures.items()):
                if name in values:
                    _draw_run(axes, i, run, name, values)
            axes.set(xlabel="step", title=label)
            axes.grid()
            if "accuracy" in name:
                axes.set_ylim(0, 1)
        legend_below(figure.axes[2], columns=max(1, min(2, len(figures))))
        figure.savefig(path)


def _draw_run(axes: Any, index: int, run: str, name: str, values: Mapping[str, Sequence[float]]) -> None:
    """A run's curve of one figure: smoothed where every step has a value, with marks where few have."""
    sparse = f"{name}_steps" in values
    shown = values[name] if sparse else smoothed(values[name])
    colour, line = LIGHT.series[index % len(LIGHT.series)], LINES[index // len(LIGHT.series) % len(LINES)]
    mark = MARKS[index % len(MARKS)] if sparse else None
    axes.plot(values.get(f"{name}_steps", values["step"]), shown, line, color=colour, marker=mark, label=run)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the curves of BRPO runs.")
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="output folders of runs, with names to draw")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help="writes PATH.json and PATH.png")
    args = parser.parse_args(arguments)
    figures = curves({name: read_log(run) for name, run in name_runs(args.runs).items()})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rounded = {run: {k: [round(v, 6) for v in values] for k, values in curve.items()} for run, curve in figures.items()}
    args.out.with_suffix(".json").write_text(json.dumps(rounded) + "\n", encoding="utf-8")
    plot(figures, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
