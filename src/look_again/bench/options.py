"""The options of each part of `look-again bench`, apart from what measures, so that help is quick."""

from __future__ import annotations

import argparse
from pathlib import Path

from look_again.bench.settings import (
    CLOCKS,
    DTYPES,
    RATIOS,
    SHAPES,
    BrpoSettings,
    DecodeSettings,
    EvalSettings,
    ServeSettings,
    SftSettings,
)


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `look-again bench decode`."""
    default = DecodeSettings()
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--shapes", choices=list(SHAPES), default=default.shapes, help="which model's shapes")
    parser.add_argument("--device", default=default.device, help="where it runs, such as cpu or cuda")
    parser.add_argument("--dtype", choices=list(DTYPES), help="of the weights; float32 for tiny, else bfloat16")
    parser.add_argument("--pairs", type=int, default=default.pairs, help="timed pairs per ratio")
    parser.add_argument("--tokens", type=int, default=default.tokens, help="sampled tokens per answer")
    parser.add_argument("--every", type=int, default=default.every, help="sampled tokens per reflection")
    parser.add_argument("--keep", type=int, default=default.keep, help="percentage of rows that ROUTE puts back")
    parser.add_argument("--clock", choices=CLOCKS, default=default.clock, help="wall clock, or processor time (cpu)")
    parser.add_argument("--layers", type=int, help="decoder layers instead of the shapes' own")
    parser.add_argument("--vocabulary", type=int, help="tokens instead of the large shapes' own")
    parser.add_argument("--image-pixels", type=int, help="side of the large shapes' square image")
    parser.add_argument("--only", nargs="+", choices=list(RATIOS), metavar="RATIO", help="measure these ratios alone")


def add_sft_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `look-again bench sft`."""
    default = SftSettings()
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--shapes", choices=list(SHAPES), default=default.shapes, help="which model's shapes")
    parser.add_argument("--device", default=default.device, help="where it runs, such as cpu or cuda")
    parser.add_argument("--dtype", choices=list(DTYPES), help="of the weights; float32 for tiny, else bfloat16")
    parser.add_argument("--pairs", type=int, default=default.pairs, help="timed pairs per ratio")
    parser.add_argument("--rows", type=int, default=default.rows, help="rows of a step")
    parser.add_argument("--reflections", type=int, default=default.reflections, help="reflections of a row")
    parser.add_argument("--keep", type=int, default=default.keep, help="percentage of rows that ROUTE puts back")
    parser.add_argument("--layers", type=int, help="decoder layers instead of the large shapes' own")
    parser.add_argument("--image-pixels", type=int, default=default.image_pixels, help="side of the large image")
    parser.add_argument("--loss-targets", type=int, help="of the loss in chunks; 8192 on a GPU, 4096 on a CPU")


def add_brpo_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `look-again bench brpo`."""
    default = BrpoSettings()
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--answers", type=int, default=default.answers, help="answers that rewards are timed on")
    parser.add_argument("--repeats", type=int, default=default.repeats, help="timings")
    parser.add_argument("--mathematics", type=int, default=default.mathematics, help="answers with free mathematics")
    parser.add_argument("--steps", type=int, default=default.steps, help="timed steps of a run")
    parser.add_argument("--questions", type=int, default=default.questions, help="of a step")
    parser.add_argument("--group", type=int, default=default.group, help="answers per question")
    parser.add_argument("--seed", type=int, default=default.seed, help="of answers and run")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=2000, help="of the timed run (2000)")
    parser.add_argument("--many", type=int, default=40_000, help="of the large runs (40000)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests under way at once (64)")
    parser.add_argument("--folder", type=Path, help="where ledgers are written (a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    default = EvalSettings()
    parser.add_argument("--captions", type=int, default=default.captions, help="for CHAIR (2000)")
    parser.add_argument("--items", type=int, default=default.items, help="of every benchmark (300)")
    parser.add_argument("--answers", type=int, default=default.answers, help="that analyses read (8)")
    parser.add_argument("--tokens", type=int, default=default.tokens, help="per answer at most (512)")
    parser.add_argument("--repeats", type=int, default=default.repeats, help="of every figure (5)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default=default.clock, help="of scoring: processor time (cpu), or wall"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `look-again bench serve`."""
    default = ServeSettings()
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--vllm-url", help="a vLLM server of the shipped model; else LOOK_AGAIN_VLLM_PYTHON starts one")
    parser.add_argument("--conversations", type=int, default=default.conversations, help="at once (16)")
    parser.add_argument("--tokens", type=int, default=default.tokens, help="sampled by vLLM per answer (1200)")
    parser.add_argument("--every", type=int, default=default.every, help="sampled tokens per reflection (300)")
    parser.add_argument("--answer", type=int, default=default.answer, help="tokens of answers in process (200)")
    parser.add_argument("--pairs", type=int, default=default.pairs, help="timed pairs per ratio (3)")
