#!/usr/bin/env bash
# BRPO on Tabletop: the cold start, two seeds in text and two inside COPY, and what came of it: test accuracy before and
# after with paired 95% intervals, and the curves.   recipes/tabletop/brpo.sh [RUNS]   (about an hour on 2 CPU cores)
set -euo pipefail
[ -f recipes/tabletop/brpo.yaml ] || { echo "run this from the root of a clone: it reads recipes/ and writes beside it" >&2; exit 2; }
runs=${1:-runs}
out=recipes/tabletop/results
start=$runs/cold-start/sft/final
rows="--path seed=20261121,length=brief --n 1000 --no-planted --batch 100"
look-again train sft --config recipes/tabletop/cold_start.yaml --output "$runs/cold-start"
mkdir -p "$out"
for mode in text copy; do
  sed "s/^reattention: .*/reattention: $mode/" recipes/tabletop/brpo.yaml > "$runs/brpo-$mode.yaml"
  look-again eval tabletop $rows --model "$start" --reattention "$mode" --out "$runs/eval-$mode/start"
  for seed in 0 1; do
    sed "s/^seed: .*/seed: $seed/" "$runs/brpo-$mode.yaml" > "$runs/brpo-$mode-$seed.yaml"
    run=$runs/brpo-$mode-$seed
    look-again train brpo --config "$run.yaml" --base "$start" --output "$run"
    look-again eval tabletop $rows --model "$run/final" --reattention "$mode" --out "$runs/eval-$mode/seed-$seed"
  done
  (cd "$runs/eval-$mode" && look-again compare start seed-0 seed-1 --json) > "$out/$mode-compared.json"
  python -m look_again.rl.reward_curves "$runs/brpo-$mode-0" "$runs/brpo-$mode-1" --out "$out/$mode"
done
