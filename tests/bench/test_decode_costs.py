"""The measuring itself: right formulas, arms that do the same work, results of the promised structure."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from look_again.bench.arms import COPY, TEXT, Bench, ReflectionArms
from look_again.bench.bench_model import ForcedIds, LargeConfig, large_model, large_subject, tiny_subject
from look_again.bench.decode_costs import RATIOS, describe, measure, run, table, throughput
from look_again.bench.measure import describe_spread, measure_peak, paired_ratios, peak_bytes
from look_again.bench.options import add_decode_arguments
from look_again.bench.settings import RATIOS as RATIO_NAMES
from look_again.bench.settings import DecodeSettings
from look_again.core.compiled import compiled_step
from look_again.core.compiled.compiled_step import CompileError
from look_again.tabletop.tiny import TinyConfig

CPU = torch.device("cpu")
SMALL = LargeConfig(
    vocabulary=128,
    hidden=64,
    layers=1,
    heads=2,
    kv_heads=1,
    mlp=64,
    vision_hidden=32,
    vision_layers=2,
    vision_heads=2,
    vision_mlp=32,
    full_attention_layers=(1,),
    image_pixels=56,
)
MEGABYTES_4 = 4_000_000  # bytes of 1000 x 1000 float32


@pytest.fixture(scope="module")
def bench() -> Bench:
    settings = DecodeSettings(tokens=20, every=10, pairs=1, layers=1)
    return Bench(tiny_subject(8, CPU, torch.float32, TinyConfig(layers=1)), settings)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_decode_arguments(parser)
    return parser.parse_args(arguments)


SHORT = ("--tokens", "20", "--every", "10", "--pairs", "1", "--layers", "1")


def test_without_a_compiler_all_else_is_measured(monkeypatch, capsys) -> None:
    """Would catch an hour of measurements that the last ratios throw away."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    ratio = replace(RATIOS["copy_over_text"], measure=lambda bench: [1.0])
    monkeypatch.setattr("look_again.bench.decode_costs.RATIOS", dict.fromkeys(RATIOS, ratio))
    result = run(parse(*SHORT))
    assert list(result["ratios"]) == [name for name in RATIO_NAMES if not name.startswith("compiled")]
    assert "recompilations" not in result
    assert "compiled step are left out" in capsys.readouterr().err


def test_a_ratio_that_needs_a_compiler_is_refused_before_any_work(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("look_again.bench.decode_costs.build_subject", lambda settings: pytest.fail("a model was made"))
    with pytest.raises(CompileError, match="needs a"):
        run(parse("--only", "compiled_over_eager_b1", *SHORT))


def test_spread_is_quartiles_and_extremes_of_the_samples() -> None:
    assert describe_spread([5, 1, 4, 2, 3]) == {"min": 1, "q1": 2, "q3": 4, "max": 5, "n": 5}


def test_spread_of_one_sample_is_that_sample() -> None:
    assert describe_spread([1.5]) == {"min": 1.5, "q1": 1.5, "q3": 1.5, "max": 1.5, "n": 1}


def test_pairs_alternate_their_order_after_one_warm_up() -> None:
    """Arms timed always in the same order would have the drift within a pair counted as a difference."""
    calls: list[str] = []
    times = iter([6.0, 2.0, 4.0, 2.0, 9.0, 3.0])

    def clocked(call: Any) -> float:
        call()
        return next(times)

    ratios = paired_ratios(lambda: calls.append("a"), lambda: calls.append("b"), 3, clocked)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert ratios == [6 / 2, 2 / 4, 9 / 3]


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair, not 0"):
        paired_ratios(lambda: None, lambda: None, 0, lambda call: 1.0)


def test_peak_follows_time_not_the_order_of_events() -> None:
    """In time: +5 (5), +7 (12), -5 (7), +4 (11). In the order given the running total would reach 16."""
    assert measure_peak([(1, 5), (2, 7), (4, 4), (3, -5)]) == 12
    assert measure_peak([]) == 0


def test_peak_counts_live_tensors_only() -> None:
    """A sum of all allocations would be three tensors, what is left at the end one; at most two live at a time."""

    def call() -> torch.Tensor:
        first, second = torch.zeros(1000, 1000), torch.zeros(1000, 1000)
        del first
        third = torch.zeros(1000, 1000)
        return second.mul_(third)

    assert peak_bytes(call, CPU) == 2 * MEGABYTES_4


def test_peak_counts_temporaries_inside_an_operator() -> None:
    """logsumexp keeps a copy of its input that no Python code ever sees; its result is a thousandth of it."""
    scores = torch.zeros(1000, 1000)
    assert peak_bytes(lambda: scores.logsumexp(-1), CPU) > MEGABYTES_4


def test_peak_ignores_what_was_live_before() -> None:
    kept = [torch.zeros(1000, 1000)]
    assert peak_bytes(lambda: kept.append(torch.zeros(1000, 1000)), CPU) == MEGABYTES_4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shapes": "huge"}, "unknown shapes 'huge'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"clock": "sun"}, "unknown clock 'sun'"),
        ({"clock": "cpu", "device": "cuda"}, "processor time says nothing about cuda"),
        ({"pairs": 0}, "pairs must be at least 1, not 0"),
        ({"every": 301}, r"every must be from 2 to tokens \(300\), not 301"),
        ({"tokens": 9, "every": 4}, "tokens must be at least 10"),
        ({"vocabulary": 100}, "the tiny model has its own"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecodeSettings(**values)


def test_large_shapes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="image_pixels is a multiple of 28, not 100"):
        LargeConfig(image_pixels=100)
    with pytest.raises(ValueError, match="vocabulary must be above 32, not 20"):
        LargeConfig(vocabulary=20)


