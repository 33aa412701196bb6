"""Quantised weights: those that a checkpoint brings, and those that are made while it is loaded.

Only the language model's layers are quantised at loading. The vision tower, a small part, and the rows of embedding and
head, which hold the tags, stay as they are.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from look_again.extras import require
from look_again.weights.devices import build_skeleton
from look_again.weights.offloading import is_offloaded
from look_again.weights.options import LoadError

GROUP = 32
"""Weights that share a scale in int4: the least that torchao offers, so that it divides small shapes."""

BNB_GROUP = 64
"""Weights that share a scale in bitsandbytes' 4 bits, whose kernels for CPUs take no row that ends within a group."""

LIBRARIES = {
    "torchao": "torchao",
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed_tensors",
    "hqq": "hqq",
    "quanto": "optimum.quanto",
}
"""Package that a method of quantisation needs; the others need none, or say so themselves."""

OURS = ("torchao", "bitsandbytes")  # what the extra `quantize` installs


def find_method(config: Any) -> str | None:
    """The method by which a checkpoint's weights are quantised, as its configuration names it; None for plain ones."""
    entry = getattr(config, "quantization_config", None)
    if entry is None:
        return None
    found = entry.get("quant_method") if isinstance(entry, dict) else getattr(entry, "quant_method", None)
    return str(getattr(found, "value", found or "bitsandbytes"))


def check_library(config: Any) -> None:
    """An error, which says what to install, where a quantised checkpoint's library is missing."""
    package = LIBRARIES.get(find_method(config) or "")
    if package is None:
        return
    _silence(package)
    if package in OURS:
        require(package, extra="quantize")
    elif not _is_installed(package):
        raise LoadError(
            f"this checkpoint is quantised by {find_method(config)}, which needs {package}: "
            f"pip install {package.replace('.', '-')}"
        )


def build_quantization_config(name: str, config: Any, device: torch.device) -> Any:
    """The library's configuration of a quantisation by name, for weights on a device.

    LoadError for a checkpoint that is quantised already, MissingExtraError without the library.
    """
    if find_method(config) is not None:
        raise LoadError(
            f"this checkpoint is quantised already ({find_method(config)}): leave the quantization {name} out"
        )
    package = "bitsandbytes" if name.startswith("bnb") else "torchao"
    require(package, extra="quantize")
    require("accelerate", extra="quantize")
    _silence(package)
    skeleton = build_skeleton(config)
    kept = list_kept(skeleton)
    _check_widths(name, skeleton, device)
    if package == "bitsandbytes":
        from transformers import BitsAndBytesConfig

        eight = name == "bnb-8bit"
        return BitsAndBytesConfig(load_in_8bit=eight, load_in_4bit=not eight, llm_int8_skip_modules=kept)
    from transformers import TorchAoConfig

    return TorchAoConfig(_torchao_config(name, device), modules_to_not_convert=kept)


def check_in_memory(model: Any) -> None:
    """LoadError for quantised weights that a device map leaves out of the memory of the device that uses them."""
    if any(is_offloaded(module) for module in model.modules()):
        raise LoadError(
            "quantised weights are not offloaded: give every part a device of its own, or leave the quantization out"
        )


def _check_widths(name: str, skeleton: Any, device: torch.device) -> None:
    """LoadError for layers whose rows do not divide into groups of one scale."""
    group = {"int4": GROUP, "bnb-4bit": BNB_GROUP if device.type == "cpu" else 1}.get(name, 1)
    linears = [module for module in skeleton.get_decoder().modules() if isinstance(module, torch.nn.Linear)]
    odd = [linear.in_features for linear in linears if linear.in_features % group]
    if odd:
        raise LoadError(f"{name} needs layers whose width is a multiple of {group}; one here has {odd[0]}: use int8")


def list_kept(skeleton: Any) -> list[str]:
    """Names of the modules that stay as they are: what the base holds beside its decoder, and the head."""
    decoder, head = skeleton.get_decoder(), skeleton.get_output_embeddings()
    base = next(name for name, module in skeleton.named_modules() if module is skeleton.base_model)
    beside = [name for name, child in skeleton.base_model.named_children() if decoder not in list(child.modules())]
    heads = [name for name, module in skeleton.named_modules() if module is head]
    return [*(f"{base}.{name}" if base else name for name in beside), *heads]


def _torchao_config(name: str, device: torch.device) -> Any:
    from torchao import quantization

    if name == "int8":
        return quantization.Int8WeightOnlyConfig()
    if device.type == "cuda":
        return quantization.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    # Kernels of packed int4 are CUDA's: elsewhere a value takes a byte, and is as exact.
    four_bits: torch.dtype = vars(torch)["int4"]
    return quantization.IntxWeightOnlyConfig(four_bits, quantization.PerGroup(GROUP))


def _silence(package: str) -> None:
    """Keep a library's notes on its own kernels, one per layer and pass, off the terminal."""
    logging.getLogger(package).setLevel(logging.ERROR)


def _is_installed(package: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
