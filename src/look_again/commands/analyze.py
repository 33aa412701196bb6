"""`look-again analyze dilution|heatmap|theorems`: where a model looks while it answers, and what its tokens say of it.

The first two are written as PNG, JSON and one HTML page, the last as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from look_again.commands.common import (
    add_model_arguments,
    add_reattention_arguments,
    build_reattention,
    load_model,
    print_json,
)
from look_again.style import THEMES

TABLETOP_QUESTIONS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    analyses = parser.add_subparsers(dest="analysis", required=True, metavar="ANALYSIS")
    about = "visual share and attention on visual tokens while an answer grows, with and without re-insertion"
    dilution = analyses.add_parser("dilution", help=about, description=about)
    dilution.add_argument("--image", type=Path, help="an image (default: Tabletop)")
    dilution.add_argument("--question", help="what to ask about it")
    about = "the paper's theorems on measured distributions: mutual information of tokens and image against its bound"
    theorems = analyses.add_parser("theorems", help=about, description=about)
    theorems.add_argument("--images", type=int, default=8, metavar="K", help="that an answer is read with (8)")
    for sub in (dilution, theorems):
        sub.add_argument("--n", type=int, metavar="N", help=f"Tabletop rows ({TABLETOP_QUESTIONS})")
        sub.add_argument("--seed", type=int, default=0, help="of the Tabletop stream (0)")
        sub.add_argument("--split", default="test", choices=["test", "heldout", "validation"], help="(test)")
        sub.add_argument("--batch", type=int, default=4, help="answers decoded and read together (4)")
    about = "what the tokens of each section looked at, over the image"
    heatmap = analyses.add_parser("heatmap", help=about, description=about)
    heatmap.add_argument("--image", type=Path, required=True, help="an image")
    heatmap.add_argument("--question", required=True, help="what to ask about it")
    heatmap.add_argument("--layer", default="mean", metavar="L", help="a decoder layer from 0 on, or mean (default)")
    for sub in (dilution, heatmap):
        sub.add_argument("--theme", default="light", choices=[*THEMES], help="of the figure (light)")
    for sub in (dilution, heatmap, theorems):
        sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
        sub.add_argument("--max-new-tokens", type=int, default=1024, metavar="N", help="per answer (1024)")
        add_model_arguments(sub)
        add_reattention_arguments(sub)
        sub.add_argument("--json", action="store_true", help="print the JSON object, too")


def run(args: argparse.Namespace) -> int:
    if args.analysis == "theorems":
        return _theorems(args)
    from look_again.analysis.canvas import require_plots

    require_plots()
    result, png, page = (_dilution if args.analysis == "dilution" else _heatmap)(args)
    args.out.mkdir(parents=True, exist_ok=True)
    base = args.out / args.analysis
    base.with_suffix(".png").write_bytes(png)
    base.with_suffix(".html").write_text(page, encoding="utf-8")
    base.with_suffix(".json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print_json(result)
    else:
        print("\n".join([*_lines(result), f"{base}.png, {base}.json, {base}.html"]))
    return 0


def _theorems(args: argparse.Namespace) -> int:
    policy = build_reattention(args)
    if args.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {args.batch}")
    from look_again.analysis.analyses import theorems
    from look_again.analysis.measured_answers import load_question_set
    from look_again.model import Sampling

    drawn = {"split": args.split, "seed": args.seed, "n": TABLETOP_QUESTIONS if args.n is None else args.n}
    questions = load_question_set("tabletop").draw(*drawn.values())
    sampling = Sampling(max_new_tokens=args.max_new_tokens)
    result = theorems(load_model(args), questions, policy, sampling, args.batch, args.images)
    result["settings"] |= drawn
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "theorems.json"
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print_json(result)
    else:
        print("\n".join([*_theorem_lines(result), str(path)]))
    return 0


def _theorem_lines(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['answers']} answers, each read with {result['images']} images"]
    for kind, name in (("with", "with re-insertion"), ("without", "nothing put back")):
        bound, after = result["theorem_3_1"][kind], result["theorem_3_2"][kind]
        held, telling = bound["bound_holds"], bound["bound_holds_of_telling"]
        share = "-" if telling is None else f"{100 * telling:.1f}%"
        lines.append(
            f"{name}: I(y; c | x) within r H for {100 * held:.1f}% of tokens, for {share} of the "
            f"{bound['telling_tokens']} that say more than 0.01 nats of the image"
        )
        if after["share"] is not None:
            lines.append(
                f"  after the first look: r {100 * after['share']:.1f}%, I {after['information']:.4f}, "
                f"r H {after['bound']:.4f} nats a token"
            )
    return lines


def _dilution(args: argparse.Namespace) -> tuple[dict[str, Any], bytes, str]:
    policy = build_reattention(args)
    _check_source(args)
    from look_again.analysis.analyses import dilution
    from look_again.analysis.html_page import dilution_page
    from look_again.analysis.measured_answers import ImageQuestion, QuestionSet, load_question_set
    from look_again.analysis.plot_dilution import draw_dilution
    from look_again.images import load_image
    from look_again.model import Sampling

    sampling = Sampling(max_new_tokens=args.max_new_tokens)
    source: QuestionSet | None = None
    if args.image is None:
        source = load_question_set("tabletop")
        drawn = {"split": args.split, "seed": args.seed, "n": TABLETOP_QUESTIONS if args.n is None else args.n}
        questions = source.draw(*drawn.values())
    else:
        drawn = {"image": str(args.image), "question": args.question}
        questions = [ImageQuestion(load_image(args.image), args.question)]
    result = dilution(load_model(args), questions, policy, sampling, args.batch, source)
    result["settings"] |= drawn
    png = draw_dilution(result, THEMES[args.theme])
    return result, png, dilution_page(result, png)


def _heatmap(args: argparse.Namespace) -> tuple[dict[str, Any], bytes, str]:
    policy = build_reattention(args)
    from look_again.analysis.analyses import heatmap
    from look_again.analysis.html_page import heatmap_page
    from look_again.analysis.measured_answers import ImageQuestion
    from look_again.analysis.plot_heatmap import draw_heatmap
    from look_again.images import load_image
    from look_again.model import Sampling

    if args.layer != "mean" and not args.layer.isdecimal():
        raise ValueError(f"--layer is mean or the number of a layer, not {args.layer!r}")
    layer = None if args.layer == "mean" else int(args.layer)
    question = ImageQuestion(load_image(args.image), args.question)
    result = heatmap(load_model(args), question, policy, Sampling(max_new_tokens=args.max_new_tokens), layer)
    result["settings"]["image"] = str(args.image)
    png = draw_heatmap(result, question.image, THEMES[args.theme])
    return result, png, heatmap_page(result, png)


def _check_source(args: argparse.Namespace) -> None:
    if (args.image is None) != (args.question is None):
        raise ValueError("--image and --question go together; without both, Tabletop rows are asked")
    if args.image is not None and args.n is not None:
        raise ValueError("--n counts Tabletop rows; leave it out with --image")
    if args.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {args.batch}")


def _lines(result: dict[str, Any]) -> list[str]:
    """A short account for the terminal."""
    ratio = result["seconds"]["analysis_over_generation"]
    if result["analysis"] == "heatmap":
        parts = [result["prompt"], *result["sections"]]
        lines = [f"{part['name']}: {100 * part['attention']['both']:.1f}% of attention on the image" for part in parts]
    else:
        after = result["after_first_look"]
        lines = [f"{result['answers']} answers, {result['looked_again']} looked again"]
        for kind, name in (("with", "with re-insertion"), ("without", "nothing put back")):
            if after[kind]["visual"] is not None:
                share, attention = 100 * after[kind]["share"], 100 * after[kind]["visual"]
                lines.append(f"{name}: visual share {share:.1f}%, attention {attention:.1f}% after the first look")
    return [*lines, f"time, everything over generation alone: {ratio:.2f}"]
