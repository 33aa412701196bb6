"""How a checkpoint comes into memory: devices, dtype, quantisation, adapters, and where each file is read from."""

from __future__ import annotations

from look_again.weights.options import DEVICE_MAPS, QUANTIZATIONS, LoadError, LoadOptions

__all__ = ["DEVICE_MAPS", "QUANTIZATIONS", "LoadError", "LoadOptions"]
