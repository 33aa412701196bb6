"""`look-again bench serve`: what looking again costs on a vLLM server, and what batching gains in process.

`vllm_copy_over_plain` compares sampled tokens per second of the same backend, server and clients: COPY, whose requests
end at every reflection and go on with the image again, over text, one request per answer. Both arms sample the same
tokens because the logits are biased by far more than they differ: one word for ever and, with COPY, `<REFLECTION>` as
every 300th token, which vLLM's `min_tokens` keeps back until then. So the server itself samples the tag, stops at it
and is asked again, as in any answer. All conversations reflect in the same step, which is the worst case for the
server. Every run asks about images that no run before it showed, so no cache is warm but by the run's own requests.

`batched_over_single` compares the transformers backend's time for the same greedy COPY answers, all at once and one
after the other. The paper measures no throughput; the targets are our own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from look_again.bench.decode_costs import describe_machine
from look_again.bench.http_latency import time_models_requests
from look_again.bench.measure import describe_spread, paired_ratios
from look_again.bench.settings import ServeSettings
from look_again.bench.vllm_process import vllm_process
from look_again.clients.vllm_requests import check_url
from look_again.core.generate import Token
from look_again.core.reattention import Reattention
from look_again.data.image_files import open_image
from look_again.extras import MissingExtraError, require
from look_again.loading import Checkpoint, default_checkpoint, load_checkpoint
from look_again.model import Sampling
from look_again.serving.backend import Backend, Ended, Job
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.tabletop.loader import tabletop_samples
from look_again.text.chat import encode_text
from look_again.text.grammar import open_tag
from look_again.text.instructions import question_messages
from look_again.text.tags import tag_ids

TARGETS = {"vllm_copy_over_plain": 0.8, "batched_over_single": 3.0}
TEXT, COPY = Reattention(mode="text"), Reattention(mode="copy")
BIAS = 1e6  # on logits of the order of ten
NO_VLLM = "vllm_copy_over_plain needs a vLLM server: give --vllm-url, or set LOOK_AGAIN_VLLM_PYTHON"


@dataclass
class Heard:
    """What clients heard in the last run. waits: seconds to each answer's first token."""

    waits: list[float] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return sum(ended.sampled for ended in self.ends) / self.seconds


async def listen(backend: Backend, jobs: Sequence[Job], heard: Heard, together: bool = True) -> None:
    """All answers, at once or one after the other; `heard` is filled anew."""

    async def answer(job: Job) -> None:
        began, first = time.perf_counter(), True
        async for event in backend.generate(job):
            if first and isinstance(event, Token):
                heard.waits.append(time.perf_counter() - began)
                first = False
            if isinstance(event, Ended):
                heard.ends.append(event)

    heard.waits, heard.ends, began = [], [], time.perf_counter()
    if together:
        await asyncio.gather(*map(answer, jobs))
    else:
        for job in jobs:
            await answer(job)
    heard.seconds = time.perf_counter() - began


@contextmanager
def running(loop: asyncio.Runner, backend: Backend) -> Iterator[Backend]:
    loop.run(backend.start())
    try:
        yield backend
    finally:
        loop.run(backend.close())


def batched_over_single(
    checkpoint: Checkpoint, settings: ServeSettings, loop: asyncio.Runner
) -> tuple[list[float], Heard]:
    """Time one by one over time at once, per pair; what was heard in the last run at once."""
    heard, jobs = Heard(), build_jobs(COPY, settings.conversations, 0, settings.answer)
    with running(loop, TransformersBackend(checkpoint, max_batch=settings.conversations)) as backend:
        batched = partial(_run, loop, backend, jobs, heard)
        single = partial(_run, loop, backend, jobs, Heard(), together=False)
        return paired_ratios(single, batched, settings.pairs, _seconds), heard


def copy_over_plain(
    checkpoint: Checkpoint, settings: ServeSettings, loop: asyncio.Runner, url: str
) -> tuple[list[float], dict[str, Heard]]:
    """Tokens per second of COPY over those of text, per pair; what was heard in the last run of each."""
    require("httpx", extra="serve")
    from look_again.serving.vllm.vllm_backend import VllmBackend

    tokenizer, pictures = checkpoint.tokenizer, count(10_000, settings.conversations)
    word, tag = encode_text(tokenizer, " the")[-1], tag_ids(tokenizer)[open_tag("REFLECTION")]
    plain = {"logit_bias": {str(word): BIAS}}
    looks = {"logit_bias": {str(word): BIAS, str(tag): 2 * BIAS}, "min_tokens": settings.every - 1}
    heard, calls = {}, {}
    with ExitStack() as stack:
        for name, policy, extra in (("plain", TEXT, plain), ("copy", COPY, looks)):
            backend = stack.enter_context(running(loop, VllmBackend(checkpoint, [url], extra_sampling=extra)))
            heard[name] = Heard()
            calls[name] = partial(_fresh, loop, backend, policy, pictures, settings, heard[name])
        ratios = paired_ratios(calls["plain"], calls["copy"], settings.pairs, _seconds)
    _check_plan(heard, settings)
    return ratios, heard


