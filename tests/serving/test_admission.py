"""Admission control: how many come in, how many wait, and what the others are told."""

from __future__ import annotations

import asyncio

import pytest

from look_again.serving.admission import LONGEST_RETRY_S, Admission
from look_again.serving.backend import BusyError


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def hold(admission: Admission, end: asyncio.Event) -> None:
    async with admission.place():
        await end.wait()


def test_beyond_its_queue_it_is_busy():
    """Would catch a queue without bound, and a place that is not given back."""

    async def scenario() -> None:
        admission, ends = Admission(1, 1, noun="answers"), [asyncio.Event() for _ in range(3)]
        first, second = (asyncio.create_task(hold(admission, end)) for end in ends[:2])
        await settle()
        assert (admission.inside, admission.running, admission.waiting) == (2, 1, 1)
        with pytest.raises(BusyError, match="2 answers are under way or waiting") as refused:
            await hold(admission, ends[2])
        assert 0 < refused.value.retry_after_s <= LONGEST_RETRY_S
        first.cancel()
        await settle()
        assert (admission.running, admission.waiting, second.done()) == (1, 0, False)
        third = asyncio.create_task(hold(admission, ends[2]))
        await settle()
        assert admission.waiting == 1
        for end in ends:
            end.set()
        await asyncio.gather(second, third)
        assert admission.inside == 0

    asyncio.run(scenario())


def test_a_wait_that_is_cancelled_gives_its_place_back():
    async def scenario() -> None:
        admission, end = Admission(1, 1), asyncio.Event()
        first, second = (asyncio.create_task(hold(admission, end)) for _ in range(2))
        await settle()
        second.cancel()
        await settle()
        assert (admission.running, admission.waiting) == (1, 0)
        end.set()
        await first

    asyncio.run(scenario())


@pytest.mark.parametrize(("concurrency", "queue"), [(0, 1), (1, -1)])
def test_bounds_that_admit_nobody_are_refused(concurrency, queue):
    with pytest.raises(ValueError, match="concurrency is at least 1"):
        Admission(concurrency, queue)
