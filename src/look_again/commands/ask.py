"""`look-again ask [--video FILE] IMAGE… QUESTION`: one answer, streamed with every look at the image visible."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from look_again.commands.common import (
    add_compile_argument,
    add_model_arguments,
    add_reasoning_argument,
    add_reattention_arguments,
    build_reattention,
    load_model,
    print_json,
)

COLOURS = {
    "SUMMARY": "bright_black",
    "CAPTION": "cyan",
    "REASONING": "blue",
    "REFLECTION": "magenta",
    "CONCLUSION": "bold green",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IMAGE… QUESTION", help="images, then the question")
    parser.add_argument(
        "--video", action="append", default=[], metavar="FILE", help="a video, shown after the images; repeatable"
    )
    parser.add_argument("--fps", type=float, metavar="F", help="frames per second taken of a video (2)")
    parser.add_argument("--max-frames", type=int, metavar="N", help="frames of a video, evenly over all of it (64)")
    add_model_arguments(parser)
    add_compile_argument(parser)
    add_reattention_arguments(parser)
    parser.add_argument("--max-new-tokens", type=int, default=1024, metavar="N", help="sampled tokens at most (1024)")
    add_reasoning_argument(parser)
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, metavar="S", help="of sampling")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of streaming")


def run(args: argparse.Namespace) -> int:
    policy = build_reattention(args)
    *images, question = args.inputs
    if not images and Path(question).is_file():
        raise ValueError(f"there is no question, only the file {question}")
    _check_videos(args, images)
    from look_again.images import load_image
    from look_again.model import Sampling

    sampling = Sampling(
        max_new_tokens=args.max_new_tokens,
        max_reasoning_tokens=args.max_reasoning_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    opened = [*(load_image(image) for image in images), *_load_videos(args)]
    model = load_model(args)
    if args.json:
        print_json(model.ask(opened, question, reattention=policy, sampling=sampling).as_dict())
    else:
        show(model.stream(opened, question, reattention=policy, sampling=sampling), told=model.checkpoint.notes)
    return 0


def _check_videos(args: argparse.Namespace, images: Sequence[str]) -> None:
    """ValueError for options of videos without one, and for a video among the images."""
    for name in ("fps", "max_frames"):
        if getattr(args, name) is not None and not args.video:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --video, and no video was given")
    from look_again.images.video_file import SUFFIXES

    for image in images:
        if image.lower().endswith(SUFFIXES):
            raise ValueError(f"{image} is a video by its name: show it with --video {image}")


def _load_videos(args: argparse.Namespace) -> list[Any]:
    """The videos that the arguments name."""
    from look_again.images.video import FPS, MAX_FRAMES
    from look_again.images.video_file import load_video

    fps = FPS if args.fps is None else args.fps
    max_frames = MAX_FRAMES if args.max_frames is None else args.max_frames
    videos = [load_video(video, fps=fps, max_frames=max_frames) for video in args.video]
    if videos and args.model is None:
        print("note: the shipped model was trained on single images alone; name another with --model", file=sys.stderr)
    return videos


def show(stream: Any, told: Collection[str] = ()) -> None:
    """Print a stream to the terminal: sections in colour, re-insertions as lines of their own.

    told: notes that were printed before.
    """
    from rich.console import Console

    from look_again.model import Finished, LookedAgain

    console = Console(highlight=False, soft_wrap=True)
    for item in stream:
        if isinstance(item, Finished):
            _show_end(console, item.answer)
            for note in item.answer.notes:
                if note not in told:
                    console.print(f"note: {note}", style="yellow", markup=False)
        elif isinstance(item, LookedAgain):
            count = item.reinsertion.reflection.reinserted_tokens
            console.print(f"\n  ⟲ looks again: {count} visual tokens put back", style="bold yellow", markup=False)
        elif item.kind == "open":
            console.print(f"\n{item.tag}", style=f"{COLOURS[item.tag]} dim", end="", markup=False)
        elif item.kind == "text":
            console.print(item.text, style=COLOURS.get(item.tag, ""), end="", markup=False)
            console.file.flush()


def _show_end(console: Any, answer: Any) -> None:
    tokens = answer.tokens
    console.print(f"\n\n{answer.answer or '(no CONCLUSION)'}", style=COLOURS["CONCLUSION"], markup=False)
    if problems := ", ".join(f"{p.kind} {p.tag or ''}".strip() for p in answer.parsed.problems):
        console.print(f"not well formed: {problems}", style="red", markup=False)
    for reflection in answer.reflections:
        if reflection.skipped:
            console.print(f"did not look again: {reflection.skipped}", style="red", markup=False)
    console.print(
        f"{tokens['sampled']} tokens sampled, {tokens['reinserted']} visual tokens put back, "
        f"{answer.seconds:.2f} s, {answer.model}",
        style="bright_black",
        markup=False,
    )
