"""Where a model takes its inputs, also where its weights are kept elsewhere until a layer needs them."""

from __future__ import annotations

from typing import Any

import torch

OFFLOADED = ("cpu", "disk")


def input_device(model: Any) -> torch.device:
    """The device of a model's inputs: its embedding's, or the one on which offloaded weights are used.

    A map of modules to devices uses what it keeps in memory or on disk on its first accelerator, else on the CPU.
    """
    device = model.get_input_embeddings().weight.device
    if device.type != "meta":
        return device
    places = getattr(model, "hf_device_map", {}).values()
    return torch.device(next((place for place in places if place not in OFFLOADED), "cpu"))
