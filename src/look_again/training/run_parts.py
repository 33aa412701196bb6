"""What runs of every method have in common: what trains, AdamW, and the hardware that a run is planned for.

Defaults are the paper's where it gives any; each is followed by where it is from, or by "paper gives none".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from look_again.yaml_config import check_types

TRAINED_MODES = ("text", "copy", "route")  # vision-only writes no reflection, so there is nothing to train
TRAINS = ("all", "without_vision", "language_model", "lora")
UNKNOWN_MEMORY_GB = 16.0  # of a machine that does not say
MOST_SEED = 2**32 - 1  # of numpy's generator
ENGINES = ("single", "ddp", "fsdp2", "zero3")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on every linear layer of the language model. The paper trains none, so it gives no values.

    ValueError for values out of range.
    """

    rank: int = 16
    """Rank of each adapter."""
    alpha: int = 32
    """Scale of the adapters: their product is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is dropped in training."""

    def __post_init__(self) -> None:
        check_types(self)
        require_positive(self, "rank", "alpha")
        require_share(self, "dropout")


@dataclass(frozen=True, kw_only=True)
class TrainedParts:
    """What of the model trains. ValueError for an unknown part."""

    trains: str = "all"
    """"all", "without_vision", "language_model" (decoder layers and final norm; of embedding and head only the tags'
    rows: the paper's SFT) or "lora" (adapters on the language model, and the tags' rows). The paper's BRPO: "all"."""
    lora: Lora = field(default_factory=Lora)
    """Adapters of `trains: lora`."""

    def __post_init__(self) -> None:
        if self.trains not in TRAINS:
            raise ValueError(f"unknown trains {self.trains!r}; known: {', '.join(TRAINS)}")

    @property
    def tags_apart(self) -> bool:
        """Whether the tags' rows train while the rest of the embedding is frozen."""
        return self.trains in ("language_model", "lora")


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The optimizer, but for its rate. ValueError for values out of range."""

    weight_decay: float = 0.0
    """Per step, times the rate; paper gives none."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; paper gives none."""
    adam_beta1: float = 0.9
    """Decay of the gradients' mean; paper: 0.9 (implementation details)."""
    adam_beta2: float = 0.999
    """Decay of the squared gradients' mean; paper: 0.999 in SFT, 0.95 in BRPO (implementation details)."""
    adam_epsilon: float = 1e-8
    """Added to the denominator; paper: 1e-8 (implementation details)."""

    def __post_init__(self) -> None:
        check_types(self)
        require_least(self, 0, "weight_decay")
        require_positive(self, "max_grad_norm", "adam_epsilon")
        require_share(self, "adam_beta1", "adam_beta2")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run is meant for; `--dry-run` plans with it. ValueError for an unknown engine or no memory."""

    gpus: int = 1
    """GPUs in all, 0 for a CPU; the paper trained on 8."""
    memory_gb: float = 80.0
    """Memory per GPU, or of the machine, in GB (10^9 bytes); the paper's A800 have 80."""
    engine: str = "single"
    """"single", "ddp", "fsdp2" or "zero3", as in `recipes/engines/`; the paper used DeepSpeed ZeRO-3."""
    shapes: str | None = None
    """A known checkpoint whose shapes are planned with while the base is yet to be trained."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.engine not in ENGINES:
            raise ValueError(f"unknown engine {self.engine!r}; known: {', '.join(ENGINES)}")
        if self.gpus < 0 or self.memory_gb <= 0:
            raise ValueError(
                f"hardware needs GPUs, or a CPU (gpus: 0), with memory, not {self.gpus} x {self.memory_gb} GB"
            )

    @property
    def devices(self) -> int:
        """GPUs, or the one CPU."""
        return max(1, self.gpus)

    def __str__(self) -> str:
        if self.gpus == 0:
            return f"a CPU with {self.memory_gb:.3g} GB"
        return f"{self.gpus} x {self.memory_gb:.3g} GB"

    @property
    def sharded(self) -> bool:
        """Whether the engine cuts up weights and optimizer."""
        return self.engine in ("fsdp2", "zero3")


def find_hardware() -> Hardware:
    """The machine that this runs on: its GPUs, as one of them would be trained on, or its CPU."""
    import torch

    if torch.cuda.is_available():
        return Hardware(gpus=1, memory_gb=torch.cuda.get_device_properties(0).total_memory / 1e9)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system says so
        memory = int(UNKNOWN_MEMORY_GB * 1e9)
    return Hardware(gpus=0, memory_gb=round(memory / 1e9, 1))


def require_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """ValueError, listing the known values, for any other."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def require_positive(config: object, *names: str) -> None:
    """ValueError for a field of `config` that is neither None nor above 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, not {value}")


def require_least(config: object, least: int, *names: str) -> None:
    """ValueError for a field of `config` that is neither None nor at least so large."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is at least {least}, not {value}")


def require_share(config: object, *names: str) -> None:
    """ValueError for a field of `config` that is not from 0 to below 1."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} is from 0 to below 1, not {value}")


def require_weights(config: object, name: str, known: Iterable[str]) -> None:
    """ValueError for a table of weights with unknown names or negative weights, or without any that is above 0."""
    weights: Mapping[str, float] = getattr(config, name)
    if unknown := sorted(set(weights) - set(known)):
        raise ValueError(f"unknown {name} {unknown}; known: {', '.join(known)}")
    if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
        raise ValueError(f"{name} has weights from 0 on, one of them above it, not {dict(weights)}")


def require_run(output: str, seed: int) -> None:
    """ValueError for a run without a folder, and for a seed that not every generator takes."""
    if not output:
        raise ValueError("output names the run's folder, and it is empty")
    if not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed is from 0 to {MOST_SEED}, not {seed}")
