"""`look-again bench decode`: what re-attention costs while decoding, as ratios of two arms of one run.

Both arms of a ratio write the same forced ids with the same model, so a ratio compares ways of decoding and nothing
else. The paper reports no cost; the targets here are this project's own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
import transformers
from tqdm import tqdm

from look_again.bench.arms import COPY, TEXT, Bench, ReflectionArms, build_subject
from look_again.bench.measure import copy_bandwidth, describe_spread, paired_ratios, peak_bytes
from look_again.bench.settings import BATCH, DecodeSettings
from look_again.core.compiled.compiled_step import CompileError, check_compiler, count_graphs
from look_again.core.cpu_threads import decoding_threads
from look_again.core.generate import Token
from look_again.core.reattention import Reattention
from look_again.weights.devices import resolve_device

LONG = 1000  # tokens of the answer during which graphs are counted


def _policy_over_text(bench: Bench, policy: Reattention) -> list[float]:
    triggers = [bench.settings.triggers]
    bench.output(policy, triggers)
    return bench.ratios(bench.arm(policy, triggers), bench.arm(TEXT, triggers))


def _loop_over_generate(bench: Bench, policy: Reattention, batch: int) -> list[float]:
    silent: list[list[int]] = [[] for _ in range(batch)]
    return bench.ratios(bench.arm(policy, silent), bench.arm(None, silent))


def _cache_slots(bench: Bench) -> list[float]:
    output = bench.output(COPY, bench.settings.spread_triggers)
    assert output.slots is not None
    assert output.cache_slots is not None
    return [output.cache_slots / max(len(slots) for slots in output.slots)]


def _peak_memory(bench: Bench, baseline: Reattention) -> list[float]:
    triggers = [bench.settings.triggers]
    peak = partial(peak_bytes, device=bench.device)
    return paired_ratios(bench.arm(bench.route, triggers), bench.arm(baseline, triggers), 1, peak)


def _chunk_over_resubmit(bench: Bench) -> list[float]:
    arms = ReflectionArms(bench.subject, bench.settings.triggers[0])
    return bench.ratios(arms.chunk, arms.resubmit)


def _rotated_over_chunk(bench: Bench) -> list[float]:
    arms = ReflectionArms(bench.subject, bench.settings.triggers[0])
    return bench.ratios(arms.rotated, arms.chunk)


def _forced_over_batched_steps(bench: Bench) -> list[float]:
    silent: list[list[int]] = [[] for _ in range(BATCH)]
    return bench.ratios(bench.forced_at_once(), bench.arm(TEXT, silent))


def _compiled_over(bench: Bench, baseline: Reattention | None, batch: int) -> list[float]:
    silent: list[list[int]] = [[] for _ in range(batch)]
    return bench.ratios(bench.arm(TEXT, silent, compile=True), bench.arm(baseline, silent))


def recompilations(bench: Bench) -> int:
    """Graphs that an answer of LONG tokens with three looks makes, beyond the one that its first answer made."""
    triggers = [[LONG // 6, LONG // 2, LONG * 5 // 6]]
    long = Bench(bench.subject, replace(bench.settings, tokens=LONG, every=LONG // 3))
    bench.arm(COPY, [[]], compile=True)()
    before = count_graphs()
    output = long.arm(COPY, triggers, compile=True, return_dict_in_generate=True)()
    assert sum(len(row) for row in output.reflections) == len(triggers[0]), "the answer did not look as planned"
    return count_graphs() - before


@dataclass(frozen=True)
class Ratio:
    """How a ratio is measured (its samples), what it should not exceed (None: reported only), what it means."""

    measure: Callable[[Bench], list[float]]
    target: float | None
    meaning: str


RATIOS = {
    "copy_over_text": Ratio(
        lambda bench: _policy_over_text(bench, COPY), 1.10, "time of an answer with COPY / text-only reflections"
    ),
    "route_over_text": Ratio(
        lambda bench: _policy_over_text(bench, bench.route),
        1.10,
        "time of an answer with ROUTE / text-only reflections",
    ),
    "loop_over_generate_b1": Ratio(
        lambda bench: _loop_over_generate(bench, TEXT, 1), 1.02, "time without reflections: this loop / generate"
    ),
    "loop_over_generate_b8": Ratio(
        lambda bench: _loop_over_generate(bench, TEXT, BATCH), 1.02, "the same for a batch of 8 padded on the left"
    ),
    "copy_loop_over_generate_b1": Ratio(
        lambda bench: _loop_over_generate(bench, COPY, 1), 1.02, "the same, COPY ready but no reflection written"
    ),
    "copy_loop_over_generate_b8": Ratio(
        lambda bench: _loop_over_generate(bench, COPY, BATCH), 1.02, "the same for a batch of 8"
    ),
    "cache_slots_over_length_b8": Ratio(
        _cache_slots, 1.10, "cache slots per row / longest row, 8 rows reflecting at 8 different steps"
    ),
    "route_peak_memory_over_text": Ratio(
        lambda bench: _peak_memory(bench, TEXT),
        1.05,
        "peak of live tensor bytes above the weights, ROUTE / text-only reflections",
    ),
    "route_peak_memory_over_random_rows": Ratio(
        lambda bench: _peak_memory(bench, bench.random_rows), 1.05, "the same, ROUTE / as many random rows"
    ),
    "chunk_over_resubmit": Ratio(
        _chunk_over_resubmit, None, "time of one reflection: chunk on the warm cache / everything and the image again"
    ),
    "rotated_over_chunk": Ratio(
        _rotated_over_chunk, None, "time of one reflection: cached keys rotated (--reuse rotated) / the chunk prefilled"
    ),
    "forced_prefill_over_steps": Ratio(
        lambda bench: bench.ratios(bench.forced_at_once(), bench.forced_one_by_one()),
        0.05,
        "time of 8 given beginnings of answers: read in one batched pass / forced token by token, one after the other",
    ),
    "forced_prefill_over_steps_b8": Ratio(
        _forced_over_batched_steps, None, "the same against forcing them token by token in a batch of 8"
    ),
    "compiled_over_eager_b1": Ratio(
        lambda bench: _compiled_over(bench, TEXT, 1), 0.6, "time without reflections: compiled step / eager step"
    ),
    "compiled_over_generate_b1": Ratio(
        lambda bench: _compiled_over(bench, None, 1), 0.5, "the same: compiled step / generate"
    ),
    "compiled_over_eager_b8": Ratio(
        lambda bench: _compiled_over(bench, TEXT, BATCH), 0.8, "for a batch of 8: compiled step / eager step"
    ),
}
"""What the command measures, in the order of its table."""


def throughput(bench: Bench) -> dict[str, float]:
    """Decoded tokens per second at batch 1, beside the limit that reading weights and cache sets (arithmetic is free).

    A token reads the decoder's weights, the head and the cache of the answer's middle. The device's bandwidth is
    measured by copying, so a kernel that only reads can come out slightly above the limit.
    """
    moments: list[float] = []

    def on_event(event: object) -> None:
        if isinstance(event, Token):
            moments.append(time.perf_counter())

    bench.arm(TEXT, [[]], on_event=on_event)()
    bandwidth = copy_bandwidth(bench.device, megabytes=100 if bench.device.type == "cpu" else 2000)
    read = bytes_per_token(bench)
    return {
        "decode_tokens_per_s": (len(moments) - 1) / (moments[-1] - moments[0]),
        "bandwidth_limit_tokens_per_s": bandwidth / read,
        "copy_bandwidth_gb_per_s": bandwidth / 1e9,
        "read_gb_per_token": read / 1e9,
    }


def bytes_per_token(bench: Bench, batch: int = 1) -> float:
    """Bytes that a step of so many sequences reads: the decoder's weights, the head, and each one's cache."""
    model, text = bench.subject.model, bench.subject.model.config.get_text_config()
    decoder, head = model.get_decoder(), model.get_output_embeddings().weight
    head_dim = text.hidden_size // text.num_attention_heads
    slots = len(bench.subject.prompts[0].token_ids) + bench.settings.tokens / 2
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * slots
    weights = sum(p.numel() for p in decoder.parameters()) - model.get_input_embeddings().weight.numel()
    return (weights + head.numel() + batch * cached) * head.element_size()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure: {"ratios": {name: median}, "spread": {name: quartiles, extremes, n}, "throughput", "settings"}, and
    "recompilations" with the ratios of the compiled step.

    Without a compiler, the ratios of the compiled step are left out, as standard error says; CompileError where `only`
    names one. ValueError for settings out of range, LoadError for a device that is not here.
    """
    settings = DecodeSettings(**{field.name: getattr(args, field.name) for field in fields(DecodeSettings)})
    names = args.only or measurable(resolve_device(settings.device))
    compiled = any(map(is_compiled, names))
    if compiled:
        check_compiler(resolve_device(settings.device))
    bench = Bench(build_subject(settings), settings)
    with decoding_threads(bench.subject.model):
        result = measure(bench, names)
        counted = {"recompilations": recompilations(bench)} if compiled else {}
        return {**result, **counted, "throughput": throughput(bench), "settings": describe(bench)}


