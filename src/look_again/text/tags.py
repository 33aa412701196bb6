"""Give any checkpoint the tags of the response format as tokens of their own.

The paper adds the tags to the vocabulary and trains their rows, but says neither which kind of token nor what
the rows start from. Here they are *ordinary* added tokens: trainers (TRL among them) decode with
`skip_special_tokens=True` before rewards see a text, and special tags would vanish. A new row starts as the
mean of the rows of the tag's plain pieces, so that an untrained model already reads '<SUMMARY>' much as it
read the word. Rows are taken from the spare end of the embedding where there is one (Qwen2.5-VL-7B has
152,064 rows for 151,665 tokens), else the matrix grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from look_again.text.chat import encode_text
from look_again.text.grammar import TAG_TOKENS


class MissingTagsError(ValueError):
    """The tokenizer does not hold the tags as single, ordinary added tokens."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did."""

    added: tuple[str, ...]
    """Tags the tokenizer did not have; empty on an already prepared checkpoint."""
    ids: dict[str, int]
    """Token id of every tag."""
    spare_rows_used: int
    """New tags that took rows the embedding already had."""
    resized_to: int | None
    """Rows of the embedding after growing it, None when it did not have to grow."""


def tag_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The token id of every tag.

    Raises MissingTagsError when a tag is not one single token, added (so text from outside never makes it)
    and ordinary (so decoding keeps it).
    """
    _refuse_special(tokenizer)
    missing = _missing(tokenizer)
    if missing:
        raise MissingTagsError(f"tags {missing} are not tokens of this tokenizer; run look_again.prepare on it")
    added = _added_tokens(tokenizer)
    return {tag: added[tag][0] for tag in TAG_TOKENS}


def has_tags(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the grammar's tags are tokens."""
    try:
        tag_ids(tokenizer)
    except MissingTagsError:
        return False
    return True


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Add the missing tags to the tokenizer, in place, as ordinary added tokens; returns those added.

    Raises MissingTagsError when a tag is there as a special token, before anything is changed.
    """
    _refuse_special(tokenizer)
    missing = tuple(_missing(tokenizer))
    tokenizer.add_tokens([_ordinary(tag) for tag in missing])
    tag_ids(tokenizer)
    return missing


def prepare_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new_tags: Sequence[str]
) -> tuple[int, int | None]:
    """Make room for every id of a prepared tokenizer and give the rows of `new_tags` first values, in place.

    The input row of a tag, and its output row where the head is not tied, become the mean of the rows of the
    tag's plain pieces; all other rows that existed keep their bits. Returns (spare rows used, rows after
    growing or None). Raises ValueError when the embedding is empty here (sharded) or the model's
    configuration already gives the id of a new tag another meaning. Prepare a whole checkpoint before
    sharding or quantising it.
    """
    ids = tag_ids(tokenizer)
    _check_ids_free(model.config.to_dict(), {ids[tag]: tag for tag in new_tags})
    n_rows = _n_rows(model)
    n_needed = max(tokenizer.get_vocab().values()) + 1  # not len(tokenizer): ids may have gaps
    if n_needed > n_rows:
        model.resize_token_embeddings(n_needed, mean_resizing=False)
    for weight in _row_tensors(model):
        _fill_rows(weight, {ids[tag]: encode_text(tokenizer, tag) for tag in new_tags})
    n_spare = sum(ids[tag] < n_rows for tag in new_tags)
    return n_spare, n_needed if n_needed > n_rows else None


def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PrepareReport:
    """Add the tags to a checkpoint's tokenizer and model, in place; on a prepared checkpoint nothing changes.

    A tag the tokenizer already had keeps its row (also where it was a plain piece of the vocabulary so far),
    unless the model has no such row yet. Raises as `prepare_tokenizer` and `prepare_model` do.
    """
    known_ids = tokenizer.get_vocab()
    n_rows = _n_rows(model)
    without_row = [tag for tag in TAG_TOKENS if known_ids.get(tag, n_rows) >= n_rows]
    added = prepare_tokenizer(tokenizer)
    n_spare, resized_to = prepare_model(model, tokenizer, without_row)
    return PrepareReport(added, tag_ids(tokenizer), n_spare, resized_to)


def _ordinary(tag: str) -> AddedToken:
    return AddedToken(tag, special=False, normalized=False, lstrip=False, rstrip=False, single_word=False)


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, AddedToken]]:
    return {token.content: (id, token) for id, token in tokenizer.added_tokens_decoder.items()}


def _missing(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tags that are not added tokens of their own."""
    added = _added_tokens(tokenizer)
    return [
        tag
        for tag in TAG_TOKENS
        if tag not in added or tokenizer.encode(tag, add_special_tokens=False) != [added[tag][0]]
    ]


def _refuse_special(tokenizer: PreTrainedTokenizerBase) -> None:
    """Special tokens cannot be made ordinary in place: the loaded tokenizer goes on dropping them."""
    added = _added_tokens(tokenizer)
    special = {tag for tag in TAG_TOKENS if tag in added and added[tag][1].special}
    special |= set(TAG_TOKENS).intersection(tokenizer.all_special_tokens)
    if special:
        raise MissingTagsError(
            f"tags {sorted(special)} are special tokens, which decoding drops; make them ordinary in "
            "tokenizer.json, take them out of the special tokens in tokenizer_config.json, and load it again"
        )


def _embedding(model: PreTrainedModel) -> torch.Tensor:
    return cast(nn.Embedding, model.get_input_embeddings()).weight


def _n_rows(model: PreTrainedModel) -> int:
    n_rows = _embedding(model).shape[0]
    if n_rows == 0:
        raise ValueError("the embedding holds no rows here (a sharded model?); prepare the checkpoint before sharding")
    return n_rows


def _row_tensors(model: PreTrainedModel) -> list[torch.Tensor]:
    """Every tensor with one row per token: input embedding, and the head's own weight and bias."""
    embedding = _embedding(model)
    head = model.get_output_embeddings()
    own = [] if head is None else [head.weight, getattr(head, "bias", None)]
    return [embedding, *(tensor for tensor in own if tensor is not None and tensor is not embedding)]


@torch.no_grad()
def _fill_rows(weight: torch.Tensor, piece_ids: Mapping[int, Sequence[int]]) -> None:
    """Set row `id` of `weight` (V, …) to the mean, taken in float32, of the rows `piece_ids[id]`."""
    for id, pieces in piece_ids.items():
        weight[id] = weight[list(pieces)].float().mean(dim=0).to(weight.dtype)


def _check_ids_free(config: Mapping[str, Any], new_tag_of_id: Mapping[int, str]) -> None:
    for name, id in _token_ids(config):
        if id in new_tag_of_id:
            raise ValueError(
                f"the tag {new_tag_of_id[id]} got token id {id}, which the model's configuration uses as "
                f"{name}: add that token to the tokenizer first"
            )


def _token_ids(config: Mapping[Any, Any]) -> Iterator[tuple[str, int]]:
    """Every `*_token_id` and `*_token_index` of a configuration, also nested and in lists."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _token_ids(value)
        elif str(name).endswith(("_token_id", "_token_index")):
            yield from ((name, id) for id in (value if isinstance(value, list) else [value]) if isinstance(id, int))
