"""The backend in this process: equal to `ask`, fair, bounded, and still there after whatever goes wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

import look_again
from look_again.core.families import find_family
from look_again.core.generate import Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.loading import Checkpoint
from look_again.model import LookAgain, Sampling
from look_again.serving.backend import (
    BackendError,
    BackendEvent,
    Ended,
    Job,
    RefusedError,
    Started,
)
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.serving.prompt import build_prompt
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample
from tests.serving.ties import same_but_for_ties
from tests.tiny_model import response_slots

LIMIT_S = 120.0
Events = list[BackendEvent]


@pytest.fixture(scope="module")
def tiny(model, tokenizer) -> Checkpoint:
    """A random model: fast, and it never stops by itself."""
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28**2, "longest_edge": 64 * 28**2})
    return Checkpoint("random", model, tokenizer, processor, find_family(model.config), True)


def noise(width: int = 84, height: int = 56) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


def job_of(text: str, images: Sequence[Image.Image], policy: Reattention | None = None, **sampling: Any) -> Job:
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return Job(
        messages=[{"role": "user", "content": content}],
        images=images,
        policy=policy or Reattention(),
        sampling=Sampling(**sampling),
    )


async def collect(backend: TransformersBackend, job: Job, after: Awaitable[Any] | None = None) -> Events:
    if after is not None:
        await after
    return [event async for event in backend.generate(job)]


def run(checkpoint: Checkpoint, scenario: Callable[[TransformersBackend], Any], **options: Any) -> Any:
    """The result of a scenario on a started backend, which is closed afterwards."""

    async def whole() -> Any:
        backend = TransformersBackend(checkpoint, **options)
        await backend.start()
        try:
            return await scenario(backend)
        finally:
            await backend.close()

    return asyncio.run(asyncio.wait_for(whole(), LIMIT_S))


async def until(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.002)


def tokens_of(events: Events) -> list[int]:
    return [event.token_id for event in events if isinstance(event, Token)]


@contextmanager
def failing(model: Any, when: Callable[[int, int], bool]) -> Iterator[list[tuple[int, int]]]:
    """The first pass of the language model whose (rows, slots) satisfy `when` fails, as if memory ran out."""
    failed: list[tuple[int, int]] = []

    def fail(module: Any, args: Any, options: dict[str, Any]) -> None:
        rows, slots = options["inputs_embeds"].shape[:2]
        if not failed and when(rows, slots):
            failed.append((rows, slots))
            raise torch.OutOfMemoryError("no room")

    hook = model.base_model.language_model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield failed
    finally:
        hook.remove()


# --- equal to ask


POLICIES = [
    Reattention(mode="copy"),
    Reattention(mode="route", keep=40),
    Reattention(mode="text"),
    Reattention(mode="vision"),
    Reattention(mode="route", layout="strip", rule="relative"),
]


def test_mixed_requests_that_arrive_one_after_the_other_equal_ask():
    """Would catch an answer that depends on who else is in the batch, or a prompt other than `ask` makes.

    The shipped model answers Tabletop questions and reflects by itself. Each request comes after some tokens of the
    first; the last is drawn with a seed.
    """
    look = look_again.load()
    rows = [make_sample("test", 0, i, length="brief", reflections=1, error_rate=0.0) for i in range(len(POLICIES) + 1)]
    sampling = [{"max_new_tokens": 60}] * len(POLICIES) + [
        {"max_new_tokens": 60, "temperature": 0.8, "top_p": 0.9, "seed": 3}
    ]
    jobs = [
        job_of(row.prompt, [render(row.scene)], policy, **options)
        for row, policy, options in zip(rows, [*POLICIES, Reattention()], sampling, strict=True)
    ]

    async def arrive(backend: TransformersBackend) -> list[Events]:
        at = [until(lambda n=5 * i: backend.gauges()["tokens_sampled"] >= n) for i in range(len(jobs))]
        return await asyncio.gather(*(collect(backend, job, gate) for job, gate in zip(jobs, at, strict=True)))

    together = run(look.checkpoint, arrive, max_batch=4)
    for job, row, events in zip(jobs, rows, together, strict=True):
        answer = look.ask(job.images[0], row.prompt, reattention=job.policy, sampling=job.sampling)
        expected = told(answer)
        prompt = build_prompt(look.checkpoint, job, look.checkpoint.model.config, 4096)
        assert same_but_for_ties(look.checkpoint, prompt, job.policy, events, expected)
        ended = events[-1]
        if tokens_of(events) == tokens_of(expected):
            assert ended.reflections == tuple(answer.reflections)
            assert ended.reason == answer.finish_reason
            assert (ended.sampled, ended.reinserted) == (answer.tokens["sampled"], answer.tokens["reinserted"])
            assert events[0] == Started(len(prompt.token_ids), prompt.visual_tokens)
    assert sum(any(isinstance(event, Reinsertion) for event in events) for events in together) >= 3


def told(answer: Any) -> Events:
    """The events of an answer that `ask` gave."""
    events: Events = []
    looks = {reflection.at: reflection for reflection in answer.reflections if reflection.visual_indices}
    for at, slot in enumerate(response_slots(answer.slots)):
        events += [Reinsertion(0, looks[at])] if at in looks else []
        forced = int(answer.slots.provenance[slot]) == 3
        events.append(Token(0, int(answer.slots.token_ids[slot]), forced))
    return events


# --- joining, leaving, waiting


def test_a_short_request_does_not_wait_for_a_long_one(tiny):
    """Would catch batches that are formed once and end together."""

    async def scenario(backend: TransformersBackend) -> tuple[Events, bool]:
        long = asyncio.create_task(collect(backend, job_of("long", [noise()], max_new_tokens=3000)))
        await until(lambda: backend.gauges()["tokens_sampled"] >= 3)
        short = await collect(backend, job_of("short", [noise()], max_new_tokens=5))
        long_runs = not long.done()
        long.cancel()
        return short, long_runs

    short, long_runs = run(tiny, scenario)
    assert len(tokens_of(short)) == 5
    assert long_runs


def test_a_client_that_leaves_stops_its_row(tiny):
    """Would catch a row that goes on for nobody, and one that takes its neighbour along."""

    async def scenario(backend: TransformersBackend) -> tuple[Events, float]:
        stays = asyncio.create_task(collect(backend, job_of("stays", [noise()], max_new_tokens=30)))
        leaves = backend.generate(job_of("leaves", [noise()], max_new_tokens=4000))
        while not isinstance(await anext(leaves), Token):
            pass
        await leaves.aclose()
        events = await stays
        await until(lambda: backend.gauges()["running"] == 0)
        assert backend.gauges()["waiting"] == 0
        return events, backend.gauges()["tokens_sampled"]

    events, sampled = run(tiny, scenario)
    assert len(tokens_of(events)) == 30
    assert sampled < 200


def test_beyond_its_batch_jobs_wait_their_turn(tiny):
    """Would catch a job that is lost while it waits, and a place in the batch that is not given back."""

    async def scenario(backend: TransformersBackend) -> None:
        first = asyncio.create_task(collect(backend, job_of("first", [noise()], max_new_tokens=3000)))
        await until(lambda: backend.gauges()["running"] == 1)
        second = asyncio.create_task(collect(backend, job_of("second", [noise()], max_new_tokens=3)))
        await until(lambda: backend.gauges()["waiting"] == 1)
        third = asyncio.create_task(collect(backend, job_of("third", [noise()], max_new_tokens=3)))
        await until(lambda: backend.gauges()["waiting"] == 2)
        assert not second.done()
        first.cancel()
        assert len(tokens_of(await second)) == len(tokens_of(await third)) == 3
        assert len(tokens_of(await collect(backend, job_of("again", [noise()], max_new_tokens=4)))) == 4

    run(tiny, scenario, max_batch=1)


def test_a_client_that_leaves_while_waiting_never_runs(tiny):
    """Would catch a prefill for somebody who has gone."""

    async def scenario(backend: TransformersBackend) -> None:
        first = asyncio.create_task(collect(backend, job_of("first", [noise()], max_new_tokens=3000)))
        await until(lambda: backend.gauges()["running"] == 1)
        second = asyncio.create_task(collect(backend, job_of("much " * 300, [noise()], max_new_tokens=3)))
        await until(lambda: backend.gauges()["waiting"] == 1)
        second.cancel()
        first.cancel()
        await collect(backend, job_of("third", [noise()], max_new_tokens=2))

    with failing(tiny.model, lambda rows, slots: slots > 300) as prefilled:
        run(tiny, scenario, max_batch=1)
    assert prefilled == []


# --- what goes wrong


def test_a_prefill_without_room_fails_its_own_job(tiny):
    """Would catch an engine that dies, or a job that hangs, when one request is too large."""

    async def scenario(backend: TransformersBackend) -> Events:
        good = asyncio.create_task(collect(backend, job_of("good", [noise()], max_new_tokens=25)))
        await until(lambda: backend.gauges()["running"] == 1)
        with pytest.raises(BackendError, match="no room"):
            await collect(backend, job_of("much " * 300, [noise()], max_new_tokens=5))
        return await good

    with failing(tiny.model, lambda rows, slots: slots > 300):
        assert len(tokens_of(run(tiny, scenario))) == 25


def test_a_failed_step_fails_its_rows_and_the_engine_goes_on(tiny):
    """Would catch rows that wait for ever after a step that raised, and a cache that stays half written."""

    async def scenario(backend: TransformersBackend) -> tuple[list[Any], Events]:
        jobs = [job_of(text, [noise()], Reattention(mode="route"), max_new_tokens=500) for text in ("a", "b")]
        failed = await asyncio.gather(*(collect(backend, job) for job in jobs), return_exceptions=True)
        assert backend.gauges()["running"] == backend.gauges()["cache_slots_allocated"] == 0
        return failed, await collect(backend, job_of("a", jobs[0].images, max_new_tokens=8))

    with failing(tiny.model, lambda rows, slots: (rows, slots) == (2, 1)):
        failed, after = run(tiny, scenario)
    assert [type(error) for error in failed] == [BackendError, BackendError]
    assert len(tokens_of(after)) == 8
    assert tiny.model.config.get_text_config()._attn_implementation == "sdpa"


def test_closing_ends_jobs_with_an_error(tiny):
    """Would catch a shutdown that leaves clients hanging, running and waiting ones."""

    async def scenario() -> list[Any]:
        backend = TransformersBackend(tiny, max_batch=1)
        await backend.start()
        assert await backend.health() == {"engine": True}
        jobs = [asyncio.create_task(collect(backend, job_of(t, [noise()], max_new_tokens=3000))) for t in "ab"]
        await until(lambda: backend.gauges()["waiting"] == 1)
        await backend.close()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert await backend.health() == {"engine": False}
        with pytest.raises(BackendError, match="not started"):
            await collect(backend, job_of("late", [noise()]))
        await backend.start()
        assert len(tokens_of(await collect(backend, job_of("again", [noise()], max_new_tokens=2)))) == 2
        await backend.close()
        return results

    results = asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
    assert [type(result) for result in results] == [BackendError, BackendError]


def test_bad_input_is_told_before_anything_starts(tiny):
    """Would catch a mistake of the caller's reported as the engine's, or one that takes up a place for good."""

    async def scenario(backend: TransformersBackend) -> None:
        wrong = Reattention(control="wrong-image")
        with pytest.raises(RefusedError, match="wrong-image"):
            backend.check(job_of("q", [noise()], wrong))
        with pytest.raises(RefusedError, match="wrong-image"):
            await collect(backend, job_of("q", [noise()], wrong))
        with pytest.raises(ValueError, match="layers"):
            backend.check(job_of("q", [noise()], Reattention(mode="route", layers=(7,))))
        job = job_of("q", [noise()])
        with pytest.raises(ValueError, match="counts for 1 images"):
            await collect(backend, Job(messages=job.messages, images=[], policy=job.policy, sampling=job.sampling))
        with pytest.raises(ValueError, match="context"):
            await collect(backend, job_of("word " * 5000, []))
        assert backend.jobs == 0

    run(tiny, scenario)


def test_without_a_model_it_does_not_start(tiny):
    """Would catch a server that starts and then fails every request."""
    bare = Checkpoint("bare", None, tiny.tokenizer, tiny.image_processor, tiny.family, True)
    with pytest.raises(BackendError, match="model"):
        asyncio.run(TransformersBackend(bare).start())


# --- lending the model


def test_the_model_is_lent_between_steps(tiny):
    """Would catch work done beside a running step, on the recorder's kernel, or without gradients."""
    seen: dict[str, Any] = {}

    def work(checkpoint: Checkpoint) -> str:
        seen["thread"] = threading.current_thread().name
        seen["kernel"] = checkpoint.model.config.get_text_config()._attn_implementation
        seen["grad"] = torch.is_grad_enabled()
        question = LookAgain(checkpoint).ask(noise(), "q", sampling=Sampling(max_new_tokens=3))
        return question.finish_reason

    async def scenario(backend: TransformersBackend) -> tuple[Events, str]:
        job = job_of("runs", [noise()], Reattention(mode="route"), max_new_tokens=40)
        running = asyncio.create_task(collect(backend, job))
        await until(lambda: backend.gauges()["running"] == 1)
        answer = await backend.borrow(work)
        with pytest.raises(KeyError):
            await backend.borrow(lambda checkpoint: {}["nothing"])
        return await running, answer

    events, answer = run(tiny, scenario)
    assert answer == "length"
    assert len(tokens_of(events)) == 40
    assert seen == {"thread": "look-again-engine", "kernel": "sdpa", "grad": True}


# --- leaving nothing behind


def test_many_jobs_leave_nothing(tiny):
    """Would catch places, tickets or cache slots that are never given back."""

    async def scenario(backend: TransformersBackend) -> None:
        jobs = [job_of(str(i), [noise()], POLICIES[i % 5], max_new_tokens=1 + i % 4) for i in range(40)]
        events = await asyncio.gather(*(collect(backend, job) for job in jobs))
        assert [len(tokens_of(own)) for own in events] == [1 + i % 4 for i in range(40)]
        assert all(isinstance(own[-1], Ended) for own in events)
        gauges = backend.gauges()
        assert (gauges["jobs_finished"], gauges["tokens_sampled"]) == (40, 100)
        left = ("running", "waiting", "cache_slots_used", "cache_slots_allocated", "jobs_failed")
        assert [gauges[name] for name in left] == [0] * 5

    run(tiny, scenario, max_batch=6)
