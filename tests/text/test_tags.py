"""Adding the tags to a checkpoint: which kind of token, which rows, which values, nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from look_again.text.chat import encode_text
from look_again.text.grammar import TAG_TOKENS
from look_again.text.tags import MissingTagsError, PrepareReport, prepare, prepare_tokenizer, tag_ids
from tests.text.small_tokenizer import tiny_tokenizer

N_PIECES = 299
N_TOKENS = 305  # pieces, <|endoftext|> and the control tokens: ids 0 to 304
N_PREPARED = 315
PIECES_OF_NAME = {  # in the tiny vocabulary, whose corpus holds only one name in capitals
    "SUMMARY": ["SUMMARY"],
    "CAPTION": ["C", "A", "P", "T", "I", "O", "N"],
    "REASONING": ["R", "E", "A", "S", "O", "N", "I", "N", "G"],
    "REFLECTION": ["R", "E", "F", "L", "E", "C", "T", "I", "O", "N"],
    "CONCLUSION": ["C", "O", "N", "C", "L", "U", "S", "I", "O", "N"],
}


def tiny_model(n_rows: int, *, tied: bool = True, seed: int = 0) -> Any:
    text = {
        "vocab_size": n_rows,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": N_PIECES,
        "pad_token_id": None,
        "tie_word_embeddings": tied,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=N_TOKENS - 1,
        vision_start_token_id=N_TOKENS - 3,
        vision_end_token_id=N_TOKENS - 2,
        tie_word_embeddings=tied,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def input_rows(model: Any) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach().clone()


def output_rows(model: Any) -> torch.Tensor:
    return model.get_output_embeddings().weight.detach().clone()


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# The tokenizer.


def test_tags_become_single_tokens_that_decoding_keeps() -> None:
    """Special tags would vanish under skip_special_tokens=True, and every format reward would be 0."""
    tokenizer = tiny_tokenizer()
    assert prepare_tokenizer(tokenizer) == TAG_TOKENS
    assert tag_ids(tokenizer) == {tag: N_TOKENS + place for place, tag in enumerate(TAG_TOKENS)}
    text = "a<SUMMARY> the </SUMMARY>\n<REFLECTION></REFLECTION>b"
    ids = tokenizer.encode(text + "<|im_end|>", add_special_tokens=False)
    assert sum(id in tag_ids(tokenizer).values() for id in ids) == 4
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_only_missing_tags_are_added() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<CAPTION>", special=False, normalized=False)])
    assert prepare_tokenizer(tokenizer) == tuple(tag for tag in TAG_TOKENS if tag != "<CAPTION>")
    assert tag_ids(tokenizer)["<CAPTION>"] == N_TOKENS
    assert prepare_tokenizer(tokenizer) == ()
    assert len(tokenizer) == N_PREPARED


def test_tag_ids_name_what_is_missing() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in TAG_TOKENS[:-1]])
    with pytest.raises(MissingTagsError, match=r"\['</CONCLUSION>'\].*prepare"):
        tag_ids(tokenizer)


def test_special_tags_are_refused_before_anything_changes() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<REFLECTION>", special=True)], special_tokens=True)
    for function in (tag_ids, prepare_tokenizer):
        with pytest.raises(MissingTagsError, match=r"\['<REFLECTION>'\] are special"):
            function(tokenizer)
    assert len(tokenizer) == N_TOKENS + 1


# The model.


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("n_rows", "n_spare", "resized_to"), [(320, 10, None), (308, 3, 315), (305, 0, 315)])
def test_rows_are_filled_and_all_others_keep_their_bits(
    tied: bool, n_rows: int, n_spare: int, resized_to: int | None
) -> None:
    """The library's defaults draw new rows at random; a head grown apart from a tied embedding is lost."""
    tokenizer, model = tiny_tokenizer(), tiny_model(n_rows, tied=tied)
    before = snapshot(model)
    old_input, old_output = input_rows(model), output_rows(model)

    report = prepare(model, tokenizer)

    ids = {tag: N_TOKENS + place for place, tag in enumerate(TAG_TOKENS)}
    assert report == PrepareReport(TAG_TOKENS, ids, n_spare, resized_to)
    n_after = resized_to or n_rows
    assert model.config.text_config.vocab_size == n_after
    for old, new in [(old_input, input_rows(model)), (old_output, output_rows(model))]:
        assert new.shape == (n_after, 64)
        kept = [row for row in range(n_rows) if row not in ids.values()]
        assert torch.equal(new[kept], old[kept])
        for tag, id in ids.items():
            names = ["</" if "/" in tag else "<", *PIECES_OF_NAME[tag.strip("</>")], ">"]
            pieces = [tokenizer.convert_tokens_to_ids(name) for name in names]
            torch.testing.assert_close(new[id], old[pieces].mean(dim=0))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    untouched = [name for name in before if "embed_tokens" not in name and "lm_head" not in name]
    assert untouched
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in untouched)


