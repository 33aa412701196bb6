"""`look-again serve`: an OpenAI-compatible server that looks again, in this process or in front of vLLM servers."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from look_again.commands.common import (
    VLLM_KEY_VARIABLE,
    add_backend_arguments,
    add_compile_argument,
    add_model_arguments,
    add_reattention_arguments,
    build_load_options,
    build_reattention,
    check_backend,
    check_port,
)
from look_again.core.modes import COMPARISON_MODES
from look_again.extras import require
from look_again.serving.http.limits import Limits

DEFAULT = Limits()
SAMPLE = "examples/table.png"  # of a clone
QUESTION = "What is in this picture?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_compile_argument(parser)
    parser.add_argument("--served-name", metavar="NAME", help="what requests call the model (default: its own name)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8300, help="0 takes a free one (8300)")
    _add_backend_arguments(parser)
    add_reattention_arguments(parser)
    answers = parser.add_argument_group("answers, unless a request says otherwise (as the re-attention above)")
    answers.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (0)")
    answers.add_argument(
        "--content", choices=("conclusion", "all"), default="conclusion", help="what `content` holds (conclusion)"
    )
    _add_access_arguments(parser)
    _add_limit_arguments(parser)
    parser.add_argument("--log-level", default="warning", choices=("debug", "info", "warning", "error"))


def _add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("backend")
    add_backend_arguments(group)
    group.add_argument("--max-batch", type=int, default=16, metavar="N", help="answers decoded together here (16)")
    group.add_argument(
        "--vllm-only", action="store_true", help="do not load the model here as well: no route, less memory"
    )
    group.add_argument(
        "--vllm-trust-users",
        action="store_true",
        help="take servers without the token endpoint, which read special tokens out of texts; texts that spell "
        "one get 400",
    )


def _add_access_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("access; a key may also come from $LOOK_AGAIN_API_KEY")
    group.add_argument("--api-keys", type=Path, metavar="FILE", help="a key per line")
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="host name to answer to, beside local ones"
    )
    group.add_argument(
        "--allow-image-host", action="append", default=[], metavar="HOST", help="fetch image URLs of this host"
    )


def _add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")

    def limit(flag: str, field: str, metavar: str, text: str, kind: type = int) -> None:
        default = getattr(DEFAULT, field)
        group.add_argument(flag, dest=field, type=kind, default=default, metavar=metavar, help=f"{text} ({default})")

    limit("--max-body-bytes", "body_bytes", "N", "of a request")
    limit("--max-bodies-bytes", "bodies_bytes", "N", "of all requests under way together; further ones get 429")
    limit("--max-image-bytes", "image_bytes", "N", "of one image, encoded")
    limit("--max-image-pixels", "pixels", "N", "of a request's images together")
    limit("--max-images", "images", "N", "of a request; a video is one")
    limit("--max-video-bytes", "video_bytes", "N", "of one video, encoded")
    limit("--max-video-s", "video_s", "S", "of one video", float)
    limit("--max-video-frames", "video_frames", "N", "taken of one video")
    limit("--max-characters", "text_characters", "N", "of a request's texts")
    limit("--max-tokens", "max_tokens", "N", "that a request may ask for; None: what the context holds")
    limit("--default-tokens", "default_tokens", "N", "of a request without max_tokens")
    limit("--max-choices", "choices", "N", "n of a request")
    limit("--max-concurrent", "concurrency", "N", "requests answered at once")
    limit("--max-queue", "queue", "N", "requests waiting; further ones get 429")
    limit("--timeout-s", "timeout_s", "S", "for a whole request", float)
    limit("--body-timeout-s", "body_timeout_s", "S", "to receive a request", float)
    limit("--image-timeout-s", "image_timeout_s", "S", "to fetch an image", float)
    limit("--grace-s", "grace_s", "S", "for running requests at shutdown", float)


def run(args: argparse.Namespace) -> int:
    for package in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
        require(package, extra="serve")
    _check(args)
    from look_again.serving.http.server_process import bind, log_to_stderr
    from look_again.web.access import build_access, read_keys

    limits = Limits(**{name: getattr(args, name) for name in Limits.__dataclass_fields__})
    access = build_access(args.host, read_keys(args.api_keys, os.environ), args.allow_host)
    log_to_stderr(args.log_level)
    with bind(args.host, args.port) as listening:
        asyncio.run(_serve(args, limits, access, listening))
    return 0


def _check(args: argparse.Namespace) -> None:
    check_backend(args)
    mode = (args.reattention or ("",))[0]
    if mode in COMPARISON_MODES:
        raise ValueError(f"{mode} is a comparison of ask and eval: a server's client sends such messages itself")
    if args.backend == "vllm" and args.ranking not in (None, "relevance"):
        raise ValueError(f"--ranking {args.ranking} needs the visual features, which stay inside the vLLM server")
    if args.backend != "vllm" and (args.vllm_only or args.vllm_trust_users):
        raise ValueError("--vllm-only and --vllm-trust-users belong to --backend vllm")
    check_port(args.port)
    if args.temperature != 0 and not 0.01 <= args.temperature <= 2:  # what `Sampling` and OpenAI's interface take
        raise ValueError(f"the temperature is 0 (greedy) or from 0.01 to 2, not {args.temperature}")


async def _serve(args: argparse.Namespace, limits: Limits, access: Any, listening: Any) -> None:
    from look_again.serving.http.chat_jobs import Defaults
    from look_again.serving.http.image_fetching import ImageFetcher
    from look_again.serving.http.routes import create_app
    from look_again.serving.http.server_process import build_server, format_url
    from look_again.serving.http.service import Service
    from look_again.web.access import is_local

    fetcher = ImageFetcher(args.allow_image_host, max_bytes=limits.image_bytes, timeout_s=limits.image_timeout_s)
    _say(f"loading {args.model or 'the shipped model'} …")
    backend = _backend(args)
    name = args.served_name or backend.checkpoint.name
    defaults = Defaults(
        name=name, policy=build_reattention(args), temperature=args.temperature, everything=args.content == "all"
    )
    scope = backend.checkpoint.scope
    for note in (*backend.checkpoint.notes, *([scope.about] if scope else [])):
        _say(f"note: {note}")
    if not is_local(args.host) and not access.closed:
        _say(f"warning: anybody who can reach {args.host} can use this server; give it --api-keys FILE")
    await backend.start()
    url = format_url(listening)
    app = create_app(Service(backend, defaults, limits, fetcher), access)
    line = _first_line(url, name, access.closed, scope.questions[0] if scope else QUESTION)
    await build_server(app, limits, lambda: print(line, flush=True)).serve(sockets=[listening])


def _backend(args: argparse.Namespace) -> Any:
    """The backend that the arguments name, not started."""
    from look_again.core.cpu_threads import set_decoding_threads
    from look_again.loading import load_checkpoint

    def load() -> Any:
        checkpoint = load_checkpoint(args.model, build_load_options(args))
        set_decoding_threads(checkpoint.model)
        return checkpoint

    if args.backend == "transformers":
        from look_again.serving.engine.transformers_backend import TransformersBackend

        return TransformersBackend(load(), max_batch=args.max_batch)
    from look_again.serving.vllm.served_model import load_without_model
    from look_again.serving.vllm.vllm_backend import VllmBackend

    if args.vllm_only:
        checkpoint, served = load_without_model(args.model, build_load_options(args))
    else:
        checkpoint, served = load(), None
    key = os.environ.get(VLLM_KEY_VARIABLE)
    return VllmBackend(checkpoint, args.vllm_url, served, trust_users=args.vllm_trust_users, api_key=key)


def _first_line(url: str, name: str, keys: bool, question: str) -> str:
    """Where it is, and a command to try it with about a picture; its body goes through a pipe, so that any fits."""
    header = "-H 'Authorization: Bearer KEY' " if keys else ""
    picture = SAMPLE if Path(SAMPLE).is_file() else "picture.png"
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,@"}}
    content = [image, {"type": "text", "text": question}]
    before, after = json.dumps({"model": name, "messages": [{"role": "user", "content": content}]}).split("@")
    body = f"(printf %s {shlex.quote(before)}; base64 < {picture} | tr -d '\\n'; printf %s {shlex.quote(after)})"
    post = f"curl {url}/v1/chat/completions {header}-H 'Content-Type: application/json' --data-binary @-"
    return f"{url}/v1 serves {name}; try: {body} | {post}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
