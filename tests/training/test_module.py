"""The training module: losses, log-probabilities and sections of a step's rows."""

from __future__ import annotations

import pytest
import torch

from look_again.core.reattention import Reattention
from look_again.tabletop.tiny import build_model
from look_again.text.tags import tag_ids
from look_again.training.example import Example
from look_again.training.module import SECTIONS, Reattending, find_sections
from look_again.training.run_parts import TrainedParts
from look_again.training.selection import count_passes
from look_again.training.trainable import choose_trainable
from tests.tiny_model import TINIER, make_prompt
from tests.training.examples import build_example


def images_of(prompts):
    return {
        "pixel_values": torch.cat([p.pixel_values for p in prompts]),
        "image_grid_thw": torch.cat([p.image_grid_thw for p in prompts]),
    }


def whole_log_probs(module, examples, images):
    """Of the targets of one row, under the whole vocabulary."""
    features, _ = module.features(examples, **images)
    logits, targets = module.target_logits(next(iter(module.batches(examples, features))), features)
    return logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1))[:, 0]


def test_the_loss_is_the_mean_over_all_targets(model, tokenizer, prompts):
    """Would catch a mean of means: long answers would count less per token."""
    module = Reattending(model, tag_ids(tokenizer))
    examples = [
        build_example(model, prompts[0], [300, 301], Reattention()),
        build_example(model, prompts[2], [302, 303, 304, 305, 306], Reattention()),
    ]
    shown = images_of([prompts[0], prompts[2]])
    with torch.no_grad():
        asked = zip(examples, (prompts[0], prompts[2]), strict=True)
        log_probs = torch.cat([whole_log_probs(module, [row], images_of([prompt])) for row, prompt in asked])
        assert torch.allclose(module(examples, **shown)["loss"], -log_probs.mean(), atol=1e-5)
        halved = module(examples, **shown, num_items_in_batch=torch.tensor(14))["loss"]
    assert torch.allclose(halved, -log_probs.sum() / 14, atol=1e-5)


def test_silent_tokens_carry_no_loss(model, tokenizer, prompts):
    """Would catch a planted mistake that is learned."""
    module = Reattending(model, tag_ids(tokenizer))
    example = build_example(model, prompts[0], [300, 301, 302], Reattention())
    shown = images_of(prompts[:1])
    with torch.no_grad():
        every = module.log_probs([example], **shown)[0]
        example.silent = [False, True, False]
        assert torch.allclose(module.log_probs([example], **shown)[0], every[[0, 2]])


def test_rows_without_images_train_as_they_are(model, tokenizer, prompts):
    """Would catch a text row that shifts the images of the others, or a batch without any image that fails."""
    module = Reattending(model, tag_ids(tokenizer))
    text = Example(make_prompt(tokenizer, "How many?", []).token_ids, [300, 301], [], Reattention())
    shown = build_example(model, prompts[0], [302, 303], Reattention())
    with torch.no_grad():
        alone = module.log_probs([text])[0]
        both = module.log_probs([text, shown], **images_of(prompts[:1]))
        assert torch.allclose(both[0], alone, atol=1e-5)
        assert torch.allclose(both[1], module.log_probs([shown], **images_of(prompts[:1]))[0], atol=1e-5)
        whole = whole_log_probs(module, [text], {})
        assert float(module([text])["loss"]) == pytest.approx(-float(whole.mean()), abs=1e-5)


def test_a_row_alone_equals_the_step(model, tokenizer, trigger, prompts):
    """Would catch padding, sorting by length, or one row's ranking in another's reflection."""
    module = Reattending(model, tag_ids(tokenizer))
    responses = [[300] * n + [trigger.open_id, 301] for n in (3, 9, 1, 5)]
    policies = [Reattention(mode="route"), Reattention(), Reattention(mode="route"), Reattention(mode="text")]
    examples = [build_example(model, p, r, policy) for p, r, policy in zip(prompts, responses, policies, strict=True)]
    with torch.no_grad():
        together = module.log_probs(examples, **images_of(prompts))
        for example, prompt, found in zip(examples, prompts, together, strict=True):
            assert torch.allclose(module.log_probs([example], **images_of([prompt]))[0], found, atol=1e-5)


