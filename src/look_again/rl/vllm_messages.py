"""What goes to vLLM and what must come back, whichever way it travels: questions, answers, weights.

A rollout that differs from what the loss pass computes trains on noise and nothing fails, so every answer is compared
with its question: the prompt as vLLM expanded it, the number of answers, why each ended, the tokens it may hold.

Legend: Q questions, G answers per question.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from look_again.clients.vllm_answers import VllmError, read_field
from look_again.clients.vllm_requests import (
    SentImage,
    build_body,
    build_sampling_params,
    mention_images,
    scale_images,
)
from look_again.data.image_files import open_image
from look_again.data.sample import Sample
from look_again.rl.rollouts import Rollout
from look_again.text.chat import decode_text
from look_again.text.grammar import open_tag
from look_again.training.batches import Codec, Item
from look_again.training.example import Example

MARKER = "WEIGHTS_FOR_ROLLOUTS"  # file in a folder that `write_weights` made and may replace
SEEDS = 2**62  # of vLLM, which keeps them in 64 bits and adds up to G - 1


@dataclass
class ServedRollout(Rollout):
    """log_probs: of the sampled tokens as vLLM computed them; with its `processed_logprobs` those that it drew from."""

    log_probs: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class RolloutRequest:
    """A question as vLLM gets it. token_ids: the prompt, one token per image. images: at the size that the loss sees.

    sampling: the fields of vLLM's SamplingParams. body: in place of token_ids and images, where features travel.
    """

    sample: Sample
    item: Item
    token_ids: list[int]
    images: Sequence[SentImage]
    sampling: dict[str, Any]
    body: Mapping[str, Any] | None = None


def build_questions(
    codec: Codec, samples: Sequence[Sample], items: Sequence[Item], sampling: Mapping[str, Any], seed: int
) -> list[RolloutRequest]:
    """A request per sample; the G answers of each draw from seeds that no other answer has, at any `seed`."""
    group = sampling["n"]
    return [
        RolloutRequest(
            sample,
            item,
            mention_prompt_images(codec, item),
            scale_prompt_images(codec, sample, item),
            {**sampling, "seed": (seed * len(samples) + index) * group % SEEDS},
        )
        for index, (sample, item) in enumerate(zip(samples, items, strict=True))
    ]


def build_group_sampling(
    codec: Codec, stop_token_ids: Sequence[int], group: int, max_new_tokens: int, temperature: float
) -> dict[str, Any]:
    """Everything spelled out, so that no generation_config.json on vLLM's side has a say."""
    params = build_sampling_params(
        max_tokens=max_new_tokens,
        temperature=temperature,
        stops=[codec.tokenizer.eos_token_id, *stop_token_ids],
        never_sampled=codec.family.vision_tokens(codec.config).never_sampled,
    )
    return {**params, "n": group, "logprobs": 0}  # log-probabilities of the sampled token alone


def mention_prompt_images(codec: Codec, item: Item) -> list[int]:
    """The prompt's ids with one image token per image, which vLLM expands to the image's number of tokens."""
    image = codec.family.vision_tokens(codec.config).image
    return mention_images(item.example.prompt_ids, image, [prod(grid) for grid in item.example.grids])


def scale_prompt_images(codec: Codec, sample: Sample, item: Item) -> list[SentImage]:
    """The sample's images at the size that the loss pass sees, which vLLM's processor then leaves alone.

    Raises ValueError where the bounds of the run's own processor leave so little room that it would scale its result
    again.
    """
    grids = [] if item.image_grid_thw is None else item.image_grid_thw.tolist()
    processor = codec.image_processor
    scaled = scale_images(processor, map(open_image, sample.images), grids)
    for image, (_, rows, columns) in zip(scaled, grids, strict=True):
        if not image.kept:
            width, height = columns * processor.patch_size, rows * processor.patch_size
            raise ValueError(
                f"row {sample.id!r}: a picture scaled to {width} x {height} pixels would be scaled again: widen the "
                f"image processor's bounds, {processor.size}"
            )
    return scaled


def build_generate_body(question: RolloutRequest) -> dict[str, Any]:
    """The request. `return_token_ids`: the answer also holds the prompt's ids as the server expanded them."""
    body = question.body or build_body(question.token_ids, [{"url": image.url} for image in question.images])
    return {**body, "sampling_params": question.sampling, "return_token_ids": True}


