"""The options with which a checkpoint is loaded, one set for every command and for Python.

Nothing heavy is imported here, so that a command line is built without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUANTIZATIONS = ("int8", "int4", "bnb-8bit", "bnb-4bit")
"""What weights may be stored as in memory: the first two by torchao, the others by bitsandbytes."""

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Names of the library's ways to spread a model."""

DeviceMap = str | Mapping[str, int | str]


class LoadError(ValueError):
    """A checkpoint that cannot be loaded; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a checkpoint is loaded.

    device: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1", "mps", ….
    dtype: "auto" is bfloat16 on CUDA, else float32; "checkpoint" is what the weights are stored in.
    attn_implementation: attention kernel; None is the library's choice.
    max_pixels, min_pixels: images are scaled into these bounds; None leaves them to the checkpoint's record and
    processor (the paper trains with at most 262,144).
    processor_options: further fields of the image processor, such as the tiles of a family that has them.
    trained: whether the checkpoint writes the response format unprompted; None leaves that to its record.
    device_map: a name in DEVICE_MAPS, or a device ("cuda:0", 0, "cpu", "disk") per module; None is one device.
    max_memory: per device, "10GiB" or bytes, for the maps that are inferred. offload_folder: for weights that a map
    leaves on disk and that cannot be read from the checkpoint's own files.
    quantization: a name in QUANTIZATIONS, applied to the language model; None loads weights as they are stored.
    adapter: a folder or hub name of peft; its base comes from its configuration where no checkpoint is named.
    merge_adapter: fold it into the base; None folds it in unless the base is quantised.
    compile: run decode steps as a compiled graph; a model that it does not carry is noted and decodes eagerly.

    LoadError for unknown names and for options that exclude each other.
    """

    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str | None = None
    max_pixels: int | None = None
    min_pixels: int | None = None
    processor_options: Mapping[str, Any] = field(default_factory=dict)
    trained: bool | None = None
    device_map: DeviceMap | None = None
    max_memory: Mapping[int | str, int | str] | None = None
    offload_folder: str | Path | None = None
    quantization: str | None = None
    adapter: str | Path | None = None
    merge_adapter: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("trained", "merge_adapter", "compile"):
            if not isinstance(getattr(self, name), bool | None):
                raise LoadError(f"{name} is True, False or left out, not {getattr(self, name)!r}")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise LoadError(f"unknown quantization {self.quantization!r}; known: {', '.join(QUANTIZATIONS)}")
        if isinstance(self.device_map, str) and self.device_map not in DEVICE_MAPS:
            raise LoadError(
                f"unknown device map {self.device_map!r}; known: {', '.join(DEVICE_MAPS)}, or a device per module"
            )
        if self.device_map is not None and self.device != "auto":
            raise LoadError("a device map places every module: leave the device out, or the map")
        if self.device_map is None and (self.max_memory or self.offload_folder):
            raise LoadError("max_memory and offload_folder belong to a device map, and would change nothing without")


def parse_device_map(text: str) -> DeviceMap:
    """A device map as a command line has it: a name, a JSON object, or a file that holds one. LoadError for others."""
    if text in DEVICE_MAPS:
        return text
    source = text if text.lstrip().startswith("{") else _read(text)
    devices = parse_object(source, "the device map")
    for module, device in devices.items():
        if isinstance(device, bool) or not isinstance(device, int | str):
            raise LoadError(f"the device map puts {module!r} on {device!r}: a device is a name or a number")
    return {module: int(device) if str(device).isdecimal() else device for module, device in devices.items()}


def parse_max_memory(text: str) -> dict[int | str, int | str]:
    """Memory per device from a JSON object, {"0": "20GiB", "cpu": "60GiB"}. LoadError for others."""
    sizes = parse_object(text, "the memory per device")
    return {int(device) if device.isdecimal() else device: size for device, size in sizes.items()}


def parse_processor_option(text: str) -> tuple[str, Any]:
    """One option of an image processor, NAME=VALUE, the value as JSON or else as text. LoadError for others."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise LoadError(f"an option of the image processor is NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parse_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object. LoadError, which names `what`, for anything else."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{what} is not JSON: {error}") from error
    if not isinstance(parsed, dict) or not parsed:
        raise LoadError(f"{what} is a JSON object with an entry or more, not {repr(parsed)[:100]}")
    return parsed


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise LoadError(
            f"unknown device map {path!r}: it is none of {', '.join(DEVICE_MAPS)}, no JSON object and no file of one"
        ) from error
