"""`analyze dilution` and `analyze heatmap` from a model and questions: answers first, then one pass over them.

Time of both is reported, since the second should cost little beside the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from look_again.analysis import heatmap as maps
from look_again.analysis.dilution import Track, build_track, summarise
from look_again.analysis.information import TokenInformation, read_information, summarise_information
from look_again.analysis.measured_answers import (
    AnswerSection,
    Clock,
    EncodedImage,
    ImageQuestion,
    QuestionSet,
    ask_questions,
    describe_settings,
    encode,
    vision_tokens,
)
from look_again.analysis.reading import FinishedSequence, read, read_pairs
from look_again.analysis.shares import prompt_text_slots, response_slots, sampled_slots, without_insertions
from look_again.analysis.token_sections import sections_of_tokens, token_ends
from look_again.answers import Answer
from look_again.core.families import attention_layers
from look_again.core.reattention import Reattention
from look_again.loading import Checkpoint
from look_again.model import LookAgain, Sampling
from look_again.text.grammar import close_tag

LISTS = ("CAPTION", "REFLECTION")


def dilution(
    model: LookAgain,
    questions: Sequence[ImageQuestion],
    policy: Reattention,
    sampling: Sampling,
    batch: int = 4,
    source: QuestionSet | None = None,
) -> dict[str, Any]:
    """Answers under `policy`, read as they were written and with nothing put back; see analysis.dilution.

    source: the set that the questions are from, which judges the lists in their answers; None for other questions.
    ValueError for a policy that puts nothing back.
    """
    if not policy.inserts:
        raise ValueError("dilution compares answers with and without re-insertion: choose a mode that inserts")
    clock = Clock()
    looking: list[Track] = []
    text: list[Track] = []
    lists: dict[str, list[AnswerSection]] = {tag: [] for tag in LISTS}
    for part in _parts(questions, batch):
        with clock.generation:
            answers = ask_questions(model, part, policy, sampling)
        with clock.reading:
            both = _tracks(model.checkpoint, part, answers)
        looking += [with_rows for with_rows, _ in both]
        text += [without for _, without in both]
        for question, answer in zip(part, answers, strict=True):
            for tag in LISTS if source else ():
                lists[tag].append(_section(model.checkpoint, question, answer, tag))
    result = {"analysis": "dilution", **summarise(looking, text)}
    if source and lists["CAPTION"]:
        result["lists"] = {tag: source.summarise_lists(own) for tag, own in lists.items()}
    return result | {"seconds": clock.as_dict(), "settings": describe_settings(model, policy, sampling)}


def theorems(
    model: LookAgain,
    questions: Sequence[ImageQuestion],
    policy: Reattention,
    sampling: Sampling,
    batch: int = 4,
    images: int = 8,
) -> dict[str, Any]:
    """Answers under `policy`, read with `images` pictures in turn in their own one's place; see analysis.information.

    ValueError for a policy that puts nothing back, and for fewer than two questions or images.
    """
    if not policy.inserts:
        raise ValueError("theorem 3.2 is about what is put back: choose a mode that inserts")
    if min(images, len(questions)) < 2:
        raise ValueError("an answer is compared with those to other pictures: two questions and two images are needed")
    images = min(images, len(questions))
    clock, tokens = Clock(), vision_tokens(model.checkpoint)
    looking: list[TokenInformation] = []
    bare: list[TokenInformation] = []
    seen = encode(model.checkpoint, questions)
    network = model.checkpoint.model
    for first, part in zip(range(0, len(questions), batch), _parts(questions, batch), strict=True):
        with clock.generation:
            answers = ask_questions(model, part, policy, sampling)
        with clock.reading:
            for at, answer in enumerate(answers, first):
                features = [seen[(at + step) % len(seen)].features for step in range(images)]
                text = without_insertions(model.checkpoint.family, tokens, answer.slots, seen[at].spans)
                looking.append(read_information(network, answer.slots, features))
                bare.append(read_information(network, text, features))
    account = {"analysis": "theorems", "answers": len(looking), "images": images}
    account |= summarise_information(looking, bare)
    return account | {"seconds": clock.as_dict(), "settings": describe_settings(model, policy, sampling)}


def _spell(layers: Sequence[int]) -> str:
    """Numbers of layers, as a range where all are there."""
    every = list(layers) == list(range(len(layers)))
    return f"0 to {len(layers) - 1}" if every else ", ".join(map(str, layers))


def heatmap(
    model: LookAgain, question: ImageQuestion, policy: Reattention, sampling: Sampling, layer: int | None = None
) -> dict[str, Any]:
    """What the sections of one answer looked at, in one layer or (None) the mean of all; see analysis.heatmap.

    layer: by its number in the decoder. ValueError for one that the model does not have, or that has no attention.
    """
    layers = attention_layers(model.checkpoint.model.config)
    if layer is not None and layer not in layers:
        raise ValueError(f"--layer is mean or the number of a layer with attention, {_spell(layers)}, not {layer}")
    clock = Clock()
    with clock.generation:
        answer = ask_questions(model, [question], policy, sampling)[0]
    with clock.reading:
        seen = encode(model.checkpoint, [question])[0]
        names, finished = _watched(model.checkpoint, answer, seen)
        on_rows = read(model.checkpoint.model, [finished])[0].on_rows
    chosen = on_rows.mean(0) if layer is None else on_rows[layers.index(layer)]
    grid = seen.spans[0].grid
    panels = maps.split_panels(answer.slots, chosen, names, finished.panel_sizes.tolist(), seen.spans[0].count)
    per_layer = maps.by_place(answer.slots, on_rows.flatten(0, 1), seen.spans[0].count)
    totals = [part.sum(-1).view(len(layers), len(names)).T.tolist() for part in per_layer]
    return {
        "analysis": "heatmap",
        "layer": "mean" if layer is None else layer,
        "grid": {"rows": grid[1], "columns": grid[2]},
        "prompt": _panel_dict(panels[0], grid[2], totals[0][0], totals[1][0]),
        "sections": [
            _panel_dict(panel, grid[2], original, reinserted)
            for panel, original, reinserted in zip(panels[1:], totals[0][1:], totals[1][1:], strict=True)
        ],
        "sinks": _sinks(panels, grid[2]),
        "answer": answer.as_dict(),
        "seconds": clock.as_dict(),
        "settings": describe_settings(model, policy, sampling) | {"question": question.text},
    }


def _tracks(
    checkpoint: Checkpoint, questions: Sequence[ImageQuestion], answers: Sequence[Answer]
) -> list[tuple[Track, Track]]:
    """Per answer its track as it was written, and with nothing put back."""
    tokens, seen = vision_tokens(checkpoint), encode(checkpoint, questions)
    looking = [answer.slots for answer in answers]
    bare = [
        without_insertions(checkpoint.family, tokens, slots, image.spans)
        for slots, image in zip(looking, seen, strict=True)
    ]
    watched = [
        [FinishedSequence(slots, image.features, sampled_slots(slots)) for slots, image in zip(both, seen, strict=True)]
        for both in (looking, bare)
    ]
    readings = read_pairs(checkpoint.model, *watched)
    return [
        (build_track(slots, own), build_track(other, text))
        for slots, other, (own, text) in zip(looking, bare, readings, strict=True)
    ]


def _watched(checkpoint: Checkpoint, answer: Answer, seen: EncodedImage) -> tuple[list[str], FinishedSequence]:
    """Panel names, and the sequence with its queries: the prompt's text first, then each section's tokens."""
    slots = response_slots(answer.slots)
    ends = token_ends(checkpoint.tokenizer, answer.slots.token_ids[slots].tolist())
    names, sections = sections_of_tokens(answer.parsed, ends)
    own = torch.tensor(sections, dtype=torch.long)
    before = prompt_text_slots(answer.slots)
    queries = torch.cat([before, slots[own >= 0]])
    panels = torch.cat([torch.zeros(len(before), dtype=torch.long), own[own >= 0] + 1])
    return [maps.PROMPT_PANEL, *names], FinishedSequence(answer.slots, seen.features, queries, panels, 1 + len(names))


def _section(checkpoint: Checkpoint, question: ImageQuestion, answer: Answer, tag: str) -> AnswerSection:
    """The list in an answer's section; one that is missing is empty and ends with the answer."""
    slots = response_slots(answer.slots)
    ends = token_ends(checkpoint.tokenizer, answer.slots.token_ids[slots].tolist())
    section = answer.parsed.get(tag)
    if section is None:
        return AnswerSection(question.truth, "", len(ends))
    stop = section.end + len(close_tag(tag))
    return AnswerSection(question.truth, section.text, 1 + sum(end < stop for end in ends))


