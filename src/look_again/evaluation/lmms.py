"""LookAgain as a model of lmms-eval, found there as `--model look_again` by the entry point `lmms_eval.models`.

The paper evaluates inside such a package. lmms-eval takes a reply for the answer (POPE wants exactly yes or no), so it
is given the CONCLUSION alone. Answers are decoded by the subject that `look-again eval` uses; batches change none. Two
of a task's settings are overridden: `until`, which would cut a response at its first empty line, and budgets of a few
tokens, which no reasoning fits in.

Import this only where lmms-eval is installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from loguru import logger
from tqdm import tqdm

from look_again.core.input_device import input_device
from look_again.core.reattention import Reattention
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem
from look_again.evaluation.subjects import LocalSubject, Output
from look_again.loading import recorded_reattention
from look_again.model import load
from look_again.weights.options import parse_device_map

MAX_NEW_TOKENS = Benchmark.max_new_tokens  # as of `look-again eval`

Group = tuple[int, list[int]]
"""A budget of tokens and the indices of the requests that have it."""


def manifest() -> ModelManifest:
    """What the entry point hands to lmms-eval."""
    return ModelManifest(model_id="look_again", chat_class_path=f"{__name__}.LookAgainModel")


class LookAgainModel(lmms):
    """Any checkpoint under any re-attention policy, decoding greedily.

    pretrained: hub name or folder; None is the shipped tiny model. reattention ("copy", "route-25", ...), keep, rule,
    layout, max_reinsertions: as of `Reattention`, by default as in the checkpoint's training. max_new_tokens: the least
    budget of an answer; a task that gives more keeps its own. device, dtype, attention, max_pixels, quantization,
    adapter, device_map (a name or a file): as of `LoadOptions`. ValueError for values out of range and several
    processes.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        reattention: str | None = None,
        keep: int | None = None,
        rule: str | None = None,
        layout: str | None = None,
        max_reinsertions: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        attention: str | None = None,
        max_pixels: int | None = None,
        quantization: str | None = None,
        adapter: str | None = None,
        device_map: str | None = None,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("LookAgain runs in one process: split a task by --offset and --limit instead")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"--batch_size must be a whole number, at least 1, not {batch_size!r}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        asked: dict[str, Any] = {"keep": keep, "rule": rule, "layout": layout, "max_reinsertions": max_reinsertions}
        given = {name: value for name, value in asked.items() if value is not None}
        self.policy = replace(Reattention.parse(reattention, recorded_reattention(pretrained, adapter)), **given)
        self.batch_size, self.max_new_tokens = int(batch_size), max_new_tokens
        self.model = load(
            pretrained,
            device=device or "auto",
            dtype=dtype,
            attn_implementation=attention,
            max_pixels=max_pixels,
            quantization=quantization,
            adapter=adapter,
            device_map=None if device_map is None else parse_device_map(device_map),
        )
        self.device = input_device(self.model.checkpoint.model)
        for note in self.model.checkpoint.notes:
            logger.warning(note)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The final answer to each request: its CONCLUSION, or all that was said where there is none (logged).

        ValueError for a task that wants samples or beams, and for messages other than one user's images and text.
        """
        outputs: dict[int, Output] = {}
        with tqdm(total=len(requests), desc="look_again") as progress:
            for budget, members in groups(requests, self.max_new_tokens):
                subject = LocalSubject(self.model, self.policy, max_new_tokens=budget, batch=self.batch_size)
                for start in range(0, len(members), self.batch_size):
                    part = members[start : start + self.batch_size]
                    items = [build_lmms_item(requests[index], self.task_dict) for index in part]
                    outputs |= {part[place]: output for place, output in subject.answers(items, ())}
                    progress.update(len(part))
        _log_trouble([(request, outputs[index]) for index, request in enumerate(requests)])
        return [build_result(outputs[index]) for index in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Instance]) -> Any:
        """NotImplementedError: a model that reasons first has no likelihood of an answer alone."""
        raise NotImplementedError("LookAgain writes answers; it cannot run tasks that compare likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> Any:
        """NotImplementedError: one question, one answer."""
        raise NotImplementedError("LookAgain answers single questions; it cannot run tasks of several rounds")


def groups(requests: Sequence[Instance], least: int) -> list[Group]:
    """The requests by budget: a task's own, or `least` where that is more. ValueError for samples and beams."""
    found: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        options: Mapping[str, Any] = request.args[2]
        if options.get("do_sample") is not False and (options.get("temperature") or 0) > 0:
            raise ValueError(f"{request.task_name} samples; LookAgain decodes greedily: --gen_kwargs temperature=0")
        if (options.get("num_beams") or 1) > 1:
            raise ValueError(f"{request.task_name} searches beams; LookAgain has none: --gen_kwargs num_beams=1")
        found.setdefault(max(int(options.get("max_new_tokens") or 0), least), []).append(index)
    return list(found.items())


def build_lmms_item(request: Instance, documents: Mapping[str, Any]) -> BenchmarkItem:
    """A request as a question of ours. documents: task -> split -> rows, as lmms-eval keeps them."""
    _, doc_to_messages, _, doc_id, task, split = request.args
    images, prompt = read_messages(doc_to_messages(documents[task][split][doc_id]), task)
    return BenchmarkItem(id=f"{task}/{doc_id}", images=tuple(images), prompt=prompt)


def read_messages(messages: Sequence[Mapping[str, Any]], task: str) -> tuple[list[Any], str]:
    """Images in order, and the text; an image that follows some text leaves "[image 2]" at its place.

    Example: text "Compare", image, text "with", image -> "Compare\\n[image 1]\\nwith\\n[image 2]". ValueError for
    more than one user's turn, and for video and audio.
    """
    if [message["role"] for message in messages] != ["user"]:
        raise ValueError(f"{task} asks in {len(messages)} messages; LookAgain takes one user's turn")
    images: list[Any] = []
    texts: list[str] = []
    for part in _parts(messages[0]["content"]):
        if part["type"] == "text":
            texts += [part["text"]] if part["text"].strip() else []
        elif part["type"] == "image":
            images.append(Path(part["url"]) if isinstance(part["url"], str) else part["url"])
            texts += [f"[image {len(images)}]"] if texts else []
        else:
            raise ValueError(f"{task} shows {part['type']}; LookAgain sees pictures alone")
    return images, "\n".join(texts)


def _parts(content: str | Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def build_result(output: Output) -> GenerationResult:
    """The final answer, with its tokens: read by the model (rows that are put back included), and written."""
    tokens = output.tokens
    read = sum(tokens.get(kind, 0) for kind in ("prompt", "visual", "reinserted", "forced"))
    counts = TokenCounts(input_tokens=read, output_tokens=tokens.get("sampled", 0))
    return GenerationResult(text=output.reply.final, token_counts=counts)


def _log_trouble(answered: Sequence[tuple[Instance, Output]]) -> None:
    """What lmms-eval's scores do not show: questions not asked, answers cut off, answers without a CONCLUSION."""
    for request, output in answered:
        if output.error:
            logger.error(f"{request.task_name} {request.doc_id} was not asked: {output.error}")
    cut = sum(output.finish_reason in ("length", "context") for _, output in answered)
    bare = sum(output.conclusion is None and output.error is None for _, output in answered)
    if cut or bare:
        logger.warning(f"of {len(answered)} answers {cut} were cut off and {bare} have no CONCLUSION (scored whole)")
