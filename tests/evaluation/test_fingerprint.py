"""What is loaded decides whether a run is the same run, not the name of its folder."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig

from look_again.commands.main import main
from look_again.evaluation.fingerprint import fingerprint
from look_again.loading import default_checkpoint, load_checkpoint


class Small(nn.Module):
    """Weights of odd sizes: 5 half-precision numbers fill a word of eight bytes and leave two bytes."""

    def __init__(self, **config) -> None:
        super().__init__()
        self.config = PretrainedConfig(**config)
        self.few = nn.Parameter(torch.arange(5, dtype=torch.bfloat16))
        self.many = nn.Parameter(torch.arange(1000.0).reshape(20, 50))
        self.one = nn.Parameter(torch.tensor(3.0))


class Template:
    def __init__(self, chat_template: str = "plain") -> None:
        self.chat_template = chat_template


def test_every_weight_counts():
    """Would catch a fingerprint of names and sizes, of samples, or of whole words alone."""
    with torch.no_grad():
        changed = [Small() for _ in range(5)]
        changed[0].few[4] += 1  # in the bytes that fill no word
        changed[1].many[13, 7] = torch.nextafter(changed[1].many[13, 7], torch.tensor(0.0))
        changed[2].one.neg_()
        changed[3].many.copy_(changed[3].many.flip(0))
        changed[4].few.data = changed[4].few.float()
    made = [fingerprint(model, Template()) for model in (Small(), *changed)]
    assert len(set(made)) == 6
    assert fingerprint(Small(), Template()) == made[0]


def test_configuration_and_chat_template_count_but_not_the_place():
    """Would catch a longer context or another template taken for the same model, and a copy taken for another one."""
    plain = fingerprint(Small(name_or_path="here"), Template())
    assert fingerprint(Small(name_or_path="there"), Template()) == plain
    assert fingerprint(Small(rope_theta=7), Template()) != plain
    assert fingerprint(Small(), Template("other")) != plain


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    return shutil.copytree(default_checkpoint(), tmp_path_factory.mktemp("models") / "copy")


def test_a_copy_of_the_shipped_model_is_the_same_one(copied):
    ours, theirs = (load_checkpoint(name, device="cpu") for name in (None, copied))
    assert fingerprint(ours.model, ours.tokenizer) == fingerprint(theirs.model, theirs.tokenizer)


def test_a_run_is_not_resumed_with_other_weights_under_the_same_name(copied, tmp_path, capsys):
    """Would catch old answers that come back as the new model's after `train` wrote into the same folder."""
    from safetensors.torch import load_file, save_file

    argv = ["eval", "tabletop", "--n", "1", "--no-planted", "--max-new-tokens", "4", "--device", "cpu"]
    argv += ["--model", str(copied), "--out", str(tmp_path), "--json"]
    assert main(argv) == 0
    assert main(argv) == 0
    weights = load_file(copied / "model.safetensors")
    name = next(name for name in weights if "layers.1.mlp" in name)
    weights[name] = weights[name] + 0.01
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert main(argv) == 2
    assert "subject.fingerprint was" in capsys.readouterr().err
