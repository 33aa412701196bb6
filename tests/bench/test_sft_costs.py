"""The training benchmark: both arms read the same rows, and what is predicted is counted from their shapes."""

from __future__ import annotations

import json

import pytest
import torch

from look_again.bench.loss_costs import LossBench
from look_again.bench.packing_costs import PackingBench
from look_again.bench.sft_costs import SftBench, SftSettings, measure, vision_over_language, vision_over_language_of_7b
from look_again.commands.main import main
from look_again.core.reattention import Reattention
from look_again.training.chunked_loss import chunked_cross_entropy


@pytest.fixture(scope="module")
def bench():
    return SftBench(SftSettings(rows=2, pairs=1, reflections=2))


def test_both_arms_read_the_same_sequences(bench):
    """Would catch an image that the baseline shows elsewhere, or once too often."""
    ours = bench.collated(Reattention(mode="copy"))
    features, _ = bench.module.features(ours["examples"], ours["pixel_values"], ours["image_grid_thw"])
    theirs = bench.collated_by_trl()
    for row, slots in enumerate(bench.module.sequences(ours["examples"], features)):
        ids = theirs["input_ids"][row][theirs["attention_mask"][row] == 1]
        assert ids[: len(slots)].tolist() == slots.token_ids.tolist()
    assert len(theirs["image_grid_thw"]) == 3 * len(ours["image_grid_thw"])


def test_both_arms_train_the_same_layers(bench):
    bench.module.train()
    bench.step(Reattention(mode="copy"))()
    trained = {name for name, p in bench.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".language_model.layers." in name or name.endswith("language_model.norm.weight") for name in trained)


def test_fewer_operations_are_predicted(bench):
    """Images once instead of three times, logits at targets alone."""
    assert 0.5 < bench.predicted_ratio() < 1
    assert vision_over_language(bench.model) == pytest.approx(vision_over_language_of_7b(), rel=0.1)


def test_the_large_shapes_run_small():
    """The path of GPUs, on two layers and a small image."""
    settings = SftSettings(shapes="qwen2.5-vl-7b", dtype="float32", rows=1, pairs=1, layers=1, image_pixels=56)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("look_again.bench.sft_costs.LargeConfig", Small)
        samples = measure(SftBench(settings))
    assert all(ratio > 0 for values in samples.values() for ratio in values)


def Small(**changes):  # noqa: N802
    from look_again.training.large_shapes import LargeConfig

    small = {"hidden": 128, "mlp": 128, "heads": 4, "kv_heads": 2, "vocabulary": 800}
    vision = {"vision_hidden": 64, "vision_heads": 2, "vision_mlp": 64, "vision_layers": 2}
    return LargeConfig(**{**changes, **small, **vision, "full_attention_layers": (1,)})


Small.layers = 1


def test_the_command_prints_ratios(capsys, monkeypatch):
    for name, lengths in (("MIXED", (130, 150, 200)), ("LONG", (200,)), ("SHORT", (150, 150))):
        monkeypatch.setattr(f"look_again.bench.packing_costs.{name}", lengths)
    assert main(["bench", "sft", "--rows", "1", "--pairs", "1", "--loss-targets", "8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"chunked_peak_over_whole", "chunked_time_over_whole"} <= result["ratios"].keys()
    assert {"packed_over_padded", "packed_over_padded_groups", "long_step_over_count"} <= result["ratios"].keys()
    assert {"copy_time_over_repeated", "copy_memory_over_repeated", "route_over_copy"} <= result["ratios"].keys()
    assert result["settings"]["threads"] == torch.get_num_threads()
    assert main(["bench", "sft", "--rows", "0"]) == 2
    assert main(["bench", "sft", "--loss-targets", "0"]) == 2


def test_packed_and_padded_steps_are_of_the_same_rows(bench):
    """Would catch arms of different rows, a packed arm that pads, and a setting that stays behind."""
    rows, losses = PackingBench(bench), []
    batch = rows.collated((130, 190))
    for packing, groups in ((True, 4), (False, 4), (False, 1)):
        bench.module.packing, bench.module.length_groups = packing, groups
        with torch.no_grad():
            losses.append(float(bench.module(**batch)["loss"]))
            features, _ = bench.module.features(batch["examples"], batch["pixel_values"], batch["image_grid_thw"])
            (shape,) = [tuple(part.token_ids.shape) for part in bench.module.batches(batch["examples"], features)]
        assert shape == ((1, 320) if packing else (2, 190))
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
    bench.module.packing, bench.module.length_groups = False, 4
    rows.step((130, 190), packing=True, groups=1)()
    assert (bench.module.packing, bench.module.length_groups) == (False, 4)
    with pytest.raises(ValueError, match="ends within its prompt"):
        rows.collated((5,))


def test_both_losses_are_the_same(monkeypatch):
    """Would catch a benchmark of two different things."""
    monkeypatch.setattr("look_again.bench.loss_costs.VOCABULARY", 500)
    bench = LossBench(SftSettings(loss_targets=20))
    bench.chunk = 7
    for frozen in (True, False):
        summed, each = chunked_cross_entropy(bench.hidden, bench.head(frozen), bench.targets, bench.chunk)
        assert float((each - bench.whole(frozen)).detach().abs().max()) < 1e-5
        assert float((summed - bench.whole(frozen).sum()).detach().abs()) < 1e-3
