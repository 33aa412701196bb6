"""The backend that runs the model in this process, batching requests as they come.

Images and text are prepared in threads of their own; one engine thread does all passes. The event loop only carries
events. The model belongs to the engine from `start` to `close`: whoever else wants it asks with `borrow`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from look_again.core.families import check_ranking
from look_again.loading import Checkpoint
from look_again.serving.answer_grammar import AnswerConstraint, AnswerGrammars
from look_again.serving.backend import BackendError, BackendEvent, Ended, Job, RefusedError, check_options
from look_again.serving.engine.scheduler import Engine, PendingRequest
from look_again.serving.prompt import EncodedPrompt, build_prompt

T = TypeVar("T")

MAX_BATCH = 16
PREPARING_THREADS = 2  # for prompts with images, and as many for those without, which need not wait for them


class TransformersBackend:
    """max_batch: sequences that run at once; further jobs wait. `Admission`, at the caller, bounds them.

    ValueError for a max_batch below 1.
    """

    name = "transformers"

    def __init__(self, checkpoint: Checkpoint, *, max_batch: int = MAX_BATCH) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch is at least 1, not {max_batch}")
        self.checkpoint, self.max_batch = checkpoint, max_batch
        self.jobs = 0  # under way: being prepared, waiting or running
        self.finished = 0
        self.failed = 0

        self._engine: Engine | None = None
        self._threads: dict[bool, ThreadPoolExecutor] | None = None  # by whether there are images

    @property
    def model_config(self) -> Any:
        """As `Backend.model_config`."""
        return self.checkpoint.model.config

    @property
    def max_context(self) -> int:
        """As `Backend.max_context`."""
        return int(self.checkpoint.model.config.get_text_config().max_position_embeddings)

    async def start(self) -> None:
        """Start the engine. Raises BackendError for a checkpoint without its model."""
        if self.checkpoint.model is None:
            raise BackendError("the transformers backend needs the checkpoint's model, and it was not loaded")
        if self._engine is not None:
            raise BackendError("this backend was started already")
        self._engine = Engine(self.checkpoint, self.max_batch)
        self._threads = {
            images: ThreadPoolExecutor(PREPARING_THREADS, f"look-again-prepare-{name}")
            for images, name in ((True, "images"), (False, "texts"))
        }
        self._engine.start()

    async def close(self) -> None:
        """End what runs, at the next step boundary; jobs under way raise BackendError."""
        engine, threads = self._engine, self._threads
        self._engine = self._threads = None
        if engine is not None:
            await asyncio.to_thread(engine.stop)
        for executor in threads.values() if threads is not None else ():
            executor.shutdown(wait=False)  # what is being prepared then finds the engine closed

    def check(self, job: Job) -> None:
        """RefusedError for the wrong-image control, which a job has no image for; ValueError for unknown layers, and
        for ROUTE where nothing can be ranked.
        """
        if job.policy.control == "wrong-image":
            raise RefusedError("the wrong-image control needs other images, which a request cannot bring")
        check_options(job)
        config = self.checkpoint.model.config
        job.policy.ranking_layers(config.get_text_config().num_hidden_layers)
        if job.policy.needs_scores:
            check_ranking(config)

    async def generate(self, job: Job) -> AsyncGenerator[BackendEvent, None]:
        """See Backend. Also raises ValueError, before Started, for messages and images that make no prompt."""
        self.check(job)
        engine, threads = self._started()
        loop = asyncio.get_running_loop()
        with self._counted():
            prompt, constraint = await self._prepare(job, threads[bool(job.images)])
            request = PendingRequest(prompt, job.policy, job.sampling, loop, job.options, constraint)
            engine.submit(request)
            try:
                event = None
                while not isinstance(event, Ended):
                    item = await request.events.get()
                    if isinstance(item, Exception):
                        self.failed += 1
                        raise item
                    event = item
                    if isinstance(event, Ended):
                        self.finished += 1
                    yield event
            finally:
                request.cancelled = True

    async def borrow(self, work: Callable[[Checkpoint], T]) -> T:
        """Run `work` on the checkpoint in the engine's thread, between two steps; answers under way wait for it."""
        engine, _ = self._started()
        return await asyncio.wrap_future(engine.lend(work))

    async def health(self) -> Mapping[str, bool]:
        return {"engine": self._engine is not None and self._engine.alive}

    def gauges(self) -> Mapping[str, float]:
        """The present state (jobs, sequences, slots of the cache) and totals since the start (tokens, steps, jobs).

        "jobs" are those under way: running, waiting, being prepared, and answers that are still being read.
        """
        counts = {"jobs": self.jobs, "jobs_finished": self.finished, "jobs_failed": self.failed}
        if self._engine is None:
            return {"running": 0, "waiting": 0, **counts}
        batch = self._engine.batch
        cache = batch.runner.cache
        return {
            "running": len(batch.running),
            "waiting": len(self._engine.waiting),
            "cache_slots_used": sum(cache.lengths),
            "cache_slots_allocated": cache.allocated_sequences * cache.allocated_slots,
            "tokens_sampled": batch.sampled,
            "tokens_reinserted": batch.reinserted,
            "engine_steps": self._engine.steps,
            "engine_busy_seconds": self._engine.busy_s,
            "engine_prefill_seconds": self._engine.prefill_s,
            **counts,
        }

    def _started(self) -> tuple[Engine, dict[bool, ThreadPoolExecutor]]:
        if self._engine is None or self._threads is None:
            raise BackendError("the transformers backend is not started")
        if not self._engine.alive:
            raise BackendError("the engine's thread has ended")
        return self._engine, self._threads

    @cached_property
    def _grammars(self) -> AnswerGrammars:
        return AnswerGrammars(self.checkpoint.tokenizer, self.checkpoint.model.get_output_embeddings().weight.shape[0])

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Within this context a job is under way."""
        self.jobs += 1
        try:
            yield
        finally:
            self.jobs -= 1

    async def _prepare(self, job: Job, threads: ThreadPoolExecutor) -> tuple[EncodedPrompt, AnswerConstraint | None]:
        config, max_context = self.checkpoint.model.config, self.max_context

        def prepare() -> tuple[EncodedPrompt, AnswerConstraint | None]:
            schema = job.options.answer_schema
            constraint = None if schema is None else self._grammars.constrain(schema)
            return build_prompt(self.checkpoint, job, config, max_context), constraint

        try:
            prepared = threads.submit(prepare)
        except RuntimeError as error:  # shut down since
            raise BackendError("the transformers backend was closed") from error
        return await asyncio.wrap_future(prepared)
