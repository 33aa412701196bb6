#!/usr/bin/env bash
# The twins, seed by seed (each can be killed and goes on), and the study of distance over each three.
# recipes/tabletop/twins/train.sh [SEEDS, such as "0 1 2"] [RUNS]
set -euo pipefail
[ -f recipes/tabletop/twins/long_text.yaml ] || { echo "run this from the root of a clone: it reads recipes/ and writes beside it" >&2; exit 2; }
seeds=${1:-0 1 2}
runs=${2:-runs/twins}
mkdir -p "$runs"
for seed in $seeds; do
  for twin in short_text long_text short_copy long_copy; do
    run=$runs/$twin-$seed
    sed "s/^seed: .*/seed: $seed/" "recipes/tabletop/twins/$twin.yaml" > "$run.yaml"
    look-again train sft --config "$run.yaml" --output "$run"
  done
done
for twin in short_text long_text short_copy long_copy; do
  models=()
  for seed in $seeds; do models+=(--model "$runs/$twin-$seed/long/final"); done
  look-again study distance --out "$runs/distance-$twin" "${models[@]}" --arms text,copy,wrong-image --n 100
done