def read_rollouts(codec: Codec, question: RolloutRequest, answer: Any) -> list[Rollout]:
    """The G rollouts in an answer, in order. Raises VllmError where it is no answer to the question."""
    example = question.item.example
    return [_rollout(codec, question, example, choice) for choice in read_choices(question, example.prompt_ids, answer)]


def read_choices(question: RolloutRequest, prompt_ids: Sequence[int], answer: Any) -> list[Mapping[str, Any]]:
    """The choices of an answer, in order. Raises VllmError for other ones, and for another prompt than was meant."""
    sample = question.sample
    if read_field(answer, "prompt_token_ids", list) != prompt_ids:
        raise VllmError(
            f"vLLM read another prompt for row {sample.id!r} than the loss pass will: serve the checkpoint that "
            "trains, with bounds of images no narrower than the run's"
        )
    choices = sorted(read_field(answer, "choices", list), key=lambda choice: read_field(choice, "index", int))
    if [choice["index"] for choice in choices] != list(range(question.sampling["n"])):
        raise VllmError(f"vLLM gave {len(choices)} answers for row {sample.id!r}, asked for {question.sampling['n']}")
    return choices


def _rollout(codec: Codec, question: RolloutRequest, prompt: Example, choice: Mapping[str, Any]) -> ServedRollout:
    sample, ids = question.sample, check_choice(question, choice)
    stopped = ids[-1] in question.sampling["stop_token_ids"]
    chosen: list[list[int]] = [[] for token in ids if token == codec.tag_ids[open_tag("REFLECTION")]]
    example = Example(prompt.prompt_ids, ids, prompt.grids, prompt.policy, [False] * len(ids), chosen)
    item = Item(question.item.images, example)
    log_probs = read_sampled_log_probs(choice)
    return ServedRollout(sample, item, decode_text(codec.tokenizer, ids), ids, stopped, log_probs)


def read_sampled_log_probs(choice: Mapping[str, Any]) -> list[float]:
    """Of each sampled token. Raises VllmError where they are missing."""
    scored = read_field(read_field(choice, "logprobs", dict), "content", list)
    return [read_field(token, "logprob", float) for token in scored]


def check_choice(question: RolloutRequest, choice: Mapping[str, Any]) -> list[int]:
    """The sampled ids. Raises VllmError where the choice ended otherwise than asked, or holds banned tokens."""
    sample, sampling = question.sample, question.sampling
    ids, reason = read_field(choice, "token_ids", list), read_field(choice, "finish_reason", str)
    stopped = bool(ids) and ids[-1] in sampling["stop_token_ids"]
    complete = 0 < len(ids) == len(read_sampled_log_probs(choice)) <= sampling["max_tokens"]
    if not complete or reason != ("stop" if stopped else "length"):
        raise VllmError(
            f"vLLM ended an answer for row {sample.id!r} as {reason!r} after {len(ids)} tokens, {ids[-3:]} last"
        )
    if banned := sampling["logit_bias"].keys() & set(ids):
        raise VllmError(
            f"vLLM sampled the vision tokens {sorted(banned)} for row {sample.id!r} against their logit_bias"
        )
    return ids


def write_weights(
    model: Any,
    folder: str | Path,
    *,
    state: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model's weights as a checkpoint folder, in place of the last ones.

    state: gathered weights under the model's own names, where it is sharded. dtype: to store in, None leaves it.
    Raises ValueError for a folder that holds anything else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MARKER).exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files: name a new folder for the weights that vLLM reads")
    shutil.rmtree(folder, ignore_errors=True)  # not written over: vLLM may still have the last file mapped
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("Made anew in every step of a run.\n")
    weights = model.state_dict() if state is None else state
    # Copies, or a head that is tied to the embedding would be left out: vLLM on CPU packs a copy of the head, and would
    # go on with that of the first weights.
    copies = {name: value.to("cpu", dtype or value.dtype, copy=True) for name, value in weights.items()}
    model.save_pretrained(folder, state_dict=copies)


def resolve_weights(folder: str | Path) -> str:
    """The folder's whole path. ValueError without weights in it: vLLM has let go of its own before it finds out."""
    if not any(Path(folder).glob("*.safetensors")):
        raise ValueError(f"{folder} holds no weights (*.safetensors)")
    return str(Path(folder).resolve())
