"""`look-again compare RUN RUN…`: paired differences from the first run, with intervals and exact tests."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from look_again.commands.common import print_json

RESULT = "result.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs; the first is the baseline")
    parser.add_argument("--score", metavar="NAME", help="official, strict, or a fact of the items' scores")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from look_again.evaluation.comparison import compare
    from look_again.evaluation.result_tables import difference_tables, left_out_tables, print_tables

    if len(args.runs) < 2:
        raise ValueError(f"a comparison takes at least two runs, not {len(args.runs)}")
    names = _names(args.runs)
    found = [results_under(path) for path in args.runs]
    shared = [place for place in found[0] if all(place in one for one in found)]
    if not shared:
        raise ValueError(f"no benchmark was run in all of {', '.join(map(str, args.runs))}")
    made = [
        compare(
            {name: _read(one[place]) for name, one in zip(names, found, strict=True)}, score=args.score, seed=args.seed
        )
        for place in shared
    ]
    left_out = not_in_all(dict(zip(names, found, strict=True)))
    if args.html:
        from look_again.evaluation.report import comparison_page

        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(comparison_page(made, left_out), encoding="utf-8")
    if args.json:
        print_json({"comparisons": made, "left_out": left_out})
    else:
        for comparison in made:
            print_tables(difference_tables(comparison))
        print_tables(left_out_tables(left_out))
    return 0


def not_in_all(found: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Benchmarks that cannot be compared, each with the runs that lack it. found: run -> its benchmarks."""
    every = dict.fromkeys(name for places in found.values() for name in places)
    missing = {name: [run for run, places in found.items() if name not in places] for name in every}
    return {name: runs for name, runs in missing.items() if runs}


def results_under(path: Path) -> dict[str, Path]:
    """Finished runs of a folder: its own, named "", or those of its subfolders, by name. ValueError for none."""
    if (path / RESULT).is_file():
        return {"": path / RESULT}
    found = {file.parent.name: file for file in sorted(path.glob(f"*/{RESULT}"))}
    if not found:
        raise ValueError(f"{path} holds no finished run: neither {RESULT} nor NAME/{RESULT}")
    return found


def _names(paths: list[Path]) -> list[str]:
    """What the runs are called: the shortest ends of their paths that differ."""
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise ValueError("the same run was given twice")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(part) for part in parts]


def _read(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(result, dict)
    return result
