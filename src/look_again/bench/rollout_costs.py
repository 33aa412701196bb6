"""What refilling finished answers' places spares in rollouts: part of `look-again bench brpo`.

Both arms decode the same answers of the shipped model, which end at different lengths, as many at once. The baseline
is a batch in `generate` that waits for its longest answer; its tokens are forced, so it pays for no sampling.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessorList

from look_again.bench.bench_model import ForcedIds
from look_again.bench.measure import paired_ratios, timed
from look_again.core.cpu_threads import decoding_threads
from look_again.core.generate import LookAgainDecoding
from look_again.core.inputs import left_padded, stack_pixels
from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from look_again.data.sample import Sample
from look_again.rl.rollouts import Rollout, sample_groups
from look_again.training.batches import Codec
from look_again.training.module import evaluating

PAIRS = 3
COPY = Reattention(mode="copy")


@dataclass
class RolloutBench:
    """The answers to a few questions, `group` to each and at once; at most `tokens` each."""

    model: Any
    codec: Codec
    samples: list[Sample]
    group: int
    tokens: int
    seed: int

    def refilled(self) -> list[Rollout]:
        """All answers, `group` at once, the next taking the place of one that ended."""
        generator = torch.Generator().manual_seed(self.seed)
        return sample_groups(
            self.model,
            self.codec,
            self.samples,
            COPY,
            group=self.group,
            max_new_tokens=self.tokens,
            generator=generator,
            places=self.group,
        )

    def batched(self, rollouts: list[Rollout]) -> list[list[int]]:
        """The same answers in batches of `group` that wait for their longest; their token ids, in order.

        A batch has answers to every question, as a step of BRPO has.
        """
        answers: list[list[int]] = [[] for _ in rollouts]
        batches = -(-len(rollouts) // self.group)
        for first in range(batches):
            answers[first::batches] = self._batch(rollouts[first::batches])
        return answers

    @torch.no_grad()
    def _batch(self, rollouts: list[Rollout]) -> list[list[int]]:
        inputs = left_padded([r.example.prompt_ids for r in rollouts], self.codec.tokenizer, self.model.device)
        columns = inputs["input_ids"].shape[1]
        longest = max(len(rollout.completion_ids) for rollout in rollouts)
        forced = torch.zeros((len(rollouts), longest), dtype=torch.long, device=self.model.device)
        for row, rollout in enumerate(rollouts):
            forced[row, : len(rollout.completion_ids)] = torch.tensor(rollout.completion_ids)
        with evaluating(self.model), decoding_threads(self.model):
            output = self.model.generate(
                **inputs,
                **stack_pixels([rollout.item.images for rollout in rollouts]),
                custom_generate=LookAgainDecoding(Trigger.of(self.codec.tokenizer), COPY),
                do_sample=False,
                max_new_tokens=self.tokens,
                logits_processor=LogitsProcessorList([ForcedIds(forced, columns)]),
            )
        lengths = [len(rollout.completion_ids) for rollout in rollouts]
        return [ids[columns : columns + n].tolist() for ids, n in zip(output, lengths, strict=True)]


def measure_rollouts(bench: RolloutBench) -> dict[str, Any]:
    """{"samples": of `refill_over_batch`, "sampled_answers_per_second", "tokens": their lengths}."""
    began = time.perf_counter()
    rollouts = bench.refilled()
    seconds = time.perf_counter() - began
    answers = [rollout.completion_ids for rollout in rollouts]
    assert bench.batched(rollouts) == answers, "the arms did not decode the same answers"
    measure = partial(timed, device=torch.device("cpu"), clock=time.process_time)  # both arms have one thread
    lengths = sorted(map(len, answers))
    return {
        "samples": paired_ratios(bench.refilled, partial(bench.batched, rollouts), PAIRS, measure),
        "sampled_answers_per_second": len(answers) / seconds,
        "tokens": {"shortest": lengths[0], "mean": sum(lengths) / len(lengths), "longest": lengths[-1]},
    }