def measurable(device: torch.device) -> list[str]:
    """The ratios that can be measured on this machine; says on standard error which cannot."""
    try:
        check_compiler(device)
    except CompileError as error:
        print(f"look-again: the ratios of the compiled step are left out: {error}", file=sys.stderr)
        return [name for name in RATIOS if not is_compiled(name)]
    return list(RATIOS)


def is_compiled(name: str) -> bool:
    """Whether a ratio is of the compiled step."""
    return name.startswith("compiled")


def measure(bench: Bench, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The named ratios of one bench: their medians, and their samples' spread."""
    samples = {}
    for name in (progress := tqdm(names, desc="bench decode", unit="ratio", disable=None)):
        progress.set_postfix_str(name)
        samples[name] = RATIOS[name].measure(bench)
    return {
        "ratios": {name: statistics.median(values) for name, values in samples.items()},
        "spread": {name: describe_spread(values) for name, values in samples.items()},
    }


def describe(bench: Bench) -> dict[str, Any]:
    """Everything a reader needs to judge or repeat a result."""
    settings, model = bench.settings, bench.subject.model
    text, weight = model.config.get_text_config(), model.get_input_embeddings().weight
    prompts = [prompt.token_ids for prompt in bench.subject.prompts]
    return {
        **{name: getattr(settings, name) for name in ("shapes", "pairs", "tokens", "every", "keep", "clock")},
        "reflections": len(settings.triggers),
        "prompt_tokens": [len(ids) for ids in prompts],
        "visual_tokens": prompts[0].count(bench.subject.image_token),
        "layers": text.num_hidden_layers,
        "hidden": text.hidden_size,
        "vocabulary": text.vocab_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "attention": text._attn_implementation,
        **describe_machine(bench.device),
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The device and the versions that a figure was measured with."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(result: dict[str, Any]) -> str:
    """A result for people: every ratio with its quartiles and target, then speed and settings."""
    lines = [f"{'ratio':35}{'median':>8}{'quartiles':>16}{'target':>8}  what it compares"]
    for name, value in result["ratios"].items():
        spread, ratio = result["spread"][name], RATIOS[name]
        quartiles = f"{spread['q1']:.3f} - {spread['q3']:.3f}"
        target = "" if ratio.target is None else f"{ratio.target:.2f}"
        missed = "" if ratio.target is None or value <= ratio.target else "  MISSED"
        lines.append(f"{name:35}{value:8.3f}{quartiles:>16}{target:>8}  {ratio.meaning}{missed}")
    if "recompilations" in result:
        lines += ["", f"{result['recompilations']} graphs compiled during an answer of {LONG} tokens with three looks"]
    speed = result["throughput"]
    lines += [
        "",
        f"{speed['decode_tokens_per_s']:.1f} tokens per second at batch 1; memory bandwidth allows "
        f"{speed['bandwidth_limit_tokens_per_s']:.1f} ({speed['read_gb_per_token']:.3g} GB per token at "
        f"{speed['copy_bandwidth_gb_per_s']:.0f} GB/s)",
        "",
        ", ".join(f"{name} {value}" for name, value in result["settings"].items()),
    ]
    return "\n".join(lines)
