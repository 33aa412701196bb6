"""`lookagain bench decode`: ratios of times and sizes, measured side by side."""

from __future__ import annotations

import argparse

from lookagain.commands.common import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from lookagain.bench import decode

    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    decode_parser = benchmarks.add_parser(
        "decode", help="the decoding loop: re-attention against text, loop against library"
    )
    decode.add_arguments(decode_parser)


def run(args: argparse.Namespace) -> int:
    from lookagain.bench import decode

    result = decode.run(args)
    if args.json:
        print_json(result)
    else:
        print(decode.table(result))
    return 0
