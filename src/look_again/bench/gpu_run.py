"""Everything that is worth knowing of one GPU, most important first, in less than nine minutes: `benchmarks/gpu.sh`.

Each result is a line of JSON that is written as it comes, so a run that is cut off has measured what it had. A part
that fails says so in its line, and the next one begins. `--device cpu --small` runs the same parts on small shapes: a
rehearsal, whose figures say nothing. The paper measures no speed.

Legend: B sequences of a batch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from look_again.bench.arms import COPY, TEXT, Bench
from look_again.bench.bench_model import BenchModel, large_subject
from look_again.bench.decode_costs import bytes_per_token, describe_machine
from look_again.bench.measure import copy_bandwidth, peak_bytes, timed
from look_again.bench.settings import SHAPES, DecodeSettings, SftSettings
from look_again.core.attention import recorded_attention
from look_again.core.compiled.compiled_step import count_graphs
from look_again.core.reattention import Reattention
from look_again.core.runner import encode_images
from look_again.training.large_shapes import LargeConfig
from look_again.weights.devices import resolve_device

SECONDS = 540.0  # of a whole run
SMALL = LargeConfig(
    vocabulary=512,
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    mlp=128,
    vision_hidden=32,
    vision_layers=2,
    vision_heads=2,
    vision_mlp=64,
    full_attention_layers=(1,),
    image_pixels=112,
)

Piece = tuple[str, Callable[[], dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """What is measured. small: small shapes and few repeats. seconds: after which no further part begins.

    ValueError for no seconds.
    """

    device: str = "cuda"
    small: bool = False
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds must be above 0, not {self.seconds}")

    @property
    def batches(self) -> tuple[int, ...]:
        """Sequences of the decoded batches."""
        return (1, 2) if self.small else (1, 8, 32)

    @property
    def decode(self) -> DecodeSettings:
        """Of decoding: tokens of an answer, one look in its middle."""
        tokens = 24 if self.small else 128
        return DecodeSettings(
            shapes="qwen2.5-vl-7b",
            device=self.device,
            dtype="float32" if self.small else None,
            tokens=tokens,
            every=tokens,
            pairs=1,
        )

    @property
    def sft(self) -> SftSettings:
        """Of training steps, on fewer layers than the 7B has."""
        if self.small:
            return SftSettings(device=self.device, rows=2, pairs=1, loss_targets=64)
        return SftSettings(shapes="qwen2.5-vl-7b", device=self.device, layers=4, pairs=2)


class GpuRun:
    """The parts of one run; models are made where a part first needs them."""

    def __init__(self, settings: GpuSettings) -> None:
        self.settings, self.device = settings, torch.device(settings.device)

    @cached_property
    def subject(self) -> BenchModel:
        """The 7B's shapes with random weights, or small ones."""
        large = SMALL if self.settings.small else LargeConfig()
        dtype = getattr(torch, self.settings.decode.dtype or SHAPES["qwen2.5-vl-7b"])
        return large_subject(8, self.device, dtype, large)

    @cached_property
    def bandwidth(self) -> float:
        """Bytes per second that the device copies."""
        return copy_bandwidth(self.device, megabytes=10 if self.settings.small else 2000)

    @cached_property
    def training(self) -> Any:
        """What makes training steps, once decoding's model is gone."""
        from look_again.bench.sft_costs import SftBench

        self.__dict__.pop("subject", None)
        return SftBench(self.settings.sft)

    def pieces(self) -> Iterator[Piece]:
        """Name and measurement of every part, most important first."""
        arms = {"text": TEXT, "copy": COPY, "route": Reattention(mode="route", keep=self.settings.decode.keep)}
        for batch in self.settings.batches:
            for name, policy in arms.items():
                for compile in (False, True):
                    way = "compiled" if compile else "eager"
                    yield f"decode_{name}_b{batch}_{way}", partial(self.decode, policy, batch, compile)
        yield "recompilations", self.recompilations
        yield "flash_equality", self.flash_equality
        yield "vision_tower", self.vision_tower
        yield "sft_step", self.sft_step
        yield "brpo_step", self.brpo_step
        yield "chunked_loss", self.chunked_loss
        yield "packed_rows", self.packed_rows

    def decode(self, policy: Reattention, batch: int, compile: bool) -> dict[str, Any]:
        """Tokens per second of a batch whose answers look once, beside the bandwidth's limit, and peak memory."""
        subject = self._repeat(batch)
        bench = Bench(subject, self.settings.decode)
        call = bench.arm(policy, [bench.settings.triggers] * batch, compile=compile)
        first = timed(call, self.device)
        seconds = timed(call, self.device)
        tokens = batch * bench.settings.tokens
        return {
            "tokens_per_s": tokens / seconds,
            "bandwidth_limit_tokens_per_s": batch * self.bandwidth / bytes_per_token(bench, batch),
            "first_call_s": first,
            "peak_gb": peak_bytes(call, self.device) / 1e9,
        }

    def recompilations(self) -> dict[str, Any]:
        """Graphs that a longer answer with three looks makes beyond those of the answers before."""
        tokens = 48 if self.settings.small else 384
        settings = replace(self.settings.decode, tokens=tokens, every=tokens // 3)
        bench = Bench(self._repeat(1), settings)
        before = count_graphs()
        output = bench.arm(COPY, [settings.triggers], compile=True, return_dict_in_generate=True)()
        return {"graphs": count_graphs() - before, "looks": len(output.reflections[0])}

    @torch.no_grad()
    def flash_equality(self) -> dict[str, Any]:
        """Largest difference of the logits of a prompt between kernels, relative to the largest logit."""
        model, inputs = self.subject.model, self.subject.inputs(1)
        kernel = "flash_attention_2" if self.device.type == "cuda" else "eager"
        types = (inputs["input_ids"] == self.subject.image_token).long()
        logits = []
        for name in ("sdpa", kernel):
            model.set_attn_implementation(name)
            with recorded_attention(model):
                logits.append(model(**inputs, mm_token_type_ids=types).logits.float())
        model.set_attn_implementation("sdpa")
        gap = float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())
        return {"kernel": kernel, "largest_gap": gap}

    @torch.no_grad()
    def vision_tower(self) -> dict[str, Any]:
        """Images per second of the tower, by images in a pass."""
        inputs, rates = self.subject.inputs(8), {}
        for images in (1, 8):
            patches = int(inputs["image_grid_thw"][:images].prod(-1).sum())
            pixels, grids = inputs["pixel_values"][:patches], inputs["image_grid_thw"][:images]
            call = partial(encode_images, self.subject.model, pixels.to(self.subject.model.dtype), grids)
            call()
            rates[f"images_per_s_of_{images}"] = images / timed(call, self.device)
        return rates

    def sft_step(self) -> dict[str, Any]:
        """Seconds and peak memory of a step with COPY."""
        step = self.training.step(COPY)
        step()
        rows = self.settings.sft.rows
        return {"rows": rows, "step_s": timed(step, self.device), "peak_gb": peak_bytes(step, self.device) / 1e9}

    def brpo_step(self) -> dict[str, Any]:
        """Seconds and peak memory of the loss on a group of answers with COPY: reference, policy and backward."""
        from look_again.rl.objective import brpo_loss
        from look_again.rl.step import padded

        batch = self.training.on_device(self.training.collated(COPY))
        batch = {name: value for name, value in batch.items() if name != "labels"}
        module = self.training.module

        def loss() -> torch.Tensor:
            with torch.no_grad():
                reference, _ = padded(module.log_probs(**batch))
            new, mask = padded(module.log_probs(**batch))
            advantages = torch.linspace(-1, 1, len(new), device=self.device)
            return brpo_loss(new, new.detach(), reference, advantages, mask)[0]

        step = partial(self.training.run_step, loss)
        step()
        rows = self.settings.sft.rows
        return {"answers": rows, "step_s": timed(step, self.device), "peak_gb": peak_bytes(step, self.device) / 1e9}

    def chunked_loss(self) -> dict[str, Any]:
        """Time and peak memory of a loss in chunks over all logits at once."""
        from look_again.bench.loss_costs import measure_loss

        return {name: min(samples) for name, samples in measure_loss(self.settings.sft).items()}

    def packed_rows(self) -> dict[str, Any]:
        """Time of a step on packed rows over padded ones."""
        from look_again.bench.packing_costs import MIXED, PackingBench

        lengths = (150, 200, 300) if self.settings.small else MIXED
        rows = PackingBench(self.training)
        steps = [rows.step(lengths, packing=True), rows.step(lengths, groups=1)]
        for step in steps:
            step()
        packed, padded = (timed(step, self.device) for step in steps)
        return {"packed_s": packed, "padded_s": padded, "packed_over_padded": packed / padded}

    def _repeat(self, batch: int) -> BenchModel:
        """The subject with as many prompts as a batch takes."""
        prompts = self.subject.prompts
        return replace(self.subject, prompts=[prompts[index % len(prompts)] for index in range(batch)])


