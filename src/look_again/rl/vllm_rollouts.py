r"""Rollouts by an unmodified vLLM, reflecting in text, with COPY or ROUTE: a drop-in for the decoding loop on a GPU.

Token ids go in and come out, so nothing is tokenised twice: `POST /inference/v1/generate` of vLLM 0.32. The policy's
weights travel as a checkpoint folder that both sides can read, with no communicator between them, so this works alike
with the server on the training GPU, on another one or on none.

    VLLM_SERVER_DEV_MODE=1 vllm serve CHECKPOINT --max-model-len 8192 --enable-scale-out \
        --logprobs-mode processed_logprobs

Development mode opens unprotected endpoints (to read weights, to sleep): bind the server to a private address. Requests
go a thread per question, past any proxy that the environment names. ROUTE also needs `--enable-mm-embeds`, and the
policy beside it, which reads every answer that looks again. The paper samples by vLLM and says no more than its length.

Legend: Q questions, G answers per question.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from look_again.clients.sequence_requests import STRIP_FAMILIES
from look_again.clients.vllm_answers import VllmError, read_field
from look_again.clients.vllm_requests import GENERATE
from look_again.core.reattention import Reattention
from look_again.data.sample import Sample
from look_again.extras import require
from look_again.rl.rollouts import Rollout
from look_again.rl.vllm_looks import LookingAnswer, LookSampling, begin_answers
from look_again.rl.vllm_messages import (
    RolloutRequest,
    build_generate_body,
    build_group_sampling,
    build_questions,
    read_rollouts,
    resolve_weights,
    write_weights,
)
from look_again.training.batches import Codec

if TYPE_CHECKING:
    from look_again.clients.vllm import VllmConnection

T = TypeVar("T")

CONNECTIONS = 256  # requests on their way at a time
START_IT = "start `vllm serve` 0.32 with --enable-scale-out and VLLM_SERVER_DEV_MODE=1"


class VllmRollouts(ABC):
    """What a server and an engine in this process share. stop_token_ids: end an answer, see `stop_ids`."""

    stop_token_ids: tuple[int, ...]
    takes_features = True

    @abstractmethod
    def generate(self, questions: Sequence[RolloutRequest]) -> list[Any]:
        """An answer in the shape of the server's to each question. Raises VllmError."""

    @abstractmethod
    def read_weights(self, folder: str | Path) -> None:
        """Have vLLM take the weights in `folder`, and drop what it computed with others. Raises VllmError.

        No request may be under way. Wakes a vLLM that sleeps.
        """

    @abstractmethod
    def sleep(self) -> None:
        """Free the GPU's memory until weights are read again; on CPU nothing is freed. Needs `--enable-sleep-mode`.

        Not tried on a GPU.
        """

    def sample_groups(
        self,
        codec: Codec,
        samples: Sequence[Sample],
        policy: Reattention,
        *,
        group: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        model: Any = None,
    ) -> list[Rollout]:
        """G answers to each question, those of one question next to each other, (Q * G), as the decoding loop's are.

        Sampled from the whole distribution at `temperature` (vLLM takes at most 2) but for the tokens that are never
        sampled. The same seed draws the same random numbers; the answers are the same as far as vLLM's arithmetic is,
        which depends on what else it computes at the time. model: the policy, which ROUTE reads answers with. Raises
        ValueError for a policy that is neither "text", COPY whole in its grid nor ROUTE in a strip, and for a family
        that cuts images into tiles, VllmError for what goes wrong on vLLM's side.
        """
        check_policy(policy)
        check_family(codec, policy)
        if policy.mode == "route" and (model is None or not self.takes_features):
            raise ValueError("ROUTE by vLLM needs a server, and the policy's model to rank with: `model`")
        if policy.inserts:
            stops = frozenset([codec.tokenizer.eos_token_id, *self.stop_token_ids])
            looking = LookSampling(stops, max_new_tokens, temperature, seed)
            answers = begin_answers(codec, samples, policy, group, looking, model)
            self.complete(answers)
            return [answer.build_rollout() for answer in answers]
        items = [codec.item(sample, policy) for sample in samples]
        sampling = build_group_sampling(codec, self.stop_token_ids, group, max_new_tokens, temperature)
        questions = build_questions(codec, samples, items, sampling, seed)
        found = self.generate(questions)
        groups = [read_rollouts(codec, question, answer) for question, answer in zip(questions, found, strict=True)]
        return [rollout for group in groups for rollout in group]

    def complete(self, answers: Sequence[LookingAnswer]) -> None:
        """Go on with answers that look again, all in rounds, until each has ended. Raises VllmError."""
        while running := [answer for answer in answers if not answer.ended]:
            requests = [answer.build_request() for answer in running]
            for answer, request, part in zip(running, requests, self.generate(requests), strict=True):
                answer.take(request, part)

    def push_weights(
        self,
        model: Any,
        folder: str | Path,
        *,
        state: Mapping[str, torch.Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`write_weights`, then `read_weights`: by one process, while no other one samples."""
        write_weights(model, folder, state=state, dtype=dtype)
        self.read_weights(folder)


@dataclass(frozen=True)
class VllmServer(VllmRollouts):
    """A running `vllm serve`. base_url: "http://host:port". timeout: seconds that an answer or new weights may take."""

    base_url: str
    timeout: float = 1800.0
    stop_token_ids: tuple[int, ...] = ()

    def generate(self, questions: Sequence[RolloutRequest]) -> list[Any]:
        """All questions at once. Raises VllmError."""
        with self._connect() as vllm, ThreadPoolExecutor(max(1, min(len(questions), CONNECTIONS))) as pool:
            bodies = map(build_generate_body, questions)
            return list(pool.map(lambda body: vllm.post(GENERATE, body), bodies))

    def complete(self, answers: Sequence[LookingAnswer]) -> None:
        """As above, but no answer waits for another: each goes on as soon as its last request is answered."""
        with self._connect() as vllm, ThreadPoolExecutor(max(1, min(len(answers), CONNECTIONS))) as pool:

            def go_on(answer: LookingAnswer) -> None:
                while not answer.ended:
                    request = answer.build_request()
                    answer.take(request, vllm.post(GENERATE, build_generate_body(request)))

            list(pool.map(go_on, answers))

    def read_weights(self, folder: str | Path) -> None:
        """As above; the server sees the folder under the same path. ValueError for one without weights."""
        path = resolve_weights(folder)
        with self._connect() as vllm:
            asleep = read_field(vllm.get("/is_sleeping"), "is_sleeping", bool)
            if asleep:
                vllm.post("/wake_up?tags=weights")
            vllm.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
            if asleep:
                vllm.post("/wake_up?tags=kv_cache")
            vllm.post("/reset_mm_cache")
            vllm.post("/reset_encoder_cache")
            _check_dropped(read_field(vllm.post("/reset_prefix_cache"), "success", bool))

    def sleep(self) -> None:
        """As above."""
        with self._connect() as vllm:
            vllm.post("/sleep?level=2")

    def check(self) -> None:
        """Raises VllmError unless the server is there and in development mode, which new weights need."""
        with self._connect() as vllm:
            read_field(vllm.get("/is_sleeping"), "is_sleeping", bool)

    def _connect(self) -> VllmConnection:
        """MissingExtraError without httpx."""
        require("httpx", extra="train")
        from look_again.clients.vllm import VllmConnection

        return VllmConnection(self.base_url, timeout_s=self.timeout, remedy=START_IT)


@dataclass(frozen=True)
class VllmServers(VllmRollouts):
    """Several servers, which share the work and have the same weights: data parallel.

    Each has its own part of the questions, those of one question together, and goes on with it whatever the others do.
    Answers are those of one server, since every request has random numbers of its own.
    """

    servers: tuple[VllmServer, ...]
    stop_token_ids: tuple[int, ...] = ()

    @classmethod
    def at(cls, urls: Sequence[str], stop_token_ids: tuple[int, ...] = ()) -> VllmServers:
        """The servers at those addresses."""
        return cls(tuple(map(VllmServer, urls)), stop_token_ids)

    def generate(self, questions: Sequence[RolloutRequest]) -> list[Any]:
        """As above."""
        parts = self._each(VllmServer.generate, cut_evenly(questions, len(self.servers)))
        return [answer for part in parts for answer in part]

    def complete(self, answers: Sequence[LookingAnswer]) -> None:
        """As above."""
        self._each(VllmServer.complete, cut_evenly(answers, len(self.servers)))

    def read_weights(self, folder: str | Path) -> None:
        """As above, all at once."""
        self._each(VllmServer.read_weights, [folder] * len(self.servers))

    def sleep(self) -> None:
        """As above."""
        self._each(lambda server, _: server.sleep(), self.servers)

    def check(self) -> None:
        """As of one server, for each."""
        for server in self.servers:
            server.check()

    def _each(self, act: Callable[[VllmServer, Any], Any], given: Sequence[Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.servers)) as pool:
            return list(pool.map(act, self.servers, given))


def cut_evenly(values: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Runs of neighbours whose lengths differ by one at most."""
    ends = [len(values) * part // parts for part in range(parts + 1)]
    return [values[start:end] for start, end in pairwise(ends)]


class VllmEngine(VllmRollouts):
    """vLLM inside the training process, where that is one process: `VllmEngine(vllm.LLM(folder, ...))`.

    It must be installed beside this package; of `vllm.LLM` it wants `logprobs_mode="processed_logprobs"`, and
    `enable_sleep_mode=True` on a GPU. It shows whole images alone. Tried on CPU only.
    """

    takes_features = False

    def __init__(self, llm: Any, stop_token_ids: tuple[int, ...] = ()) -> None:
        self.llm, self.stop_token_ids, self.asleep = llm, stop_token_ids, False

    def generate(self, questions: Sequence[RolloutRequest]) -> list[Any]:
        """All questions at once."""
        from vllm import SamplingParams

        prompts = [
            {
                "prompt_token_ids": question.token_ids,
                **({"multi_modal_data": {"image": [i.image for i in question.images]}} if question.images else {}),
            }
            for question in questions
        ]
        outputs = self.llm.generate(
            prompts, [SamplingParams(**question.sampling) for question in questions], use_tqdm=False
        )
        return [{"prompt_token_ids": o.prompt_token_ids, "choices": [_choice(c) for c in o.outputs]} for o in outputs]

    def read_weights(self, folder: str | Path) -> None:
        """As above. ValueError for a folder without weights."""
        path = resolve_weights(folder)
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
        self.asleep = False
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        _check_dropped(self.llm.reset_prefix_cache())

    def sleep(self) -> None:
        """As above."""
        self.llm.sleep(level=2)
        self.asleep = True


def check_policy(policy: Reattention) -> None:
    """ValueError for a policy that a vLLM server cannot carry out in rollouts."""
    if policy.mode not in ("text", "copy", "route"):
        raise ValueError(f"vLLM reflects in text, with COPY or ROUTE; mode {policy.mode!r} needs rollouts: decoding")
    if policy.mode == "route" and (policy.layout != "strip" or policy.ranking != "relevance"):
        raise ValueError(f"vLLM shows rows chosen by relevance, in a strip; {policy} needs rollouts: decoding")
    whole = policy.mode == "route" or policy.layout == "grid"
    if policy.control or policy.reuse or (policy.inserts and not (whole and policy.delimiters)):
        raise ValueError(f"vLLM puts whole images back as it first showed them; {policy} needs rollouts: decoding")


def stop_ids(model: Any) -> tuple[int, ...]:
    """The tokens that end an answer of the decoding loop: those of the model's generation configuration."""
    ids = model.generation_config.eos_token_id
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


def _choice(completion: Any) -> dict[str, Any]:
    """An engine's completion in the shape of a server's."""
    ids = list(completion.token_ids)
    content = [{"logprob": known[token].logprob} for token, known in zip(ids, completion.logprobs, strict=True)]
    facts = {"index": completion.index, "finish_reason": completion.finish_reason}
    return {**facts, "token_ids": ids, "logprobs": {"content": content}}


def _check_dropped(dropped: bool) -> None:
    if not dropped:
        raise VllmError("vLLM kept its prefix cache: requests are under way, and weights change only between steps")


def check_family(codec: Codec, policy: Reattention) -> None:
    """ValueError for a family whose images a server would cut otherwise than training, or cannot show in part."""
    name = codec.family.model_type
    if codec.family.layout is not None:
        raise ValueError(
            f"vLLM is shown images as files for rollouts, and would cut those of a {name} into other tiles than "
            "training: use rollouts: decoding"
        )
    if policy.mode == "route" and name not in STRIP_FAMILIES:
        raise ValueError(f"visual tokens of a {name} cannot be chosen on vLLM: use copy, or rollouts: decoding")
