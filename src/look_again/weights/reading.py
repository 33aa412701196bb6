"""A model read from a checkpoint's files, all of it: the library fills what a file lacks with random numbers."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText

from look_again.weights.options import LoadError
from look_again.weights.weight_files import find_weight_files


def read_model(source: str, **kwargs: Any) -> tuple[Any, tuple[str, ...]]:
    """The model of a checkpoint, and notes on it. kwargs: of `from_pretrained`.

    Safetensors only, no remote code. LoadError for weights that are no safetensors, missing, or of another shape than
    the configuration says; what the library raises besides is left as it is.
    """
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    find_weight_files(source, getattr(config, "transformers_weights", None))  # before any is opened
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


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape))


def _count(weights: Sized) -> str:
    return f"{len(weights)} weight{'s' if len(weights) != 1 else ''}"