def run_pieces(settings: GpuSettings, write: Callable[[dict[str, Any]], None]) -> None:
    """Measure every part and hand on its result as it comes: what was measured, or an error, or that time was up."""
    began, run = time.perf_counter(), GpuRun(settings)
    write({"name": "machine", **describe_machine(run.device), "small": settings.small})
    for name, measure in run.pieces():
        if time.perf_counter() - began > settings.seconds:
            write({"name": name, "skipped": f"{settings.seconds:.0f} seconds were up"})
            continue
        start = time.perf_counter()
        try:
            values = measure()
        except (RuntimeError, ValueError, ImportError, AssertionError) as error:  # the next part may well run
            values = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        write({"name": name, **values, "seconds": round(time.perf_counter() - start, 2)})


def main(arguments: list[str] | None = None) -> int:
    """The script's entry; 1 where a part failed."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description="Measure one GPU in less than nine minutes.")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal with --small")
    parser.add_argument("--small", action="store_true", help="small shapes: the figures say nothing")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no further part begins (540)")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="a line per result (gpu.jsonl)")
    args = parser.parse_args(arguments)
    failed = []
    try:
        settings = GpuSettings(device=args.device, small=args.small, seconds=args.seconds)
        resolve_device(args.device)
    except ValueError as error:
        parser.error(str(error))

    with args.out.open("w", encoding="utf-8") as file:

        def write(result: dict[str, Any]) -> None:
            line = json.dumps(result)
            file.write(f"{line}\n")
            file.flush()
            print(line, flush=True)
            failed.extend([result["name"]] if "error" in result else [])

        run_pieces(settings, write)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
