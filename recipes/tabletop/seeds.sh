#!/usr/bin/env bash
# Counterparts of the paper's tables 4, 5 and 6 on Tabletop: text, COPY and ROUTE arms trained by BRPO from one cold start
# with three seeds each, re-attention that was not trained, ROUTE by m, and the wrong image's rows; then the table of
# docs/results/arms.md.   recipes/tabletop/seeds.sh [RUNS]   (two hours on 2 CPU cores; goes on after a kill, and after brpo.sh)
set -euo pipefail
[ -f recipes/tabletop/brpo.yaml ] || { echo "run this from the root of a clone: it reads recipes/ and writes beside it" >&2; exit 2; }
runs=${1:-runs}
start=$runs/cold-start/sft/final
[ -d "$start" ] || look-again train sft --config recipes/tabletop/cold_start.yaml --output "$runs/cold-start"
answer() {
  out=$1
  shift
  [ -f "$runs/eval-$out/tabletop/result.json" ] ||
    look-again eval tabletop --path seed=20261121,length=brief --n 1000 --no-planted --batch 100 --out "$runs/eval-$out" "$@"
}
for mode in text copy route; do
  answer "$mode/start" --model "$start" --reattention "$mode"
  for seed in 0 1 2; do
    run=$runs/brpo-$mode-$seed
    sed "s/^reattention: .*/reattention: $mode/; s/^seed: .*/seed: $seed/" recipes/tabletop/brpo.yaml > "$run.yaml"
    [ -d "$run/final" ] || look-again train brpo --config "$run.yaml" --base "$start" --output "$run"
    answer "$mode/seed-$seed" --model "$run/final" --reattention "$mode"
  done
done
for seed in 0 1 2; do
  for mode in copy route; do
    answer "untrained-$mode/seed-$seed" --model "$runs/brpo-text-$seed/final" --reattention "$mode"
  done
  for keep in 25 75 100; do
    answer "route-$keep/seed-$seed" --model "$runs/brpo-route-$seed/final" --reattention route --keep "$keep"
  done
  for mode in text copy; do
    answer "$mode-wrong-image/seed-$seed" --model "$runs/brpo-$mode-$seed/final" --reattention copy --control wrong-image
  done
done
python docs/make_arms.py "$runs"
