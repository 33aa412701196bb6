"""The thread that owns a model: takes jobs in as they come, and steps those that run.

Between two steps, and only there, it admits one waiting job, drops the jobs of clients that left and lends the model
out. At most one prefill (vision pass included) therefore delays the running answers per step. What goes wrong in one
job's prefill ends that job; what goes wrong in a step of the batch ends the jobs of that step. The engine goes on.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from look_again.loading import Checkpoint
from look_again.model import Sampling
from look_again.serving.answer_grammar import AnswerConstraint
from look_again.serving.backend import BackendError, BackendEvent
from look_again.serving.decode_options import DEFAULT_OPTIONS, DecodeOptions
from look_again.serving.engine.continuous_batch import ContinuousBatch, RunningSequence
from look_again.serving.prompt import EncodedPrompt

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class PendingRequest:
    """A job handed to the engine. Its events, or the exception that ended it, come out of `events` in `loop`.

    cancelled: set when the client has gone; the sequence leaves at the next step boundary.
    """

    prompt: EncodedPrompt
    policy: Reattention
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    options: DecodeOptions = DEFAULT_OPTIONS
    constraint: AnswerConstraint | None = None
    events: asyncio.Queue[BackendEvent | Exception] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    unsent: list[BackendEvent | Exception] = field(default_factory=list)

    def send(self, event: BackendEvent) -> None:
        self.unsent.append(event)

    def fail(self, error: Exception) -> None:
        self.unsent.append(error if isinstance(error, BackendError) else _as_backend_error(error))


@dataclass
class _Loan:
    work: Callable[[Checkpoint], Any]
    future: Future[Any]


class Engine:
    """max_batch: most sequences that run at once. waiting: jobs that were submitted and do not run yet.

    steps, busy_s, prefill_s: passes of the batch, and the seconds that everything and prefills alone took so far.
    """

    def __init__(self, checkpoint: Checkpoint, max_batch: int) -> None:
        self.checkpoint, self.max_batch = checkpoint, max_batch
        trigger = Trigger.of(checkpoint.tokenizer, spelled=not checkpoint.trained)
        self.batch = ContinuousBatch(checkpoint.model, checkpoint.tokenizer, trigger, compiled=checkpoint.compiled)
        self.waiting: deque[PendingRequest] = deque()
        self.steps = 0
        self.busy_s = self.prefill_s = 0.0
        self._running: dict[PendingRequest, RunningSequence] = {}
        self._inbox: queue.SimpleQueue[PendingRequest | _Loan | None] = queue.SimpleQueue()
        self._closing = threading.Lock()  # nothing is put in after the last look into the inbox
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="look-again-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    def submit(self, request: PendingRequest) -> None:
        """Hand a job in. Raises BackendError once the engine is closed."""
        self._put(request)

    def lend(self, work: Callable[[Checkpoint], Any]) -> Future[Any]:
        """Run `work` on the checkpoint between two steps. Raises BackendError once the engine is closed."""
        loan = _Loan(work, Future())
        self._put(loan)
        return loan.future

    def stop(self) -> None:
        """End everything at the next step boundary and wait for it; jobs under way fail with BackendError."""
        self._inbox.put(None)
        self._thread.join()

    def _put(self, item: PendingRequest | _Loan) -> None:
        with self._closing:
            if self._closed:
                raise BackendError("the engine is closed")
            self._inbox.put(item)

    def _run(self) -> None:
        try:
            with torch.no_grad():
                while self._receive():
                    started = time.perf_counter()
                    self._turn()
                    self.busy_s += time.perf_counter() - started
        finally:
            self._close()

    def _receive(self) -> bool:
        """Take in what came, waiting for something where nothing runs; False when the engine shall stop."""
        idle = not self._running and not self.waiting
        while True:
            try:
                item = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            idle = False
            if item is None:
                return False
            if isinstance(item, PendingRequest):
                self.waiting.append(item)
            else:
                self._lend(item)

    def _turn(self) -> None:
        """Everything between two step boundaries: the cancelled go, one job joins, all sequences take a step."""
        for request in [request for request in self._running if request.cancelled]:
            self.batch.leave(self._running.pop(request))
        if any(request.cancelled for request in self.waiting):
            self.waiting = deque(request for request in self.waiting if not request.cancelled)
        if self.waiting and len(self._running) < self.max_batch:
            self._join(self.waiting.popleft())
        if self._running:
            self._step()

    def _join(self, request: PendingRequest) -> None:
        started = time.perf_counter()
        try:
            running = self.batch.join(
                request.prompt, request.policy, request.sampling, request, request.options, request.constraint
            )
        except Exception as error:
            logger.error("a prefill failed", exc_info=error)
            request.fail(error)
        else:
            self._running[request] = running
        self.prefill_s += time.perf_counter() - started
        self._post([request])

    def _step(self) -> None:
        requests = list(self._running)
        try:
            self.batch.step()
            self.steps += 1
        except Exception as error:
            logger.error("a step of %d sequences failed", len(requests), exc_info=error)
            self.batch.clear()
            for request in requests:
                request.fail(error)
        self._post(requests)

    def _post(self, requests: list[PendingRequest]) -> None:
        """Send unsent events, once per event loop and step, and forget the requests whose sequences have ended."""
        decoding = set(self.batch.running)
        for request in requests:
            if request in self._running and self._running[request] not in decoding:
                del self._running[request]
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[PendingRequest, list[BackendEvent | Exception]]]] = {}
        for request in requests:
            if request.unsent:
                by_loop.setdefault(request.loop, []).append((request, request.unsent))
                request.unsent = []
        for loop, sent in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, sent)
            except RuntimeError:  # the loop is closed, and with it the clients are gone
                for request, _ in sent:
                    request.cancelled = True

    def _lend(self, loan: _Loan) -> None:
        if not loan.future.set_running_or_notify_cancel():
            return
        try:
            with self.batch.model_as_it_was(), torch.enable_grad():
                result = loan.work(self.checkpoint)
        except BaseException as error:
            loan.future.set_exception(error)
        else:
            loan.future.set_result(result)

    def _close(self) -> None:
        """Fail whatever is under way; nothing comes in any more."""
        with self._closing:
            self._closed = True
        requests = [*self._running, *self.waiting]
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, PendingRequest):
                requests.append(item)
            elif item is not None and item.future.set_running_or_notify_cancel():
                item.future.set_exception(BackendError("the engine was closed"))
        self._running.clear()
        self.waiting.clear()
        self.batch.clear()
        for request in requests:
            request.fail(BackendError("the engine was closed"))
        self._post(requests)


def _deliver(by_loop: list[tuple[PendingRequest, list[BackendEvent | Exception]]]) -> None:
    for request, items in by_loop:
        for item in items:
            request.events.put_nowait(item)


def _as_backend_error(error: Exception) -> BackendError:
    wrapped = BackendError(f"the engine failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