def _panel_dict(
    panel: maps.Panel, columns: int, original_by_layer: list[float], reinserted_by_layer: list[float]
) -> dict[str, Any]:
    def grid(values: torch.Tensor) -> list[list[float]]:
        return [[round(value, 7) for value in row] for row in values.view(-1, columns).tolist()]

    return {
        "name": panel.name,
        "tokens": panel.tokens,
        "attention": {name: float(getattr(panel, name).sum()) for name in ("both", "original", "reinserted")},
        "per_layer": {"original": original_by_layer, "reinserted": reinserted_by_layer},
        "map": {name: grid(getattr(panel, name)) for name in ("both", "original", "reinserted")},
    }


def _sinks(panels: Sequence[maps.Panel], columns: int) -> dict[str, Any]:
    """Sinks as [row, column] of the grid."""
    kinds = {"prompt": maps.prompt_sinks(panels[0]), "constant": maps.constant_sinks(panels[1:])}
    return {"factor": maps.SINK_FACTOR} | {kind: [divmod(p, columns) for p in own] for kind, own in kinds.items()}


def _parts(questions: Sequence[ImageQuestion], batch: int) -> Iterator[Sequence[ImageQuestion]]:
    with tqdm(total=len(questions), unit="answer", disable=len(questions) < 2) as progress:
        for start in range(0, len(questions), batch):
            yield questions[start : start + batch]
            progress.update(len(questions[start : start + batch]))
