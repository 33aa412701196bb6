#!/bin/sh
# Measures one GPU in less than nine minutes, most important first; each result is written as it comes.
#   benchmarks/gpu.sh [--device cpu --small] [--out gpu.jsonl]
exec "${PYTHON:-python}" -m look_again.bench.gpu_run "$@"
