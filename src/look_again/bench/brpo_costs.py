"""`look-again bench brpo`: what rewards cost, and where the time of a BRPO step goes.

Rewards are timed on one core as a trainer calls them, one column at a time, on answers of about 300 tokens that all
differ. Free-form mathematics is reported apart: comparing expressions is a library's work and far slower.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from look_again.bench.decode_costs import describe_machine
from look_again.bench.measure import Call, describe_spread, timed
from look_again.bench.rollout_costs import RolloutBench, measure_rollouts
from look_again.bench.settings import BrpoSettings
from look_again.data.loaders import load_samples
from look_again.data.sample import Sample
from look_again.data.source import Source
from look_again.loading import default_checkpoint
from look_again.rl.brpo_config import BrpoConfig, ObjectiveOptions, RolloutOptions
from look_again.rl.completions import forget_parsed
from look_again.rl.rewards import AccuracyReward, BalanceReward, FormatReward
from look_again.tabletop.oracle import LENGTHS as ANSWER_LENGTHS
from look_again.tabletop.tiny import build_tokenizer
from look_again.text.grammar import TAGS, close_tag, open_tag
from look_again.text.tags import tag_ids

TARGET = 20_000.0  # answers per second, with all three rewards
REFILL_TARGET = 0.8
WAVES = 2  # of questions of every length, so that the end, when places stay empty, weighs little
TOKENS = 400  # of an answer at most
REWARDS = 3  # of an answer: format, accuracy, balance
LENGTHS = {"SUMMARY": 40, "CAPTION": 60, "REASONING": 80, "REFLECTION": 100, "CONCLUSION": 10}  # tokens
WORDS = "the red ball lies beside two blue cubes and one green cone near a small box on this table".split()  # noqa: SIM905
PLAIN = (("B", "The answer is {}.", ("red", "blue", "green", "grey")), ("yes", "{}, it does.", ()), ("12", "{} cm", ()))
MATHEMATICS = ((r"2\sqrt{3}", r"$\sqrt{{12}}$", ()), (r"\frac{x+1}{2}", r"$\frac{{1+x}}{{2}}$", ()))


@dataclass(frozen=True)
class Answers:
    """Columns as a trainer passes them."""

    completions: list[str]
    completion_ids: list[list[int]]
    reference: list[str]
    options: list[tuple[str, ...]]


def make_answers(n: int, kinds: Any, seed: int, ids: dict[str, int]) -> Answers:
    """n different well-formed answers; references go round `kinds`: (reference, form of the conclusion, options)."""
    rng, answers = random.Random(seed), Answers([], [], [], [])
    for i in range(n):
        reference, form, options = kinds[i % len(kinds)]
        text, tokens = "", list[int]()
        for tag in TAGS:
            words = [rng.choice(WORDS) for _ in range(LENGTHS[tag])]
            content = form.format(reference) if tag == "CONCLUSION" else " ".join(words)
            text += f"{open_tag(tag)}{content}{close_tag(tag)}"
            tokens += [ids[open_tag(tag)], *range(1000, 1000 + LENGTHS[tag]), ids[close_tag(tag)]]
        answers.completions.append(text)
        answers.completion_ids.append(tokens)
        answers.reference.append(reference)
        answers.options.append(options)
    return answers


def call_rewards(answers: Answers, ids: dict[str, int]) -> Call:
    """All three rewards of all answers, from nothing: what an earlier call parsed is forgotten."""
    rewards = (FormatReward(), AccuracyReward(), BalanceReward(ids))

    def call() -> list[list[float]]:
        forget_parsed()
        return [reward(**vars(answers)) for reward in rewards]

    return call


def rewards_per_second(settings: BrpoSettings) -> dict[str, list[float]]:
    """Samples of rewards, three an answer, per second and core (processor time); plain references and mathematics."""
    ids = tag_ids(build_tokenizer())
    samples = {}
    for name, kinds, n, clock in (
        ("rewards_per_second", PLAIN, settings.answers, time.process_time),
        ("mathematics_per_second", MATHEMATICS, settings.mathematics, time.perf_counter),
    ):
        call = call_rewards(make_answers(n, kinds, settings.seed, ids), ids)
        assert all(value == 1.0 for column in call()[:2] for value in column), "the answers are right by construction"
        measure = partial(timed, call, torch.device("cpu"), clock)
        samples[name] = [REWARDS * n / measure() for _ in range(settings.repeats if kinds is PLAIN else 3)]
    return samples


def mixed_questions(each: int) -> list[Sample]:
    """So many questions that ask for each length of answer, in turn."""
    of_lengths = [load_samples(Source(loader="tabletop", path=f"3:{each}:{length}")) for length in ANSWER_LENGTHS]
    return [sample for turn in zip(*of_lengths, strict=True) for sample in turn]


def measure_run(settings: BrpoSettings) -> tuple[dict[str, float], dict[str, Any]]:
    """Share of a step in generation, scoring and loss (medians over steps of a run of the shipped model, less one), and
    `measure_rollouts` of the same model.
    """
    from look_again.rl.brpo import SECONDS, Run

    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            BrpoConfig(
                output=folder,
                base=str(default_checkpoint()),
                data=(Source(loader="tabletop", path="3:100"),),
                steps=settings.steps + 1,
                sampling=RolloutOptions(questions=settings.questions, group=settings.group, max_new_tokens=TOKENS),
                objective=ObjectiveOptions(micro_batch=settings.questions * settings.group),
                seed=settings.seed,
            )
        )
        samples = mixed_questions(WAVES * settings.questions)
        bench = RolloutBench(run.inner.model, run.codec, samples, settings.group, TOKENS, settings.seed)
        rollouts = measure_rollouts(bench)
        logs = [run.step(step) for step in range(settings.steps + 1)][1:]
    seconds = {name.removeprefix("seconds_"): statistics.median(log[name] for log in logs) for name in SECONDS}
    return {name: value / sum(seconds.values()) for name, value in seconds.items()}, rollouts


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure: {"ratios", "rates", "spread", "share_of_step", "rollout_tokens", "settings"}."""
    settings = BrpoSettings(**{name: getattr(args, name) for name in BrpoSettings.__dataclass_fields__})
    samples = rewards_per_second(settings)
    rates = {name: statistics.median(values) for name, values in samples.items()}
    shares, rollouts = measure_run(settings)
    refill = {"refill_over_batch": rollouts["samples"]}
    rates["answers_per_second"] = rates["rewards_per_second"] / REWARDS
    rates["sampled_answers_per_second"] = rollouts["sampled_answers_per_second"]
    return {
        "ratios": {name: statistics.median(values) for name, values in refill.items()},
        "rates": rates,
        "spread": {name: describe_spread(values) for name, values in (samples | refill).items()},
        "share_of_step": shares,
        "rollout_tokens": rollouts["tokens"],
        "settings": {**vars(settings), **describe_machine(torch.device("cpu"))},
    }


def table(result: dict[str, Any]) -> str:
    """A result for people."""
    rates, share, refill = result["rates"], result["share_of_step"], result["ratios"]["refill_over_batch"]
    tokens = ", ".join(f"{name} {value:.0f}" for name, value in result["rollout_tokens"].items())
    missed = "" if rates["answers_per_second"] >= TARGET else "  MISSED"
    return "\n".join(
        [
            f"rewards per second and core     {rates['rewards_per_second']:10,.0f}",
            f"answers, with all three rewards {rates['answers_per_second']:10,.0f}   target {TARGET:,.0f}{missed}",
            f"with free-form mathematics      {rates['mathematics_per_second']:10,.0f}",
            f"sampled answers per second      {rates['sampled_answers_per_second']:10,.2f}   of {tokens} tokens",
            f"refilled over waiting           {refill:10.3f}   target {REFILL_TARGET:.2f}"
            + ("" if refill <= REFILL_TARGET else "  MISSED"),
            "share of a step: " + ", ".join(f"{name} {value:.1%}" for name, value in share.items()),
            "",
            ", ".join(f"{name} {value}" for name, value in result["settings"].items()),
        ]
    )
