"""A model read from a checkpoint's files, all of it: the library fills what a file lacks with random numbers."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from math import prod
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText
from transformers.integrations import is_deepspeed_zero3_enabled

from look_again.weights.configuration import read_config
from look_again.weights.devices import build_skeleton
from look_again.weights.options import LoadError
from look_again.weights.quantization import find_method
from look_again.weights.weight_files import find_weight_files, read_shapes

FAR_LARGER = 2
SMALL = 2**26
"""Values without weights that may be made before those that are missing are named: no machine runs out of memory."""


def read_model(source: str, **kwargs: Any) -> tuple[Any, tuple[str, ...]]:
    """The model of a checkpoint, and notes on it. kwargs: of `from_pretrained`.

    Safetensors only, no remote code. LoadError for weights that are no safetensors, damaged, missing, or of another
    shape than the configuration says; what the library raises besides is left as it is.
    """
    config = read_config(source)
    files = find_weight_files(source, getattr(config, "transformers_weights", None))  # before any is opened
    _check_size(source, config, files)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        source,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused here, by name
        **kwargs,
    )
    model, info = loaded
    missing, unexpected, odd = (sorted(info[f"{kind}_keys"]) for kind in ("missing", "unexpected", "mismatched"))
    if odd:
        name, stored, wanted = odd[0]
        raise LoadError(
            f"the weights of {source} are not those of its config.json: {name} is {_shape(stored)} there, and "
            f"{_shape(wanted)} is needed ({_count(odd)} in all)"
        )
    if missing:
        raise LoadError(
            f"the weights of {source} are not whole: {missing[0]} is missing ({_count(missing)} in all); fetch or save "
            "the checkpoint again"
        )
    if not unexpected:
        return model, ()
    left = f"{_count(unexpected)} of {source} without a place in this model, {unexpected[0]} the first: left out"
    return model, (left,)


def _check_size(source: str, config: Any, files: Sequence[Path]) -> None:
    """LoadError for a configuration of a far larger model than its weights, all of which the library would make."""
    shapes = read_shapes(files)
    if find_method(config) is not None or is_deepspeed_zero3_enabled():  # packed; or a skeleton would be spread
        return
    parts = (config.get_text_config(), getattr(config, "vision_config", None))
    layers = [getattr(part, name, None) for part in parts for name in ("num_hidden_layers", "depth")]
    deepest = max((count for count in layers if isinstance(count, int)), default=0)
    if deepest > len(shapes):  # too many for a skeleton even
        raise LoadError(f"{_larger(source)}: it has {deepest} layers, and there are {_count(shapes)}")
    stored = sum(map(prod, shapes))
    needed = sum(parameter.numel() for parameter in build_skeleton(config).parameters())
    if needed > FAR_LARGER * stored + SMALL:
        raise LoadError(f"{_larger(source)}: it has {needed:,} values, and {stored:,} are stored")


def _larger(source: str) -> str:
    return f"the config.json of {source} is that of a far larger model than its weights, or lacks a part of it"


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape))


def _count(weights: Sized) -> str:
    return f"{len(weights)} weight{'s' if len(weights) != 1 else ''}"
