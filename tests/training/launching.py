"""Starts the command in processes of its own, as `accelerate launch` would start it; on a CPU that starts only one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Qwen2_5_VLDecoderLayer",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
ENGINES: dict[str, dict[str, str]] = {"ddp": {}, "fsdp2": FSDP2}
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def launch(arguments: list[str], engine: str | None, sharded_program: Path) -> None:
    """Run `look-again` with these arguments: in two processes of an engine, or in one without; fails where it does.

    sharded_program: stands for the command where the engine is fsdp2, which accelerate offers on GPUs alone.
    """
    program = [str(sharded_program)] if engine == "fsdp2" else ["-m", "look_again"]
    command = [sys.executable, *([] if engine is None else TWO_PROCESSES), *program, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **ENGINES.get(engine or "", {})}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-6000:]
