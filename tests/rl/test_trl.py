"""TRL's own GRPO: our rewards run in it, and why re-attention inside rollouts has a loop of its own."""

from __future__ import annotations

import pytest
from datasets import Dataset
from PIL import Image

from look_again.core.families import find_family
from look_again.loading import load_checkpoint
from look_again.processing import LookAgainProcessor
from look_again.rl.rewards import BalanceReward, accuracy_reward, format_reward


def trainer(tmp_path, rollout_func=None):
    """One step of two answers to one question about a picture."""
    trl = pytest.importorskip("trl", reason="the train extra")
    shipped = load_checkpoint(device="cpu")
    row = {
        "prompt": [{"role": "user", "content": "How many balls? Answer briefly."}],
        "image": Image.new("RGB", (168, 168), "white"),
        "reference": "0",
    }
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=24,
        use_cpu=True,
        report_to="none",
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        bf16=False,
    )
    return trl.GRPOTrainer(
        model=shipped.model,
        args=arguments,
        train_dataset=Dataset.from_list([row, row]),
        processing_class=LookAgainProcessor(shipped.image_processor, shipped.tokenizer),
        reward_funcs=[format_reward, accuracy_reward, BalanceReward(shipped.tokenizer, length=40)],
        rollout_func=rollout_func,
    ), shipped


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of names that TRL itself still uses
def test_our_rewards_run_in_trl(tmp_path):
    """Would catch a signature, a name or a None that TRL does not take."""
    made, _ = trainer(tmp_path)
    made.train()
    logged = made.state.log_history[0]
    names = {"format_reward", "accuracy_reward", "balance_reward"}
    assert {f"rewards/{name}/mean" for name in names} <= logged.keys()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of names that TRL itself still uses
def test_trl_cannot_carry_rows_inside_completions(tmp_path):
    """Once it can, the loop of our own is worth another look: it counts features and tokens of the prompt alone."""
    _, shipped = trainer(tmp_path / "once")
    tokens = find_family(shipped.model.config).vision_tokens(shipped.model.config)

    def rollout(prompts, _trainer):
        text = shipped.tokenizer("the ball", add_special_tokens=False)["input_ids"]
        prompt = [tokens.start, *[tokens.image] * 36, tokens.end, *text]
        again = [*text, tokens.start, *[tokens.image] * 36, tokens.end, *text]
        own = [1] * len(text) + [0] * 38 + [1] * len(text)
        n = len(prompts)
        return {"prompt_ids": [prompt] * n, "completion_ids": [again] * n, "logprobs": None, "env_mask": [own] * n}

    made, _ = trainer(tmp_path / "again", rollout)
    with pytest.raises(ValueError, match=r"(?i)image features and image tokens"):
        made.train()
