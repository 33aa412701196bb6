"""A plan of three small stages that need nothing but Python: numbers, their double, and one that nothing else needs."""

from __future__ import annotations

from pathlib import Path

NUMBER = """
import pathlib, sys, yaml
pathlib.Path(sys.argv[2]).write_text(str(yaml.safe_load(open(sys.argv[1]))["value"]))
"""
DOUBLE = """
import json, pathlib, sys
n = 2 * int(pathlib.Path(sys.argv[1]).read_text())
items = [{"id": "a", "strict": 1.0}]
pathlib.Path(sys.argv[2]).write_text(json.dumps({"metrics": {"n": n}, "items": items}))
"""
OTHER = """
import pathlib, sys
pathlib.Path(sys.argv[1]).write_text("x")
"""
PLAN = """
name: small
about: three stages
stages:
  - name: numbers
    step: 1
    about: writes a number
    run: ["python {code}/number.py {recipe} {out}/n.txt"]
    recipe: numbers.yaml
    makes: n.txt
  - name: double
    step: 2
    about: doubles it, with a seed
    run: ["python {code}/double.py {numbers}/n.txt {out}/result.json {seed}"]
    makes: result.json
    seeds: [0, 1]
    facts: {doubled: "result.json#metrics.n"}
  - name: other
    step: 2
    about: needs nothing
    run: ["python {code}/other.py {out}/x.txt"]
    makes: x.txt
tables:
  - title: doubles
    metrics: {n: metrics.n}
    against: double
    rows:
      - {name: double, result: "{double-{seed}}/result.json", paper: {MMMU: 58.6}}
    says: nothing
quick:
  seeds: [0]
"""


def write_small_plan(folder: Path) -> Path:
    """The plan's file, with its recipe and the code of its commands beside it."""
    folder.mkdir()
    (folder / "numbers.yaml").write_text("value: 21\n")
    for name, code in (("number", NUMBER), ("double", DOUBLE), ("other", OTHER)):
        (folder / f"{name}.py").write_text(code)
    (folder / "small.yaml").write_text(PLAN.replace("{code}", str(folder)))
    return folder / "small.yaml"