def test_prepared_model_runs_on_the_tags() -> None:
    """The loss and the logits take their width from places the resize must reach."""
    tokenizer, model = tiny_tokenizer(), tiny_model(N_TOKENS, tied=False)
    prepare(model, tokenizer)
    ids = torch.tensor([tokenizer.encode("a<REFLECTION>the</REFLECTION>", add_special_tokens=False)])
    output = model(input_ids=ids, labels=ids)
    assert output.logits.shape == (1, ids.shape[1], N_PREPARED)
    assert output.loss.isfinite()


@pytest.mark.parametrize("n_rows", [305, 320])
def test_prepare_twice_changes_nothing(n_rows: int) -> None:
    """A second call on a trained checkpoint must not reset what training did to the tag rows."""
    tokenizer, model = tiny_tokenizer(), tiny_model(n_rows, tied=False)
    first = prepare(model, tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[N_TOKENS:] += 1.0  # as if trained
    before = snapshot(model)
    second = prepare(model, tokenizer)
    assert second == PrepareReport((), first.ids, 0, None)
    after = snapshot(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tag_that_was_there_keeps_its_row() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model(320)
    tokenizer.add_tokens([AddedToken("<CAPTION>", special=False, normalized=False)])
    old = input_rows(model)
    report = prepare(model, tokenizer)
    assert "<CAPTION>" not in report.added
    assert report.spare_rows_used == 9
    assert torch.equal(input_rows(model)[N_TOKENS], old[N_TOKENS])
    assert not torch.equal(input_rows(model)[N_TOKENS + 1], old[N_TOKENS + 1])


def test_tokenizer_prepared_before_a_model_that_is_too_small() -> None:
    """The tags are known but have no rows; an index error at the first tag would follow."""
    tokenizer, model = tiny_tokenizer(), tiny_model(N_TOKENS)
    prepare_tokenizer(tokenizer)
    report = prepare(model, tokenizer)
    assert report.added == ()
    assert report.resized_to == N_PREPARED
    pieces = encode_text(tokenizer, "<CAPTION>")
    rows = input_rows(model)
    torch.testing.assert_close(rows[report.ids["<CAPTION>"]], rows[pieces].mean(dim=0))


def test_spare_rows_taken_by_other_added_tokens_are_not_reused() -> None:
    """Counting base pieces instead of ids would lay the tags over the control tokens."""
    tokenizer, model = tiny_tokenizer(), tiny_model(N_TOKENS + 14)
    tokenizer.add_tokens([f"<extra{n}>" for n in range(5)])
    old = input_rows(model)
    report = prepare(model, tokenizer)
    assert min(report.ids.values()) == N_TOKENS + 5
    assert report.resized_to == N_TOKENS + 15
    assert torch.equal(input_rows(model)[: N_TOKENS + 5], old[: N_TOKENS + 5])


def test_config_id_unknown_to_the_tokenizer_is_not_given_to_a_tag() -> None:
    """A tag with the id the model takes for its image token would ask for image features when generated."""
    tokenizer, model = tiny_tokenizer(), tiny_model(320)
    model.config.image_token_id = N_TOKENS + 2
    old = input_rows(model)
    with pytest.raises(ValueError, match=r"<CAPTION> got token id 307.*image_token_id"):
        prepare(model, tokenizer)
    assert torch.equal(input_rows(model), old)


def test_bfloat16_rows_are_averaged_in_float32() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model(320).to(torch.bfloat16)
    report = prepare(model, tokenizer)
    rows = input_rows(model)
    pieces = encode_text(tokenizer, "<REFLECTION>")
    expected = rows[pieces].double().mean(dim=0).to(torch.bfloat16)
    assert torch.equal(rows[report.ids["<REFLECTION>"]], expected)


def test_plain_language_model_without_a_nested_config() -> None:
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=N_TOKENS,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    assert prepare(model, tokenizer).resized_to == N_PREPARED
    assert model.config.vocab_size == N_PREPARED
    assert output_rows(model).shape == (N_PREPARED, 64)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_rows", [305, 320])
def test_saved_and_loaded_checkpoint_is_prepared(tmp_path: Path, tied: bool, n_rows: int) -> None:
    """A stale vocab_size in the saved configuration, or tags saved as special, would show here."""
    tokenizer, model = tiny_tokenizer(), tiny_model(n_rows, tied=tied)
    report = prepare(model, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    assert tag_ids(loaded_tokenizer) == report.ids
    assert torch.equal(input_rows(loaded), input_rows(model))
    assert torch.equal(output_rows(loaded), output_rows(model))
    assert loaded.config.text_config.vocab_size == max(n_rows, N_PREPARED)
    assert prepare(loaded, loaded_tokenizer) == PrepareReport((), report.ids, 0, None)
