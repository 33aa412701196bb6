"""`look-again bench decode|sft|brpo|data|eval|serve`: ratios of times and sizes, measured side by side."""

from __future__ import annotations

import argparse

from look_again.commands.common import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from look_again.bench import (
        brpo_costs as brpo,
    )
    from look_again.bench import (
        data_costs as data,
    )
    from look_again.bench import (
        decode_costs as decode,
    )
    from look_again.bench import (
        eval_costs as eval,
    )
    from look_again.bench import (
        serve_costs as serve,
    )
    from look_again.bench import (
        sft_costs as sft,
    )

    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    about = "the decoding loop: re-attention against text, loop against library"
    decode.add_arguments(benchmarks.add_parser("decode", help=about))
    about = "a training step: re-attention against the image repeated in the answer"
    sft.add_arguments(benchmarks.add_parser("sft", help=about))
    about = "the data engine's own overhead: rows per second, memory, resuming"
    data.add_arguments(benchmarks.add_parser("data", help=about))
    about = "the rewards of BRPO, and where the time of a step goes"
    brpo.add_arguments(benchmarks.add_parser("brpo", help=about))
    about = "what scoring and analysing answers cost"
    eval.add_arguments(benchmarks.add_parser("eval", help=about))
    about = "serving: looking again on vLLM, batching in process, time to the first token"
    serve.add_arguments(benchmarks.add_parser("serve", help=about))


def run(args: argparse.Namespace) -> int:
    from look_again.bench import (
        brpo_costs as brpo,
    )
    from look_again.bench import (
        data_costs as data,
    )
    from look_again.bench import (
        decode_costs as decode,
    )
    from look_again.bench import (
        eval_costs as eval,
    )
    from look_again.bench import (
        serve_costs as serve,
    )
    from look_again.bench import (
        sft_costs as sft,
    )

    bench = {"decode": decode, "sft": sft, "brpo": brpo, "data": data, "eval": eval, "serve": serve}[args.benchmark]
    result = bench.run(args)
    if args.json:
        print_json(result)
    else:
        print(bench.table(result))
    return 0
