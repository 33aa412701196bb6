"""Where weights lie and in which type: one device, or a map of modules to devices, CPU memory and disk.

Legend: a device map gives names of modules, "" for the whole model, a device each, as in transformers and accelerate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from look_again.extras import require
from look_again.weights.options import LoadError, LoadOptions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one, else the CPU. LoadError for one that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise LoadError(f"unknown device {device!r}; use auto, cpu, cuda or mps") from error
    if place.type == "meta" or (place.type != "cpu" and not _is_here(place)):
        kind = "CUDA" if place.type == "cuda" else place.type
        raise LoadError(f"no {kind} device is available; use --device cpu")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise LoadError(f"there is no {place}: {torch.cuda.device_count()} CUDA devices are available")
    return place


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """The type of a name, for weights on a device. LoadError for an unknown one."""
    if dtype == "checkpoint":
        return "auto"
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise LoadError(f"unknown dtype {dtype!r}; known: auto, checkpoint, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def build_skeleton(config: Any) -> Any:
    """The model of a configuration without its weights, for the names of its modules."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def placement_kwargs(options: LoadOptions, config: Any) -> dict[str, Any]:
    """What `from_pretrained` gets for a device map; empty without one. LoadError for a map that cannot be used."""
    if options.device_map is None:
        return {}
    require("accelerate", extra="load")
    place = options.device_map
    if isinstance(place, Mapping):
        skeleton = build_skeleton(config)
        check_device_map(place, skeleton)
        place = split_device_map(place, skeleton)
    optional = {"max_memory": options.max_memory, "offload_folder": options.offload_folder}
    given = {name: value for name, value in optional.items() if value is not None}
    return {"device_map": place, **given}


def check_device_map(device_map: Mapping[str, int | str], skeleton: Any) -> None:
    """LoadError for a map with unknown modules or devices, and for one that leaves a part off every device."""
    modules = {name for name, _ in skeleton.named_modules()}
    tensors = [name for name, _ in skeleton.named_parameters()]
    unknown = [name for name in device_map if name not in modules and name not in tensors]
    if unknown:
        parts = ", ".join(_parts(skeleton))
        raise LoadError(f"the device map names {unknown[0]!r}, which this model does not have; its parts: {parts}")
    for device in device_map.values():
        _check_device(device)
    missing = [part for part in _parts(skeleton) if any(_find(device_map, n) is None for n in _below(tensors, part))]
    if missing:
        raise LoadError(f"the device map leaves {', '.join(missing)} off every device: give each of them a device")
    _check_tie(device_map, skeleton)


def split_device_map(device_map: Mapping[str, int | str], skeleton: Any) -> dict[str, int | str]:
    """A checked map in which no module is inside another, which the library does not place on disk.

    LoadError for tensors that would be on disk apart from their module.
    """
    places = _split_module("", skeleton, device_map)
    modules = {name for name, _ in skeleton.named_modules()}
    alone = [name for name, device in places.items() if device == "disk" and name not in modules]
    if alone:
        raise LoadError(f"the device map puts {alone[0]} on disk apart from the rest of its module: name the module")
    return places


def _split_module(name: str, module: Any, device_map: Mapping[str, int | str]) -> dict[str, int | str]:
    """The places of a module: one where nothing inside it is named, else those of its tensors and children."""
    inside = [other for other in device_map if other != name and (not name or other.startswith(f"{name}."))]
    if not inside:
        device = _find(device_map, name)
        return {} if device is None else {name: device}
    start = f"{name}." if name else ""
    tensors = {start + own: _find(device_map, start + own) for own in module.state_dict() if "." not in own}
    places = {tensor: device for tensor, device in tensors.items() if device is not None}
    for own, child in module.named_children():
        places |= _split_module(start + own, child, device_map)
    return places


def _check_device(device: int | str) -> None:
    if device in ("cpu", "disk"):
        return
    if isinstance(device, bool) or not isinstance(device, int | str):
        raise LoadError(f"the device map names the device {device!r}: a device is a name or a number")
    if isinstance(device, int):
        if not 0 <= device < torch.cuda.device_count():
            raise LoadError(
                f"the device map asks for device {device}: {torch.cuda.device_count()} CUDA devices are available"
            )
        return
    try:
        resolve_device(device if device != "auto" else "")
    except LoadError as error:
        raise LoadError(f"the device map cannot be used: {error}") from error


def _check_tie(device_map: Mapping[str, int | str], skeleton: Any) -> None:
    """The embedding and a head that is tied to it are one matrix, which cannot be in memory and on disk."""
    head = skeleton.get_output_embeddings()
    embedding = skeleton.get_input_embeddings()
    if head is None or not skeleton.config.tie_word_embeddings:
        return
    names = {id(module): name for name, module in skeleton.named_modules()}
    first, second = names[id(embedding)], names[id(head)]
    places = [_find(device_map, f"{name}.weight") for name in (first, second)]
    if places[0] != places[1] and "disk" in places:
        raise LoadError(
            f"{first} and {second} are one matrix (tied): the device map puts them on {places[0]} and {places[1]}; "
            "give both the same place"
        )


def _parts(skeleton: Any) -> list[str]:
    """Names of the model's parts: those of its base, and the head."""
    base = next(name for name, module in skeleton.named_modules() if module is skeleton.base_model)
    inner = [f"{base}.{name}" if base else name for name, _ in skeleton.base_model.named_children()]
    outer = [name for name, _ in skeleton.named_children() if name != base]
    return [*inner, *outer] if base else inner


def _below(names: Iterable[str], part: str) -> list[str]:
    return [name for name in names if name.startswith(f"{part}.")]


def _find(device_map: Mapping[str, int | str], name: str) -> int | str | None:
    """The device of a tensor: its own entry, or that of the nearest module around it."""
    while name:
        if name in device_map:
            return device_map[name]
        name = name.rpartition(".")[0]
    return device_map.get("")


def _is_here(place: torch.device) -> bool:
    if place.type == "cuda":
        return torch.cuda.is_available()
    found = torch.accelerator.current_accelerator(check_available=True)
    return found is not None and found.type == place.type
