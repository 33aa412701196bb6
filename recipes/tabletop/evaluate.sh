#!/usr/bin/env bash
# The figures of the shipped model's card: one JSON per arm, then the table.   recipes/tabletop/evaluate.sh [MODEL]
set -euo pipefail
[ -f recipes/tabletop/brpo.yaml ] || { echo "run this from the root of a clone: it reads recipes/ and writes beside it" >&2; exit 2; }
out=docs/results/tabletop-tiny
model=${1:+--model $1}
arm() {
  name=$1
  shift
  # shellcheck disable=SC2086
  look-again eval tabletop --n 500 --seed 20261121 --batch 100 --json $model "$@" > "$out/$name.json.part"
  mv "$out/$name.json.part" "$out/$name.json"
}
mkdir -p "$out"
arm copy --reattention copy
arm text --reattention text
arm route --reattention route
arm copy-heldout --reattention copy --split heldout
arm copy-wrong-image --reattention copy --control wrong-image
arm route-random-rows --reattention route --control random-rows
arm route-relative --reattention route --rule relative
python docs/make_tables.py