def test_sections_worked_out_by_hand(tokenizer):
    """A section's own tags belong to it; what follows its end belongs to none."""
    ids = tag_ids(tokenizer)
    row = [ids["<SUMMARY>"], 5, ids["</SUMMARY>"], 6, ids["<REFLECTION>"], ids["</REFLECTION>"], ids["<CONCLUSION>"], 7]
    targets = torch.tensor([[-100, *row, -100], [-100] * 9 + [ids["<CAPTION>"]]])
    names = [SECTIONS[i] for i in find_sections(targets, ids)]
    assert names == ["SUMMARY"] * 3 + ["outside"] + ["REFLECTION"] * 2 + ["CONCLUSION"] * 2 + ["CAPTION"]


def test_section_losses_add_up(model, tokenizer, prompts):
    """Would catch a log line that does not belong to the loss that was trained on."""
    module, ids = Reattending(model, tag_ids(tokenizer)), tag_ids(tokenizer)
    example = build_example(model, prompts[0], [ids["<SUMMARY>"], 300, ids["</SUMMARY>"], 301], Reattention())
    with torch.no_grad():
        loss = module([example], **images_of(prompts[:1]))["loss"]
    sums = module.take_section_losses()
    assert sums[:, 1].tolist() == [3, 0, 0, 0, 0, 1]
    assert float(sums[:, 0].sum()) / 4 == pytest.approx(float(loss), abs=1e-5)
    assert module.take_section_losses().sum() == 0


@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_and_dropout_do_not_reach_the_selection(tokenizer, model, prompts, trigger, training):
    """Would catch ROUTE ranking without a cache (checkpointing drops it) or under dropout, and a changed mode."""
    module = Reattending(model, tag_ids(tokenizer))
    module.train(training)
    example = build_example(
        model, prompts[0], [300, trigger.open_id, 301, trigger.open_id, 5], Reattention(mode="route")
    )
    features, _ = module.features([example], **images_of(prompts[:1]))
    expected = [slots.visual_indices.tolist() for slots in module.sequences([example], features)]
    module.recompute_layers()
    try:
        assert [slots.visual_indices.tolist() for slots in module.sequences([example], features)] == expected
    finally:
        getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
    assert model.training == training
    model.eval()


def test_passes_are_counted_ahead():
    """Would catch processes that share weights and wait for a pass that another one never makes."""
    examples = [Example([1], [5, 50, 6, 50, 50], [(1, 1, 2)], Reattention(mode="route")), Example([1], [5], [], Reattention())]  # fmt: skip  # noqa: E501
    assert count_passes(examples, 50) == 1 + 2
    assert count_passes([], 50) == 0


@pytest.mark.parametrize("trains", ["all", "language_model"])
def test_a_chunked_step_is_the_whole_one(tokenizer, prompts, trains):
    """Losses, log-probabilities and gradients; would catch a head without the tags' rows that hooks lay over it."""
    ids, losses, gradients, log_probs = tag_ids(tokenizer), [], [], []
    response = [ids["<SUMMARY>"], 300, 301, ids["</SUMMARY>"], 302, 303]
    for chunk in (None, 3):
        model = build_model(tokenizer, TINIER)
        tags = choose_trainable(model, TrainedParts(trains=trains), list(ids.values()))
        module = Reattending(model, ids, tags, loss_chunk=chunk)
        examples = [build_example(model, prompt, response, Reattention()) for prompt in prompts[:2]]
        losses.append(module(examples, **images_of(prompts[:2]))["loss"])
        losses[-1].backward()
        gradients.append({name: value.grad.clone() for name, value in module.trained.items() if value.grad is not None})
        module.zero_grad()
        log_probs.append(torch.cat(module.log_probs(examples, **images_of(prompts[:2]), temperature=0.8)))
        (log_probs[-1] * torch.linspace(-1, 1, len(log_probs[-1]))).sum().backward()
        gradients[-1] |= {f"log_probs.{n}": v.grad for n, v in module.trained.items() if v.grad is not None}
    assert float((losses[0] - losses[1]).detach().abs()) <= 1e-6
    assert float((log_probs[0] - log_probs[1]).detach().abs().max()) <= 1e-5
    assert gradients[0].keys() == gradients[1].keys()
    worst = max(float((value - gradients[1][name]).abs().max()) for name, value in gradients[0].items())
    assert max(float(value.abs().max()) for value in gradients[0].values()) > 0
    assert worst <= 1e-5