def test_an_answer_reflects_once_per_stretch_and_never_with_its_last_token() -> None:
    """A `<REFLECTION>` that spends the last of max_new_tokens re-inserts nothing: the ratio would be of nothing."""
    assert DecodeSettings().triggers == [75, 225]
    assert DecodeSettings(tokens=10, every=10).triggers == [5]
    assert DecodeSettings(tokens=11, every=7).triggers == [3]


def test_the_rows_of_a_batch_reflect_at_eight_different_steps() -> None:
    steps = DecodeSettings(tokens=90, every=45).spread_triggers
    assert steps == [[10], [20], [30], [40], [50], [60], [70], [80]]


def test_large_shapes_are_those_of_the_published_checkpoint() -> None:
    """8,292,166,656 is the parameter count of Qwen2.5-VL-7B-Instruct's weights on the hub."""
    model = large_model(LargeConfig(), torch.device("meta"), torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_292_166_656
    assert model.config.get_text_config().rope_parameters["mrope_section"] == [16, 24, 24]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training


def test_prompts_of_a_batch_differ_in_length_and_are_padded_on_the_left(bench: Bench) -> None:
    for subject, visual_tokens in ((bench.subject, 36), (large_subject(8, CPU, torch.float32, SMALL), 4)):
        inputs = subject.inputs(8)
        lengths = inputs["attention_mask"].sum(1)
        assert len(set(lengths.tolist())) > 1
        assert inputs["attention_mask"][:, -int(lengths.min()) :].all()
        assert ((inputs["input_ids"] == subject.image_token).sum(1) == visual_tokens).all()


def test_answers_hold_the_tag_where_it_was_asked_for_and_ordinary_text_elsewhere(bench: Bench) -> None:
    answers = bench.subject.answers([[3], [], [0, 5]], 8)
    assert (answers == bench.subject.trigger.open_id).nonzero().tolist() == [[0, 3], [2, 0], [2, 5]]
    assert int(bench.subject.answers([[]], 5000).max()) == bench.subject.text_ids - 1


def test_forced_ids_win_over_any_score() -> None:
    forced = ForcedIds(torch.tensor([[4, 1], [0, 2]]), prompt_columns=3)
    scores = torch.full((2, 5), 1e9)
    assert forced(torch.zeros((2, 3)), scores).argmax(1).tolist() == [4, 0]
    assert forced(torch.zeros((2, 4)), scores).argmax(1).tolist() == [1, 2]


def test_all_arms_write_the_same_ids(bench: Bench) -> None:
    """An arm that stopped early, or sampled on its own, would do another amount of work than the one it is held to."""
    triggers = [[2 + row] for row in range(8)]
    expected = bench.subject.answers(triggers, 20)
    for policy in (None, TEXT, COPY, bench.route):
        assert (bench.arm(policy, triggers)()[:, -20:] == expected).all()


def test_a_plan_that_was_not_carried_out_is_noticed(bench: Bench) -> None:
    """A reflection with the last token is skipped for want of budget; timing that answer would flatter COPY."""
    assert [len(row) for row in bench.output(COPY, [[2, 9]]).reflections or []] == [2]
    with pytest.raises(AssertionError, match="a re-insertion was skipped"):
        bench.output(COPY, [[2, 19]])


def test_chunk_and_resubmission_compute_the_same_logits_every_time(bench: Bench) -> None:
    """Two ways of one reflection; a chunk that was not taken back from the cache would be fed after itself."""
    arms = ReflectionArms(bench.subject, answered=5)
    expected = arms.resubmit()
    for _ in range(2):
        assert torch.allclose(arms.chunk(), expected, atol=1e-5)


def test_the_command_reports_every_ratio_with_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_step, "BACKEND", "eager")  # graphs are traced and not compiled
    result = json.loads(json.dumps(run(parse("--tokens", "12", "--every", "6", "--pairs", "1", "--layers", "1"))))
    assert list(result["ratios"]) == list(result["spread"]) == list(RATIOS)
    assert all(math.isfinite(value) and value > 0 for value in result["ratios"].values())
    assert result["spread"]["copy_over_text"]["n"] == 1
    assert result["recompilations"] == 0
    assert result["settings"]["layers"] == 1
    assert result["settings"]["visual_tokens"] == 36
    assert result["settings"]["reflections"] == 2
    assert all(name in table(result) for name in RATIOS)


