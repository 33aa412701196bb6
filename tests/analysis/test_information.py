"""Mutual information of a token and the image, worked out by hand and against a pass of the library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from look_again.analysis.analyses import theorems
from look_again.analysis.information import (
    TokenInformation,
    first_difference,
    mutual_information,
    read_information,
    summarise_information,
)
from look_again.analysis.measured_answers import ask_questions, encode, load_question_set
from look_again.analysis.shares import sampled_slots
from look_again.core.reattention import Reattention
from look_again.model import Sampling, load


def test_information_by_hand() -> None:
    """Two images that decide the token say ln 2; two that leave it as it is say nothing."""
    sure = torch.tensor([[[1.0, 1e-30, 1e-30]], [[1e-30, 1.0, 1e-30]]]).log()
    information, entropy = mutual_information(sure)
    assert information.tolist() == pytest.approx([math.log(2)], abs=1e-5)
    assert entropy.tolist() == pytest.approx([0], abs=1e-5)
    same = torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]]).log()
    assert [float(v) for v in mutual_information(same)] == pytest.approx([0, math.log(2)], abs=1e-6)


def test_the_account_counts_tokens_and_answers() -> None:
    looking = TokenInformation(np.array([0.0, 0.3, 0.2]), np.array([0.5, 0.5, 1.0]), np.array([0.5, 0.4, 0.6]))
    bare = TokenInformation(np.array([0.0, 0.3, 0.1]), np.array([0.5, 0.5, 1.0]), np.array([0.5, 0.4, 0.3]))
    assert first_difference(looking, bare) == 2
    made = summarise_information([looking], [bare])
    assert made["theorem_3_1"]["with"]["bound_holds"] == pytest.approx(2 / 3)
    assert made["theorem_3_1"]["with"]["bound_holds_of_telling"] == pytest.approx(1 / 2)
    assert made["theorem_3_2"]["with"] == pytest.approx({"share": 0.6, "information": 0.2, "bound": 0.6})
    assert made["theorem_3_2"]["without"] == pytest.approx({"share": 0.3, "information": 0.1, "bound": 0.3})


@pytest.fixture(scope="module")
def model():
    return load(device="cpu")


def test_distributions_are_those_of_one_pass_with_the_other_image(model) -> None:
    """Would catch another image in the prompt alone, and distributions read one token too late."""
    questions = load_question_set("tabletop").draw("test", 3, 3)
    answer = ask_questions(model, questions[:1], Reattention(), Sampling(max_new_tokens=200))[0]
    features = [seen.features for seen in encode(model.checkpoint, questions)]
    found = read_information(model.checkpoint.model, answer.slots, features)
    network, slots = model.checkpoint.model, answer.slots
    embedded = network.get_input_embeddings()(slots.token_ids)
    log_probs = []
    for one in features:
        inputs = embedded.clone()
        visual = slots.visual_indices >= 0
        inputs[visual] = one[slots.visual_indices[visual]]
        with torch.no_grad():
            logits = network(inputs_embeds=inputs[None], position_ids=slots.positions[:, None]).logits[0].float()
        logits[:, list(model.checkpoint.family.vision_tokens(network.config).never_sampled)] = -1e9
        log_probs.append(logits[slots.sampled_from[sampled_slots(slots)]].log_softmax(-1))
    information, entropy = mutual_information(torch.stack(log_probs))
    assert found.information == pytest.approx(information.numpy(), abs=1e-4)
    assert found.entropy == pytest.approx(entropy.numpy(), abs=1e-4)
    assert found.information.max() > 0.1  # some token says what the picture shows
    with pytest.raises(ValueError, match="two images or more of one size, not 1"):
        read_information(network, slots, features[:1])


def test_the_analysis_reads_every_answer_both_ways(model) -> None:
    questions = load_question_set("tabletop").draw("test", 3, 4)
    result = theorems(model, questions, Reattention(), Sampling(max_new_tokens=200), images=3)
    assert result["images"] == 3
    assert result["theorem_3_2"]["with"]["share"] > result["theorem_3_2"]["without"]["share"]
    assert 0 <= result["theorem_3_1"]["with"]["bound_holds"] <= 1
    assert result["theorem_3_1"]["with"]["tokens"] == result["theorem_3_1"]["without"]["tokens"]
