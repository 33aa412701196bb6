"""The judge of `look-again eval`: any endpoint, and which fields it is sent.

Endpoints differ in what they take (some refuse max_tokens, some any temperature), so each field can be changed.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

JUDGE_TOKENS = 1024


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge-url", metavar="URL", help="endpoint of the judge, where a benchmark needs one")
    parser.add_argument("--judge-model", metavar="NAME", help="the judge")
    parser.add_argument(
        "--judge-request",
        type=json.loads,
        default={},
        metavar="JSON",
        help="further fields of each request to the judge; null takes one of ours out",
    )


def build_judge(args: argparse.Namespace) -> Any:
    """The endpoint that judges. ValueError where it is not named, or its fields are no JSON object."""
    from look_again.evaluation.endpoint_subject import EndpointJudge, greedy_endpoint

    if not args.judge_url or not args.judge_model:
        raise ValueError("this benchmark is scored by a judge: give --judge-url and --judge-model")
    return EndpointJudge(
        greedy_endpoint(
            args.judge_url,
            args.judge_model,
            max_new_tokens=JUDGE_TOKENS,
            retries=args.retries,
            request=args.judge_request,
        )
    )
