"""How costs are measured: interleaved pairs of timed calls, peaks of live tensor memory, the bandwidth of a device.

Two arms are never timed one after the other but in pairs whose order alternates, so that what drifts (clock speed,
other work on the machine) meets both alike; what is reported is the median of the pairs' ratios, with its spread. The
paper measures no cost.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import trange

Call = Callable[[], Any]
BANDWIDTH_REPEATS = 5


def timed(call: Call, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, its work on the device included; garbage of earlier calls is collected first."""
    gc.collect()
    _wait(device)
    start = clock()
    call()
    _wait(device)
    return clock() - start


def paired_ratios(measured: Call, baseline: Call, pairs: int, measure: Callable[[Call], float]) -> list[float]:
    """`measure(measured) / measure(baseline)` of each pair, after one warm-up call of both.

    Even pairs run the measured arm first, odd pairs the baseline. ValueError for less than one pair.
    """
    if pairs < 1:
        raise ValueError(f"a ratio needs at least one pair, not {pairs}")
    measured()
    baseline()
    ratios = []
    for pair in trange(pairs, desc="pairs", leave=False, disable=None):  # shown on a terminal alone
        if pair % 2 == 0:
            above, below = measure(measured), measure(baseline)
        else:
            below, above = measure(baseline), measure(measured)
        ratios.append(above / below)
    return ratios


def describe_spread(samples: Sequence[float]) -> dict[str, float]:
    """Quartiles and extremes of samples; `n` is their number. Quartiles interpolate between the samples."""
    ordered = sorted(samples)
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return {"min": ordered[0], "q1": quartiles[0], "q3": quartiles[2], "max": ordered[-1], "n": len(ordered)}


def peak_bytes(call: Call, device: torch.device) -> float:
    """Highest number of live tensor bytes during a call, above what was live before it.

    On a CPU it is read from the allocator's events in a profiler's trace: exact, temporaries inside operators included,
    but slow (the trace of an answer holds every operator). Elsewhere the caching allocator's own peak is read.
    """
    gc.collect()
    if device.type == "cpu":
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            call()
        return measure_peak(_allocations(profiler))
    backend = torch.get_device_module(device)
    _wait(device)
    backend.reset_peak_memory_stats(device)
    before = backend.memory_allocated(device)
    call()
    _wait(device)
    return backend.max_memory_allocated(device) - before


def measure_peak(allocations: Iterable[tuple[float, int]]) -> int:
    """Highest running total of (time, bytes) events; bytes are negative where memory was freed."""
    total = peak = 0
    for _, size in sorted(allocations, key=lambda event: event[0]):
        total += size
        peak = max(peak, total)
    return peak


def _allocations(profiler: profile) -> list[tuple[float, int]]:
    """(time, bytes) of every allocation and release on the CPU that a finished profiler saw."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return [(event["ts"], event["args"]["Bytes"]) for event in events if _is_cpu_memory(event)]


def _is_cpu_memory(event: Mapping[str, Any]) -> bool:
    return event.get("name") == "[memory]" and event["args"].get("Device Type") == 0


def copy_bandwidth(device: torch.device, megabytes: int) -> float:
    """Bytes per second that the device moves while it copies a buffer (one read, one write of each), best of a few."""
    source = torch.ones(megabytes * 1_000_000, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(timed(lambda: target.copy_(source), device) for _ in range(BANDWIDTH_REPEATS))
    return 2 * source.numel() / seconds


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
