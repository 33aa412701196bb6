"""Record what the benchmarks' own code reads in the generated replies: `python -m tests.evaluation.official.record`.

Takes a folder with copies of the files named in `RULES` under the names that stand there; an installed lmms-eval 0.7.3
reads MMMU its own way, and MATH-V's evaluation needs latex2sympy2 1.9.1 on the path. Written are readings
alone, none of that code. Only who changes `replies` or a rule's version needs this.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.evaluation.official.replies import OPEN_ANSWERS, OPTIONS, REPLIES, TEN_OPTIONS, digest, summary

FOLDER = Path(__file__).parent
RULES = {  # recorded readings -> file of the copy, what it is
    "mmmu": ("eval_utils.py", "MMMU-Benchmark/MMMU mmmu/utils/eval_utils.py at bb0b95a (May 2025)"),
    "mmmu_open": ("eval_utils.py", "MMMU-Benchmark/MMMU mmmu/utils/eval_utils.py at bb0b95a (May 2025)"),
    "mmmu_pro": ("mmmu_pro_evaluate.py", "MMMU-Benchmark/MMMU mmmu-pro/evaluate.py at bb0b95a (May 2025)"),
    "lmms_mmmu": ("", "lmms-eval 0.7.3 lmms_eval/tasks/mmmu/utils.py"),
    "mmbench_2026_02": (
        "matching_util_2026_02.py",
        "VLMEvalKit vlmeval/utils/matching_util.py at 590f052 (February 2026)",
    ),
    "mmbench_2026_06": ("matching_util_2026_06.py", "VLMEvalKit vlmeval/utils/matching_util.py at a67ace5 (June 2026)"),
    "mmstar": ("mmstar.py", "MMStar-Benchmark/MMStar eval/vlmeval/evaluate/mmstar.py at 88f243a (September 2024)"),
    "pope": ("pope_evaluate.py", "AoiDragon/POPE evaluate.py at 08d957b (August 2025)"),
    "mme": ("mme_calculation.py", "MME eval_tool/calculation.py, parse_pred_ans, from a public copy (2023)"),
    "mathvision": ("mathv_evaluate.py", "mathllm/MATH-V evaluation/evaluate.py and utils.py at a1f5cc3 (May 2025)"),
    "chair": ("chair.py", "LisaAnne/Hallucination utils/chair.py at 6e4d33c (March 2019), with plurals by our table"),
}


def load(path: Path) -> Any:
    """A file as a module; lines that ask for unavailable packages get stand-ins."""
    for name in ("vlmeval", "vlmeval.smp", "vlmeval.smp.log"):
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.get_logger = lambda *args: None  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(parse: Callable[[], str]) -> str:
    """What a parser that guesses at random reads; "." where twenty readings differ."""
    found = {parse() for _ in range(20)}
    return found.pop() if len(found) == 1 else "."


def letters(parse: Any, options: tuple[str, ...]) -> Callable[[str], str]:
    names = [chr(ord("A") + at) for at in range(len(options))]
    texts = dict(zip(names, options, strict=True))
    return lambda reply: drawn(lambda: parse(reply, names, texts))


def mmbench(module: Any) -> Callable[[str], str]:
    return lambda reply: module.can_infer(reply, dict(zip("ABCD", OPTIONS, strict=True))) or "."


def mmstar(source: str) -> Callable[[str], str]:
    """The letter that the script's own comparison takes for right; "." for none."""
    block = source[source.index("            if answer == predict[0]:") : source.index("        except Exception")]
    body = "\n".join(
        line[12:] for line in block.replace("MMStar_score_l2[category][l2_category] += 1", "right = True").splitlines()
    )
    code = compile(body, "mmstar", "exec")

    def read(reply: str) -> str:
        for letter in "ABCD":
            names = {"answer": letter.lower(), "predict": reply.lower().strip().replace("\n", " "), "right": False}
            try:
                exec(code, names)
            except IndexError:
                continue
            if names["right"]:
                return letter
        return "."

    return read


def pope(source: str) -> Callable[[str], str]:
    block = source[source.index("    text = answer['answer']") : source.index("for i in range(len(label_list))")]
    code = compile("\n".join(line[4:] for line in block.splitlines()), "pope", "exec")

    def read(reply: str) -> str:
        names = {"answer": {"answer": reply}}
        exec(code, names)
        return str(names["answer"]["answer"])[0]

    return read


