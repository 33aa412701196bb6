"""64 streams at once for minutes, a tenth of them left early: no error, no growth, and every answer as if asked alone.

LOOK_AGAIN_SOAK_SECONDS=300 python -m pytest -s tests/soak/test_serving_soak.py
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from look_again.core.generate import Reflection, Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.evaluation.benchmark import DataLocation
from look_again.images import load_image
from look_again.loading import load_checkpoint
from look_again.model import Sampling
from look_again.serving.backend import BackendEvent, Job
from look_again.serving.prompt import build_prompt
from look_again.tabletop.tabletop_benchmark import load_free
from look_again.text.chat import encode_response
from tests.serving.ties import same_but_for_ties
from tests.soak.fuzz_corpus import data_url
from tests.soak.served_command import Served, look_again_server

SECONDS = float(os.environ.get("LOOK_AGAIN_SOAK_SECONDS", "300"))
STREAMS, QUESTIONS, LEAVING = 64, 12, 0.1
WARM_UP = 0.25  # of the time
MAX_TOKENS = 160
POLICIES = (Reattention(), Reattention(mode="route", keep=25), Reattention(mode="text"))
CHAT = "/v1/chat/completions"


@dataclass
class Question:
    """alone: what the server says when nothing else is asked."""

    text: str
    image: bytes
    policy: Reattention
    alone: Answer | None = None

    @property
    def body(self) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(self.image)}},
            {"type": "text", "text": self.text},
        ]
        options = {"reattention": self.policy.mode, "content": "all", "rows": True}
        return {
            "model": "soaked",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": MAX_TOKENS,
            "stream": True,
            "look_again": options | ({"keep": self.policy.keep} if self.policy.mode == "route" else {}),
        }


@dataclass(frozen=True)
class Answer:
    """text: tagged. reflections: as the server reports them."""

    text: str
    reflections: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass
class Account:
    finished: int = 0
    left: int = 0
    tokens: int = 0
    ties: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    different: list[tuple[Question, Answer]] = field(default_factory=list)
    resident_mib: list[tuple[float, float]] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)


def questions() -> list[Question]:
    items = load_free(DataLocation(path="seed=3", split="test", images=None, limit=QUESTIONS))
    return [Question(item.prompt, item.images[0].read(), POLICIES[i % 3]) for i, item in enumerate(items)]


async def ask(client: httpx.AsyncClient, question: Question, account: Account, leave_after: float) -> Answer | None:
    """A streamed answer; None for one that was left after so many events. Raises for anything that is not an answer."""
    text, reflections, done, events, started = "", [], False, 0, time.monotonic()
    async with client.stream("POST", CHAT, json=question.body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"status {response.status_code}")
        async for line in response.aiter_lines():
            if not line:
                continue
            events += 1
            if events > leave_after:
                return None
            if line == "data: [DONE]":
                done = True
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            delta = chunk["choices"][0]["delta"].get("content") or ""
            if delta and not text:
                account.first_token_s.append(time.monotonic() - started)
            text += delta
            if "reattention" in chunk.get("look_again", {}):
                reflections = chunk["look_again"]["reflections"]
    if not done:
        raise RuntimeError("a stream without an end")
    return Answer(text, tuple((one["at"], tuple(one["rows"])) for one in reflections))


async def keep_asking(
    client: httpx.AsyncClient, asked: list[Question], account: Account, seed: int, until: float
) -> None:
    draw = random.Random(seed)
    while time.monotonic() < until:
        question = draw.choice(asked)
        leave_after = draw.randint(1, 60) if draw.random() < LEAVING else math.inf
        try:
            answer = await ask(client, question, account, leave_after)
        except Exception as error:
            account.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            await asyncio.sleep(0.5)
            continue
        if answer is None:
            account.left += 1
            continue
        account.finished += 1
        if answer != question.alone:
            account.different.append((question, answer))


async def watch(server: Served, account: Account, until: float) -> None:
    while time.monotonic() < until:
        account.resident_mib.append((time.monotonic(), server.resident_mib))
        await asyncio.sleep(1)


async def soak(server: Served, asked: list[Question], account: Account) -> None:
    limits = httpx.Limits(max_connections=STREAMS + 4)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        for question in asked:
            question.alone = await ask(client, question, Account(), math.inf)
        until = time.monotonic() + SECONDS
        streams = [keep_asking(client, asked, account, seed, until) for seed in range(STREAMS)]
        await asyncio.gather(watch(server, account, until), *streams)


def events_of(answer: Answer, checkpoint: Any) -> list[BackendEvent]:
    """An answer's text and reflections as the events that made them."""
    tags = {tag: checkpoint.tokenizer.convert_tokens_to_ids(tag) for tag in checkpoint.tokenizer.get_added_vocab()}
    ids, _ = encode_response(checkpoint.tokenizer, answer.text, tags)
    rows_at = dict(answer.reflections)
    events: list[BackendEvent] = []
    for at, token in enumerate(ids):
        if rows_at.get(at):
            events.append(Reinsertion(0, Reflection("copy", rows_at[at], at=at)))
        events.append(Token(0, token))
    return events


def judge(account: Account) -> list[str]:
    """Answers that differ from the one alone by more than a tie."""
    if not account.different:
        return []
    checkpoint = load_checkpoint(device="cpu")
    wrong = []
    for question, answer in account.different:
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
        job = Job(messages=messages, images=[load_image(question.image)], policy=question.policy, sampling=Sampling())
        prompt = build_prompt(checkpoint, job, checkpoint.model.config, 4096)
        pair = [events_of(one, checkpoint) for one in (question.alone, answer)]
        if same_but_for_ties(checkpoint, prompt, question.policy, *pair):
            account.ties += 1
        else:
            wrong.append(f"{question.policy.mode}: {question.alone}\n  {answer}")
    return wrong


def growth(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """Memory after the warm-up and at the end: medians of a tenth of the time each."""
    start, end = samples[0][0], samples[-1][0]
    tenth, warm = (end - start) / 10, start + WARM_UP * (end - start)
    after = statistics.median(mib for at, mib in samples if warm <= at < warm + tenth)
    last = statistics.median(mib for at, mib in samples if at >= end - tenth)
    return after, last


def test_streams_for_minutes(tmp_path: Any) -> None:
    account, asked = Account(), questions()
    with look_again_server(tmp_path, "--served-name", "soaked", "--max-concurrent", str(STREAMS + 8)) as server:
        asyncio.run(soak(server, asked, account))
        well = httpx.get(f"{server.url}/health").json()
    wrong = judge(account)
    after, last = growth(account.resident_mib)
    print(f"{account.finished} answers finished, {account.left} left early, {sum(account.errors.values())} errors")
    print(f"{len(account.different)} differ from the answer alone, {account.ties} of them by a tie")
    print(f"memory {after:.0f} MiB after the warm-up, {last:.0f} MiB at the end: {100 * (last / after - 1):+.2f} %")
    print(f"time to first token: median {statistics.median(account.first_token_s):.2f} s")
    assert not account.errors, account.errors
    assert not wrong, "\n".join(wrong[:5])
    assert account.finished > STREAMS
    assert account.left > 0
    assert last <= 1.02 * after
    assert well["status"] == "ok"
