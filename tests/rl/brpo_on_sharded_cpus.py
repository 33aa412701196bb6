"""Runs `look_again` with FSDP2 on CPUs: accelerate offers it on GPUs only, so it is told that these are some."""

from __future__ import annotations

import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from look_again.commands.main import main
from look_again.rl import brpo as run

accelerator = run._accelerator


def told_accelerator(config):
    assert PartialState(cpu=True).device.type == "cpu"
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    made = accelerator(config)
    assert made.distributed_type == DistributedType.FSDP, "this run is not sharded"
    return made


run._accelerator = told_accelerator
sys.exit(main(sys.argv[1:]))