def mme(module: Any) -> Callable[[str], str]:
    return lambda reply: {"yes": "y", "no": "n"}.get(module.parse_pred_ans(reply.lower()), ".")


def mathvision(folder: Path) -> Callable[[tuple[str, str, tuple[str, ...]]], str]:
    source = (folder / "mathv_evaluate.py").read_text()
    block = source[
        source.index("            model_answer = line['response'].strip()") : source.index(
            "            line['model_answer'] = model_answer"
        )
    ]
    code = compile("\n".join(line[12:] for line in block.splitlines()), "mathv", "exec")
    utils = load(folder / "mathv_utils.py")

    def read(row: tuple[str, str, tuple[str, ...]]) -> str:
        reply, answer, options = row
        names: dict[str, Any] = {
            "line": {"response": reply},
            "is_number": utils.is_number,
            "find_math_answer": utils.find_math_answer,
        }
        exec(code, names)
        value = options["ABCDE".index(answer)] if options else ""
        return str(int(utils.is_equal(answer, names["model_answer"]) or utils.is_equal(value, names["model_answer"])))

    return read


def chair(folder: Path) -> Callable[[str], str]:
    """The classes that the original's reader finds, as `summary` writes them.

    Its two libraries are not to be had: words are cut as NLTK's tokenizer does, sentences at full stops, and brought to
    the singular by our table.
    """
    from nltk.tokenize import NLTKWordTokenizer

    from look_again.evaluation.benchmarks.chair_words import vocabulary

    source = (folder / "chair.py").read_text()
    lists = source[source.index("        #read in synonyms") : source.index("    def _load_generated_captions")]
    reader = source[source.index("        #standard preprocessing") : source.index("        #return all the MSCOCO")]
    cut = NLTKWordTokenizer()
    nltk = types.SimpleNamespace(word_tokenize=lambda text: cut.tokenize(re.sub(r"\. ", " . ", text)))
    names: dict[str, Any] = {"self": types.SimpleNamespace(), "open": lambda path: (folder / "synonyms.txt").open()}
    exec("\n".join(line[8:] for line in lists.splitlines()), names)
    code = compile("\n".join(line[8:].expandtabs(4) for line in reader.splitlines()), "chair", "exec")

    def read(caption: str) -> str:
        found = names | {
            "caption": caption,
            "nltk": nltk,
            "singularize": lambda word: vocabulary().singular.get(word, word),
        }
        exec(code, found)
        return summary(found["node_words"])

    return read


def readers(folder: Path) -> dict[str, Callable[[Any], Any]]:
    from lmms_eval.tasks.mmmu import utils as lmms_mmmu

    own = load(folder / "eval_utils.py")
    return {
        "mmmu": letters(own.parse_multi_choice_response, OPTIONS),
        "mmmu_open": lambda reply: "".join(
            str(int(own.eval_open(a, own.parse_open_response(reply)))) for a in OPEN_ANSWERS
        ),
        "mmmu_pro": letters(load(folder / "mmmu_pro_evaluate.py").parse_multi_choice_response, TEN_OPTIONS),
        "lmms_mmmu": letters(lmms_mmmu.parse_multi_choice_response, OPTIONS),
        "mmbench_2026_02": mmbench(load(folder / "matching_util_2026_02.py")),
        "mmbench_2026_06": mmbench(load(folder / "matching_util_2026_06.py")),
        "mmstar": mmstar((folder / "mmstar.py").read_text()),
        "pope": pope((folder / "pope_evaluate.py").read_text()),
        "mme": mme(load(folder / "mme_calculation.py")),
        "mathvision": mathvision(folder),
        "chair": chair(folder),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    for name, read in readers(args.folder).items():
        if args.names and name not in args.names:
            continue
        replies = REPLIES[name]()
        readings = [read(reply) for reply in replies]
        joined = "".join(readings) if name != "mmmu_open" else [int(bits, 2) for bits in readings]
        record = {"rule": RULES[name][1], "replies": len(replies), "sha256": digest(replies), "readings": joined}
        (FOLDER / f"{name}.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")
        print(name, len(replies))


if __name__ == "__main__":
    main()
