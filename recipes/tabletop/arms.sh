#!/usr/bin/env bash
# Three models that differ in their reflections alone (text, COPY, ROUTE), trained from one base with equal steps, then
# measured; one JSON per arm.   recipes/tabletop/arms.sh [BASE, the captions stage of tiny.yaml] [RUNS]
set -euo pipefail
[ -f recipes/tabletop/brpo.yaml ] || { echo "run this from the root of a clone: it reads recipes/ and writes beside it" >&2; exit 2; }
base=${1:-runs/tiny/captions/final}
runs=${2:-runs}
out=docs/results/tabletop-arms
mkdir -p "$out"
measure() {
  name=$1
  mode=$2
  shift 2
  look-again eval tabletop --n 1000 --seed 20261121 --batch 100 --json \
    --model "$runs/arm-$mode/answers/final" --reattention "$mode" "$@" > "$out/$name.json.part"
  mv "$out/$name.json.part" "$out/$name.json"
}
for mode in text copy route; do
  look-again train sft --config "recipes/tabletop/sft_$mode.yaml" --base "$base" --output "$runs/arm-$mode"
  measure "$mode" "$mode"
  [ "$mode" = text ] || measure "$mode-wrong-image" "$mode" --control wrong-image
done
python docs/make_tables.py