def test_large_shapes_are_measured_through_the_same_arms() -> None:
    settings = DecodeSettings(shapes="qwen2.5-vl-7b", tokens=12, every=6, pairs=1)
    large = Bench(large_subject(8, CPU, torch.bfloat16, SMALL), settings)
    result = measure(large, ["copy_over_text", "loop_over_generate_b8"])
    assert list(result["ratios"]) == ["copy_over_text", "loop_over_generate_b8"]
    assert describe(large)["dtype"] == "bfloat16"
    assert describe(large)["visual_tokens"] == 4


def test_bytes_per_token_count_the_head_but_not_the_embedding() -> None:
    """One layer of SMALL: attention 64 x (64 + 32 + 32) + biases 128 + 64 x 64, MLP 3 x 64 x 64, norms 64 x 3, head
    128 x 64; the cache 2 x 32 floats per slot at the answer's middle; 4 bytes each. The vision tower is not read."""
    settings = DecodeSettings(shapes="qwen2.5-vl-7b", tokens=12, every=6, pairs=1)
    small = Bench(large_subject(1, CPU, torch.float32, SMALL), settings)
    speed = throughput(small)
    slots = 12 + 60 + 4 + 2 + 12 / 2
    weights = 64 * 128 + 128 + 64 * 64 + 3 * 64 * 64 + 3 * 64 + 128 * 64
    assert speed["read_gb_per_token"] == pytest.approx(4e-9 * (weights + 64 * slots))
    assert speed["decode_tokens_per_s"] > 0


def test_a_missed_target_is_marked_in_the_table() -> None:
    speed = dict.fromkeys(
        ("decode_tokens_per_s", "bandwidth_limit_tokens_per_s", "copy_bandwidth_gb_per_s", "read_gb_per_token"), 1.0
    )
    spread = {"copy_over_text": describe_spread([1.1])}
    shown = [
        table({"ratios": {"copy_over_text": value}, "spread": spread, "throughput": speed, "settings": {}})
        for value in (1.10, 1.11)
    ]
    assert ["MISSED" in text for text in shown] == [False, True]


def test_help_names_every_ratio_that_is_measured():
    """A ratio that `--only` does not know, or a name of one that is gone."""
    assert tuple(RATIOS) == RATIO_NAMES
