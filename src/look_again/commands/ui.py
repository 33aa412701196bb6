"""`look-again ui`: a page on which one asks about an image and sees what the answer looked at."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from look_again.commands.common import (
    VLLM_KEY_VARIABLE,
    add_backend_arguments,
    add_model_arguments,
    check_backend,
    check_port,
    load_model,
)

PORT = 7861


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_backend_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to bind; others than this machine's need a password"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"({PORT})")
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE", help="file whose first line is the page's password"
    )


def run(args: argparse.Namespace) -> int:
    from look_again.extras import require

    require("gradio", extra="ui")
    check_port(args.port)
    from look_again.ui.app import make_app, read_access, serve
    from look_again.ui.workspace import Workspace

    access = read_access(args.host, args.password_file)
    check_backend(args)
    workspace = Workspace(_backend(args), args.model)
    app = make_app(workspace, access, args.port)
    asyncio.run(serve(app, workspace, args.host, args.port))
    return 0


def _backend(args: argparse.Namespace) -> Any:
    """The model is loaded for both: beside vLLM it ranks for ROUTE and measures what was looked at."""
    checkpoint = load_model(args).checkpoint
    if args.backend == "vllm":
        from look_again.serving.vllm.vllm_backend import VllmBackend

        return VllmBackend(checkpoint, args.vllm_url, api_key=os.environ.get(VLLM_KEY_VARIABLE))
    from look_again.serving.engine.transformers_backend import TransformersBackend

    return TransformersBackend(checkpoint)
