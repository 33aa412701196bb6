"""Runs `look_again` with FSDP2 on CPUs: accelerate offers it on GPUs only, so it is told that these are some."""

from __future__ import annotations

import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from look_again.commands.main import main
from look_again.training import sft as run
from look_again.training.sft_task import SftTask
from look_again.training.trainer import ReattentionTrainer

arguments = run._arguments


def told_arguments(*args):
    made = arguments(*args)
    assert made.device.type == "cpu"
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return made


class CheckedTrainer(ReattentionTrainer):
    def training_step(self, model, *args, **kwargs):
        assert self.is_fsdp_enabled, "this run is not sharded"
        assert type(model).__name__ == "FSDPReattending", type(model)
        return super().training_step(model, *args, **kwargs)


run._arguments = told_arguments
SftTask.trainer = CheckedTrainer
sys.exit(main(sys.argv[1:]))