def build_jobs(policy: Reattention, n: int, first: int, tokens: int) -> list[Job]:
    """Greedy answers to n questions of Tabletop from number `first` on, each about an image of its own."""
    return [
        Job(
            messages=question_messages(row.question, len(row.images)),
            images=[open_image(image) for image in row.images],
            policy=policy,
            sampling=Sampling(max_new_tokens=tokens),
            conversation=str(row.id),
        )
        for row in tabletop_samples("train", 2, range(first, first + n))
    ]


def _fresh(
    loop: asyncio.Runner,
    backend: Backend,
    policy: Reattention,
    pictures: Iterator[int],
    settings: ServeSettings,
    heard: Heard,
) -> float:
    return _run(loop, backend, build_jobs(policy, settings.conversations, next(pictures), settings.tokens), heard)


def _run(loop: asyncio.Runner, backend: Backend, jobs: Sequence[Job], heard: Heard, together: bool = True) -> float:
    """Seconds."""
    loop.run(listen(backend, jobs, heard, together))
    return heard.seconds


def _seconds(call: Callable[[], float]) -> float:
    """A run times itself, without the drawing of its images."""
    return call()


def _check_plan(heard: dict[str, Heard], settings: ServeSettings) -> None:
    looks = settings.tokens // settings.every - 1
    for name, times in (("plain", 0), ("copy", looks)):
        for ended in heard[name].ends:
            done = sum(bool(reflection.visual_indices) for reflection in ended.reflections)
            assert (ended.sampled, done) == (settings.tokens, times), f"{name} did not go as planned: {ended}"


@contextmanager
def served(args: argparse.Namespace, settings: ServeSettings) -> Iterator[str | None]:
    """The URL of the vLLM server to measure, None where there is none."""
    python = os.environ.get("LOOK_AGAIN_VLLM_PYTHON")
    if args.vllm_url or not python:
        yield args.vllm_url
        return
    options = ["--dtype", "float32", "--max-num-seqs", str(settings.conversations), "--max-model-len", "4096"]
    paths = [path for path in [os.environ.get("LOOK_AGAIN_VLLM_PYTHONPATH")] if path]
    with (
        tempfile.TemporaryDirectory() as folder,
        vllm_process(python, default_checkpoint(), Path(folder), options, pythonpath=paths) as server,
    ):
        yield server.url


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure: ratios, spread, tokens_per_second, time_to_first_token_s, models_request_s, targets, notes, settings.

    First what a vLLM server may refuse. ValueError for settings out of range, BackendError for a server that is none.
    """
    if args.vllm_url:
        check_url(args.vllm_url)
    settings = ServeSettings(**{name.name: getattr(args, name.name) for name in fields(ServeSettings)})
    checkpoint = load_checkpoint(None, device="cpu", dtype="float32")
    with asyncio.Runner() as loop:
        samples, heard, notes = dict[str, list[float]](), dict[str, Heard](), list[str]()
        with served(args, settings) as url:
            if url is None:
                notes.append(NO_VLLM)
            else:
                samples["vllm_copy_over_plain"], by_vllm = copy_over_plain(checkpoint, settings, loop, url)
                heard |= {f"vllm_{name}": found for name, found in by_vllm.items()}
        samples["batched_over_single"], heard["transformers"] = batched_over_single(checkpoint, settings, loop)
        models = measure_http(checkpoint, loop, notes)
    return {
        "ratios": {name: statistics.median(samples[name]) if name in samples else None for name in TARGETS},
        "spread": {name: describe_spread(found) for name, found in samples.items()},
        "tokens_per_second": {name: found.tokens_per_second for name, found in heard.items()},
        "time_to_first_token_s": {name: summarise_waits(found.waits) for name, found in heard.items()},
        "models_request_s": models,
        "targets": TARGETS,
        "notes": notes,
        "settings": asdict(settings) | describe_machine(torch.device("cpu")),
    }


def measure_http(checkpoint: Checkpoint, loop: asyncio.Runner, notes: list[str]) -> dict[str, float] | None:
    """`summarise_waits` of GET /v1/models over one connection; None, with a note, without the extra."""
    try:
        require("fastapi", extra="serve")
        require("httpx", extra="serve")
    except MissingExtraError as error:
        notes.append(f"models_request_s: {error}")
        return None
    return summarise_waits(loop.run(time_models_requests(TransformersBackend(checkpoint))))


def summarise_waits(waits: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile, interpolated between the samples."""
    quantiles = statistics.quantiles(waits, n=20, method="inclusive") if len(waits) > 1 else list(waits) * 19
    return {"p50": quantiles[9], "p95": quantiles[18]}


def table(result: dict[str, Any]) -> str:
    """A result for people."""
    lines = [f"{'':28}{'measured':>10}{'target':>10}"]
    for name, target in result["targets"].items():
        value = result["ratios"][name]
        lines.append(f"{name:28}{'-' if value is None else f'{value:.3f}':>10}{target:>10g}")
    lines += ["", f"{'':28}{'tokens/s':>10}{'first token: p50':>18}{'p95':>9}"]
    for name, rate in result["tokens_per_second"].items():
        waits = result["time_to_first_token_s"][name]
        lines.append(f"{name:28}{rate:>10.0f}{waits['p50']:>16.3f} s{waits['p95']:>7.3f} s")
    if models := result["models_request_s"]:
        text = f"GET /v1/models, one connection: p50 {1000 * models['p50']:.1f} ms, p95 {1000 * models['p95']:.1f} ms"
        lines += ["", text]
    return "\n".join([*lines, *result["notes"]])
