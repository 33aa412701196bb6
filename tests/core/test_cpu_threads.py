"""A small model on a CPU decodes with one thread; what trains or is large, and what the user chose, is left alone."""

import pytest
import torch

from look_again.core.cpu_threads import CHOSEN, SMALL_HIDDEN, decoding_threads, set_decoding_threads
from look_again.tabletop.tiny import TinyConfig, build_model, build_tokenizer


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny():
    return build_model(build_tokenizer(), TinyConfig(layers=1))


def test_a_small_model_decodes_with_one_thread(tiny):
    set_decoding_threads(tiny)
    assert torch.get_num_threads() == 1


def test_training_has_its_threads_back(tiny):
    with decoding_threads(tiny):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), decoding_threads(tiny):
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", CHOSEN)
def test_a_user_who_chose_is_obeyed(tiny, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    set_decoding_threads(tiny)
    assert torch.get_num_threads() == 2


def test_a_large_model_shares_its_products(tiny, monkeypatch):
    monkeypatch.setattr(tiny.config.get_text_config(), "hidden_size", SMALL_HIDDEN + 1)
    set_decoding_threads(tiny)
    assert torch.get_num_threads() == 2


def test_a_model_elsewhere_leaves_the_processor_alone(tiny):
    set_decoding_threads(build_model(build_tokenizer(), TinyConfig(layers=1)).to("meta"))
    assert torch.get_num_threads() == 2
