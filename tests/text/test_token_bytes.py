"""Bytes of tokens: those of all tokens of a text, joined, are the text's."""

import pytest
from tokenizers import Tokenizer, models

from look_again.tabletop.tiny import build_tokenizer
from look_again.text.chat import encode_text
from look_again.text.token_bytes import REPLACEMENT, read_token_bytes


@pytest.mark.parametrize("text", ["naïve", "日本", "🙂 a b\n\tc", "\x00\x7f\xad~", "red cube"])
def test_joined_bytes_of_a_byte_level_vocabulary_are_the_texts(text):
    tokenizer = build_tokenizer()
    ids = encode_text(tokenizer, text)
    assert b"".join(read_token_bytes(tokenizer, id) for id in ids).decode() == text


def test_a_part_of_a_character_has_its_own_bytes():
    tokenizer = build_tokenizer()
    ids = encode_text(tokenizer, "🙂")
    assert len(ids) == 4
    assert [read_token_bytes(tokenizer, id) for id in ids] == [b"\xf0", b"\x9f", b"\x99", b"\x82"]
    assert all(tokenizer.decode([id]) == REPLACEMENT for id in ids)


class Pieces:
    """A tokenizer's answer to one question."""

    def __init__(self, vocabulary):
        self.model = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=[]))

    def convert_ids_to_tokens(self, token_id):
        return self.model.id_to_token(token_id)


def test_byte_fallback_and_pieces_that_spell_no_bytes():
    tokenizer = Pieces(["<0xE2>", "▁the", "<0xZZ>"])
    assert read_token_bytes(tokenizer, 0) == b"\xe2"
    assert read_token_bytes(tokenizer, 1) is None
    assert read_token_bytes(tokenizer, 2) == b"<0xZZ>"
    assert read_token_bytes(tokenizer, 99) is None
