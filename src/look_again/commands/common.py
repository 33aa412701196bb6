"""Arguments that several commands share, and what they turn into."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from look_again.core.modes import CONTROLS, POSITION_LAYOUTS, RANKINGS, REUSES, RULES, parse_mode
from look_again.weights.options import (
    DEVICE_MAPS,
    QUANTIZATIONS,
    LoadOptions,
    parse_device_map,
    parse_max_memory,
    parse_processor_option,
)

if TYPE_CHECKING:
    from look_again.core.reattention import Reattention
    from look_again.model import LookAgain

BACKENDS = ("transformers", "vllm")
VLLM_KEY_VARIABLE = "LOOK_AGAIN_VLLM_API_KEY"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint, and how it is loaded: what `build_load_options` reads."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="DIR_OR_HUB_NAME", help="checkpoint (default: the shipped tiny model)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    group.add_argument("--dtype", default="auto", help="auto, checkpoint, float32, bfloat16 or float16 (default: auto)")
    group.add_argument("--max-pixels", type=int, metavar="N", help="scale larger images down to N pixels")
    group.add_argument("--min-pixels", type=int, metavar="N", help="scale smaller images up to N pixels")
    format = group.add_mutually_exclusive_group()
    format.add_argument(
        "--trained",
        action="store_true",
        default=None,
        help="the checkpoint writes the response format unprompted (default: what its look_again.json says)",
    )
    format.add_argument(
        "--prompted", dest="trained", action="store_false", default=None, help="it is prompted for the response format"
    )
    group.add_argument("--attention", help="attention kernel, e.g. sdpa or flash_attention_2 (default: the library's)")
    group.add_argument(
        "--processor-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the image processor, e.g. the tiles of a family that has them; repeatable",
    )
    add_weight_arguments(group)
    _add_placement_arguments(group)


def add_weight_arguments(group: Any) -> None:
    """What is laid on the weights: a quantisation, an adapter."""
    group.add_argument(
        "--quantization", choices=QUANTIZATIONS, help="quantise the language model while loading (default: as stored)"
    )
    group.add_argument(
        "--adapter", metavar="DIR_OR_HUB_NAME", help="peft adapter; its base is --model, or else the one that it names"
    )


def _add_placement_arguments(group: Any) -> None:
    group.add_argument(
        "--no-merge", action="store_true", help="keep the adapter apart from the weights (default under quantisation)"
    )
    group.add_argument(
        "--device-map",
        metavar="MAP",
        help=f"spread the model: {', '.join(DEVICE_MAPS)}, or JSON (or a file of it) with a device per module: a "
        "number, cpu or disk",
    )
    group.add_argument("--max-memory", metavar="JSON", help='per device, {"0": "20GiB", "cpu": "60GiB"}')
    group.add_argument("--offload-folder", metavar="DIR", help="for weights that cannot stay in the checkpoint's files")


def build_load_options(args: argparse.Namespace) -> LoadOptions:
    """How the arguments load a checkpoint. LoadError for values out of range and options that exclude each other."""
    return LoadOptions(
        device=args.device,
        dtype=args.dtype,
        attn_implementation=args.attention,
        max_pixels=args.max_pixels,
        min_pixels=args.min_pixels,
        processor_options=dict(map(parse_processor_option, args.processor_option)),
        trained=args.trained,
        device_map=None if args.device_map is None else parse_device_map(args.device_map),
        max_memory=None if args.max_memory is None else parse_max_memory(args.max_memory),
        offload_folder=args.offload_folder,
        quantization=args.quantization,
        adapter=args.adapter,
        merge_adapter=False if args.no_merge else None,
        compile=getattr(args, "compile", False),
    )


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile",
        action="store_true",
        help="run decode steps as a compiled graph: the first answer waits for the compiler, later ones come faster",
    )


def add_reasoning_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-reasoning-tokens",
        type=int,
        metavar="N",
        help="sampled tokens before the CONCLUSION, which is then forced (default: no bound, nothing is forced)",
    )


def add_reattention_arguments(parser: argparse.ArgumentParser) -> None:
    """What a reflection does. An option that is not given follows the checkpoint."""
    parser.add_argument(
        "--reattention",
        type=_mode,
        metavar="MODE",
        help="what a reflection does: text, copy, route, route-25, vision (default: as in the checkpoint's training); "
        "image-twice, user-turn, user-turn-image",
    )
    parser.add_argument("--keep", type=int, metavar="M", help="percent of visual tokens that route keeps (50)")
    parser.add_argument(
        "--ranking", choices=RANKINGS, help="what route keeps: the most attended, a diverse set, or both (relevance)"
    )
    parser.add_argument("--rule", choices=RULES, help="ranking of route: equation 5 (paper), or less sinks")
    parser.add_argument(
        "--count-copies",
        action="store_true",
        default=None,
        help="route: attention on re-inserted copies counts for the visual tokens that they copy",
    )
    parser.add_argument(
        "--keep-frames",
        action="store_true",
        default=None,
        help="route: keep whole frames of videos, and whole images, ranked by the attention on all of each",
    )
    parser.add_argument("--layout", choices=POSITION_LAYOUTS, help="positions of re-inserted visual tokens (grid)")
    parser.add_argument(
        "--reuse",
        choices=REUSES,
        help="put cached visual keys back, rotated to their place, instead of prefilling copies",
    )
    parser.add_argument("--no-delimiters", action="store_true", help="re-insert without vision delimiters")
    parser.add_argument("--max-reinsertions", type=int, metavar="N", help="per answer (16)")


def _mode(text: str) -> tuple[str, int | None]:
    try:
        return parse_mode(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_control_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--control",
        choices=CONTROLS,
        help="put back another or a blank image's rows, random rows, or at a random place",
    )
    parser.add_argument("--control-seed", type=int, default=0, metavar="S", help="of random rows and places (0)")
    parser.add_argument(
        "--within", type=int, default=64, metavar="W", help="the random place is among the first W tokens (64)"
    )


def add_backend_arguments(parser: Any) -> None:
    """What decodes: this process, or vLLM servers. `parser` may be a group of one."""
    parser.add_argument("--backend", default="transformers", choices=BACKENDS, help="what decodes (transformers)")
    parser.add_argument(
        "--vllm-url", action="append", default=[], metavar="URL", help="a vLLM server; repeatable (--backend vllm)"
    )


def check_backend(args: argparse.Namespace) -> None:
    """ValueError for a backend without its servers, servers without their backend, and addresses that are none."""
    if (args.backend == "vllm") != bool(args.vllm_url):
        raise ValueError("--backend vllm and --vllm-url go together: give both, or neither")
    if args.vllm_url:
        if getattr(args, "reuse", None):
            raise ValueError("--reuse moves keys of the cache in this process, which a vLLM server has in its own")
        if getattr(args, "compile", False):
            raise ValueError("--compile is of decoding in this process: a vLLM server compiles its own graphs")
        from look_again.clients.vllm_requests import check_url

        for url in args.vllm_url:
            check_url(url)
        if args.adapter:
            raise ValueError(
                "--adapter and --backend vllm: the server needs the same weights, so write both into one folder "
                f"(look-again prepare {args.model or args.adapter} OUT) and give it to both sides"
            )


def check_port(port: int) -> None:
    """ValueError for a number that is no port."""
    if not 0 <= port < 65536:
        raise ValueError(f"a port is a number from 0 to 65535, not {port}")


def build_reattention(args: argparse.Namespace) -> Reattention:
    """The re-attention of the checkpoint's training, with what the arguments say otherwise.

    Says on standard error when it follows a checkpoint that was not trained as the defaults are. ValueError for values
    out of range, and for options of route without it.
    """
    from look_again.core.reattention import Reattention
    from look_again.loading import recorded_reattention

    asked = _asked_reattention(args)
    Reattention(**asked)  # values out of range are told before a checkpoint is looked for
    recorded = Reattention() if getattr(args, "base_url", None) else recorded_reattention(args.model, args.adapter)
    policy = replace(recorded, **asked)
    _check_route(args, policy)
    if args.reattention is None and recorded != Reattention():
        print(f"note: re-attention as in the checkpoint's training: {recorded}", file=sys.stderr)
    return policy


def _asked_reattention(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Reattention` that the command line names."""
    mode, keep = args.reattention or (None, None)
    if keep is not None and args.keep not in (None, keep):
        raise ValueError(f"--reattention route-{keep} and --keep {args.keep} contradict each other")
    asked = {
        "mode": mode,
        "keep": args.keep if keep is None else keep,
        "rule": args.rule,
        "ranking": args.ranking,
        "count_copies": args.count_copies,
        "keep_frames": args.keep_frames,
        "layout": args.layout,
        "delimiters": False if args.no_delimiters else None,
        "max_reinsertions": args.max_reinsertions,
        "reuse": args.reuse,
        "control": getattr(args, "control", None),
        "seed": getattr(args, "control_seed", None),
        "within": getattr(args, "within", None),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _check_route(args: argparse.Namespace, policy: Reattention) -> None:
    """ValueError for an option of route where nothing is routed; the arms of --controls route in any case."""
    routed = policy.mode == "route" or policy.control == "random-rows"
    if routed or getattr(args, "controls", False) or getattr(args, "base_url", None):
        return  # an endpoint's options are refused as a whole
    for name in ("keep", "rule", "ranking", "count_copies", "keep_frames"):
        if getattr(args, name) is not None:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} belongs to --reattention route, and would change nothing with {policy.mode}")


def load_model(args: argparse.Namespace) -> LookAgain:
    """The model that the arguments name; its notes go to standard error."""
    from look_again.core.cpu_threads import set_decoding_threads
    from look_again.model import load

    model = load(args.model, build_load_options(args))
    set_decoding_threads(model.checkpoint.model)
    for note in model.checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)
    return model


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def wrap_lines(text: str) -> str:
    """The text with lines no longer than the terminal; what is wrapped goes on indented."""
    width = shutil.get_terminal_size().columns
    return "\n".join(textwrap.fill(line, width, subsequent_indent="    ") for line in text.split("\n"))
