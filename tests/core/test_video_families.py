"""Videos: decoding with re-insertion equals one pass of the library that is given the videos again.

The library's pass gets token ids with video tokens, pixels and grids as its own processors make them; positions, masks
and features are its own. Tolerances are measured as in `test_families`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList

from look_again.core.families import FAMILIES, find_family
from look_again.core.generate import LookAgainDecoding, LookAgainOutput
from look_again.core.interleaving import interleave_videos
from look_again.core.prefill import encode
from look_again.core.reattention import Reattention
from look_again.core.runner import encoder_outputs
from look_again.core.slots import Provenance, Slots
from look_again.core.trigger import Trigger
from look_again.training.example import Example
from look_again.training.module import Reattending
from tests.core.test_families import CLOSE, OPEN, STEPS, Script, other_tags
from tests.tiny_families import END, IMAGE, START, TINY_FAMILIES, VIDEO, TinyFamily, noise, patch_grids

FLOOR, FACTOR = 1e-5, 20.0
REFLECT_AT = (3, 9), (6,)
VIDEO_FAMILIES = [
    name for name in TINY_FAMILIES if name in FAMILIES and FAMILIES[name].video is not None and FAMILIES[name].is_served
]
CLIPS = {"a": (2, 4, 6), "b": (3, 4, 4)}  # grids of patches; seconds from one frame of the grid to the next:
SECONDS = {"a": 1.0, "b": 0.33}
COPY = Reattention(mode="copy")
families = pytest.mark.parametrize("name", VIDEO_FAMILIES)


@dataclass(frozen=True)
class Prompt:
    """Token ids and what they show, in order: clips by letter, images by number."""

    ids: list[int]
    shown: list[str | int]


@lru_cache(maxsize=2)
def load(name: str) -> TinyFamily:
    return TINY_FAMILIES[name]()


def block(tiny: TinyFamily, what: str | int) -> list[int]:
    """The ids that show a clip or an image, as the family's processor writes them."""
    if isinstance(what, int):
        return tiny.block(what)
    frames, rows, columns = CLIPS[what]
    one = rows * columns // 4
    if FAMILIES[tiny.name].stamps is None:
        return [START, *[VIDEO] * (frames * one), END]
    if FAMILIES[tiny.name].stamps == "before":
        return [i for f in range(frames) for i in (60, 70 + f, 61, START, *[VIDEO] * one, END)]
    return [106, *(i for f in range(frames) for i in (START, *[IMAGE] * one, END, 70 + f, 61)), 107]


def pixels(tiny: TinyFamily, shown: list[str | int]) -> dict[str, torch.Tensor]:
    """Images and clips, apart, as the library's processors give them."""
    images, clips = [n for n in shown if isinstance(n, int)], [c for c in shown if isinstance(c, str)]
    given = tiny.pixels(images) if images else {}
    if clips:
        grids = [CLIPS[clip] for clip in clips]
        patches = [noise(t * h * w, 96, seed=ord(clip)) for clip, (t, h, w) in zip(clips, grids, strict=True)]
        given |= {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(grids)}
        if tiny.name == "qwen2_5_vl":
            given["second_per_grid_ts"] = torch.tensor([SECONDS[clip] for clip in clips])
    return given


def token_types(tiny: TinyFamily, ids: list[int], shown: list[str | int]) -> torch.Tensor:
    """1 at images, 2 at videos, (1, N)."""
    kinds = iter([1 + isinstance(what, str) for what in shown for _ in range(visual_tokens(tiny, what))])
    return torch.tensor([[next(kinds) if token_id in (IMAGE, VIDEO) else 0 for token_id in ids]])


def visual_tokens(tiny: TinyFamily, what: str | int) -> int:
    return sum(token_id in (IMAGE, VIDEO) for token_id in block(tiny, what))


def library_pass(
    tiny: TinyFamily, ids: list[int], shown: list[str | int], scale: float = 1.0, given: Any = None
) -> torch.Tensor:
    """Logits (N, W) of one pass of the library alone. scale: of all features, to measure how far rounding carries."""
    given, types = given or pixels(tiny, shown), token_types(tiny, ids, shown)
    hooks = []
    if scale != 1.0:
        merger = tiny.model.base_model.visual.merger
        hooks.append(merger.register_forward_hook(lambda module, args, output: output * scale))
    with torch.no_grad():
        try:
            output = tiny.model(input_ids=torch.tensor([ids]), mm_token_type_ids=types, use_cache=False, **given)
        finally:
            for hook in hooks:
                hook.remove()
    return output.logits[0]


def tolerance(tiny: TinyFamily, prompt: Prompt) -> float:
    moved = library_pass(tiny, prompt.ids, prompt.shown, 1 + 1e-7) - library_pass(tiny, prompt.ids, prompt.shown)
    return max(FLOOR, FACTOR * float(moved.abs().max()))


def prompts_of(tiny: TinyFamily, kind: str) -> list[Prompt]:
    shown = {"one clip": [["a"]], "two clips": [["a", "b"]], "a ragged batch": [["b", "a"], ["b"]]}
    mixed = {"a clip and images": [[0, "a", 1]], "a batch of both": [["a", 1], [0]]}
    return [prompt_of(tiny, own) for own in (shown | mixed)[kind]]


def prompt_of(tiny: TinyFamily, shown: list[str | int]) -> Prompt:
    ids = [11, 12, 13]
    for place, what in enumerate(shown):
        ids += [*block(tiny, what), 20 + place]
    return Prompt([*ids, 41, 42, 43], shown)


def decode(tiny: TinyFamily, prompts: list[Prompt], policy: Reattention, plan: Any = REFLECT_AT) -> LookAgainOutput:
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in prompts])
    return tiny.model.generate(
        input_ids=ids,
        attention_mask=mask,
        **pixels(tiny, [what for prompt in prompts for what in prompt.shown]),
        custom_generate=LookAgainDecoding(Trigger(OPEN, CLOSE), policy),
        max_new_tokens=STEPS,
        do_sample=False,
        logits_processor=LogitsProcessorList([Script(longest, plan[: len(prompts)])]),
        return_dict_in_generate=True,
        output_logits=True,
    )


def library_ids(tiny: TinyFamily, slots: Slots, prompt: Prompt) -> list[int]:
    """A sequence's ids with the library's token at videos: here all visual tokens are image tokens."""
    kinds = [VIDEO if isinstance(what, str) else IMAGE for what in prompt.shown]
    if tiny.name.startswith("glm"):
        kinds = [IMAGE] * len(kinds)
    tokens = [kind for what, kind in zip(prompt.shown, kinds, strict=True) for _ in range(visual_tokens(tiny, what))]
    visual = slots.visual_indices.tolist()
    return [tokens[i] if i >= 0 else token_id for token_id, i in zip(slots.token_ids.tolist(), visual, strict=True)]


KINDS = ["one clip", "two clips", "a ragged batch", "a clip and images", "a batch of both"]


@families
@pytest.mark.parametrize("kind", KINDS)
def test_copy_equals_the_library_given_the_videos_again(name, kind):
    """Would catch another position, time, feature, delimiter or frame than those of a video that is shown again."""
    tiny = load(name)
    if name.startswith("glm") and kind in KINDS[3:]:
        library_reads_no_image_beside_a_video(tiny)
        return
    prompts = prompts_of(tiny, kind)
    output = decode(tiny, prompts, COPY)
    for place, (prompt, slots) in enumerate(zip(prompts, output.slots, strict=True)):
        looks = len(REFLECT_AT[place])
        ids, shown = library_ids(tiny, slots, prompt), prompt.shown * (1 + looks)
        inserted = [i for what in prompt.shown for i in block(tiny, what)]
        copies = [i for i, p in enumerate(slots.provenance) if p in (Provenance.REINSERTED, Provenance.FORCED)]
        assert [ids[i] for i in copies] == inserted * looks
        bound = tolerance(tiny, prompt)
        assert gap(output, place, library_pass(tiny, ids, shown)) <= bound


def library_reads_no_image_beside_a_video(tiny: TinyFamily) -> None:
    """In this family both have one token, and the library takes either kind for all of them."""
    prompt = prompt_of(tiny, ["a", 1])
    with pytest.raises(ValueError, match="features"):
        library_pass(tiny, prompt.ids, prompt.shown)


@families
def test_another_clip_or_another_time_is_far_beyond_the_tolerance(name):
    """Would catch tolerances or models under which anything passes."""
    tiny = load(name)
    prompt = prompt_of(tiny, ["a", "b"])
    output = decode(tiny, [prompt], COPY)
    ids, shown = library_ids(tiny, output.slots[0], prompt), prompt.shown * 3
    bound = tolerance(tiny, prompt)
    given = pixels(tiny, shown)
    given["pixel_values_videos"][-4:] += 0.5
    assert gap(output, 0, library_pass(tiny, ids, shown, given=given)) > 20 * bound
    if name == "qwen2_5_vl":
        late = pixels(tiny, shown) | {"second_per_grid_ts": torch.tensor([SECONDS[str(clip)] * 3 for clip in shown])}
        assert gap(output, 0, library_pass(tiny, ids, shown, given=late)) > 20 * bound


def gap(output: LookAgainOutput, sequence: int, full_NW: torch.Tensor) -> float:
    """Largest difference between a sequence's logits while decoding and those of a whole pass."""
    slots = output.slots[sequence]
    sources = slots.sampled_from[slots.provenance == Provenance.SAMPLED].tolist()
    assert len(sources) == STEPS
    return max(float((output.logits[i][sequence] - full_NW[source]).abs().max()) for i, source in enumerate(sources))


CHOSEN = [
    Reattention(mode="route", keep=40),
    Reattention(mode="route", keep=40, layout="strip", delimiters=False),
    Reattention(mode="route", keep=50, keep_frames=True),
]


@families
@pytest.mark.parametrize("policy", CHOSEN, ids=str)
@pytest.mark.parametrize("kind", ["one clip", "a ragged batch", "a batch of both"])
def test_chosen_tokens_equal_one_pass_over_the_librarys_features(name, policy, kind):
    """Would catch a routed token of another frame, with another's features, or read at another place."""
    tiny = load(name)
    prompts = prompts_of(tiny, kind)
    output = decode(tiny, prompts, policy)
    for place, (prompt, slots) in enumerate(zip(prompts, output.slots, strict=True)):
        assert all(reflection.reinserted_tokens for reflection in output.reflections[place])
        table = library_features(tiny, prompt.shown)
        with torch.no_grad():
            full = tiny.model(
                input_ids=slots.token_ids[None],
                position_ids=slots.positions[:, None],
                use_cache=False,
                mm_encoder_outputs=encoder_outputs(
                    tiny.model, [table[slots.visual_indices[slots.visual_indices >= 0]]]
                ),
            ).logits[0]
        bound = tolerance(tiny, prompt) if not (name.startswith("glm") and kind == "a batch of both") else 1e-4
        assert gap(output, place, full) <= bound


def library_features(tiny: TinyFamily, shown: list[str | int]) -> torch.Tensor:
    """The library's own features, in order, with the levels of deepstack beside them."""
    rows = []
    for what in shown:
        own = pixels(tiny, [what])
        own.pop("second_per_grid_ts", None)
        read = tiny.model.get_video_features if isinstance(what, str) else tiny.model.get_image_features
        with torch.no_grad():
            output = read(**own, return_dict=True)
        levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        rows.append(torch.cat([torch.cat(list(level)) for level in levels], -1))
    return torch.cat(rows)


@families
def test_whole_frames_are_kept(name):
    """Would catch half a frame, a frame without its time, or a time without its frame."""
    tiny = load(name)
    prompt = prompt_of(tiny, ["a", "b"])  # 5 frames: 2 of 6 visual tokens, 3 of 4
    output = decode(tiny, [prompt], Reattention(mode="route", keep=40, keep_frames=True))
    frames = [range(0, 6), range(6, 12), range(12, 16), range(16, 20), range(20, 24)]
    for reflection in output.reflections[0]:
        kept = [list(frame) for frame in frames if frame[0] in reflection.visual_indices]
        assert [i for frame in kept for i in frame] == list(reflection.visual_indices)
        assert len(kept) == 2
    texts = [int(t) for t, p in zip(output.slots[0].token_ids, output.slots[0].provenance, strict=True) if p == 3]
    if FAMILIES[name].stamps:
        stamps = [token for token in texts if 70 <= token < 80]
        assert len(stamps) == texts.count(START) == texts.count(END) == 2 * len(output.reflections[0])


@families
def test_the_training_pass_equals_decoding(name):
    """Would catch a sequence in training that decoding never had: times above all."""
    tiny = load(name)
    kind = "two clips" if name.startswith("glm") else "a clip and images"
    prompts = prompts_of(tiny, kind)
    output = decode(tiny, prompts, COPY)
    module = Reattending(tiny.model, {"<REFLECTION>": OPEN, "</REFLECTION>": CLOSE, **other_tags()})
    given = pixels(tiny, prompts[0].shown)
    images = {key: value for key, value in given.items() if key in ("pixel_values", "image_grid_thw")}
    videos = {key: value for key, value in given.items() if key not in images}
    joined = interleave_videos(tiny.model.config, [prompts[0].ids], images, videos)
    grids = [grid for _, grid in encode(tiny.model, **joined)]
    example = Example(prompts[0].ids, output.sequences[0, -STEPS:].tolist(), grids, COPY, silent=[False] * STEPS)
    with torch.no_grad():
        features, _ = module.features([example], **joined)
        (made,) = module.sequences([example], features)
        assert all(torch.equal(getattr(output.slots[0], field), getattr(made, field)) for field in vars(made))
        (batch,) = module.batches([example], features)
        logits, _ = module.target_logits(batch, features)
    decoded = torch.stack([step[0] for step in output.logits])
    assert (logits - decoded).abs().max() <= tolerance(tiny, prompts[0])


def test_positions_in_time_by_hand():
    """tokens_per_second 4, 0.33 s: frames stand 0, 1 and 2 positions apart (1.32 and 2.64, cut); text follows 2 on."""
    tiny = load("qwen2_5_vl")
    prompt = prompt_of(tiny, ["b"])  # 3 frames of 2 x 2
    slots = decode(tiny, [prompt], COPY, ((),)).slots[0]
    time, row, column = slots.positions[:, 4 : 4 + 12].tolist()
    assert time == [4] * 4 + [5] * 4 + [6] * 4
    assert row == [4, 4, 5, 5] * 3
    assert column == [4, 5, 4, 5] * 3
    assert slots.positions[:, 16].tolist() == [6, 6, 6]


def test_what_does_not_match_is_said():
    tiny = load("qwen2_5_vl")
    ids, config = prompt_of(tiny, ["a"]).ids, tiny.model.config
    given = pixels(tiny, ["a"])
    with pytest.raises(ValueError, match="video tokens and videos do not match"):
        interleave_videos(config, [ids[:6] + ids[8:]], {}, given)
    with pytest.raises(ValueError, match="video tokens and videos do not match"):
        interleave_videos(config, [ids * 2], {}, given)
    with pytest.raises(ValueError, match="2 videos were given, the prompts show 1"):
        interleave_videos(config, [ids], {}, pixels(tiny, ["a", "a"]))
    with pytest.raises(ValueError, match="come with video_grid_thw"):
        interleave_videos(config, [ids], {}, {"pixel_values_videos": given["pixel_values_videos"]})


def test_grids_of_a_family_count_time_where_it_does():
    grid = torch.tensor([2, 4, 6])
    families_of = {name: find_family(load(name).model.config) for name in ("qwen2_vl", "qwen2_5_vl")}
    made = {name: family.merged_grid(grid, load(name).model.config, 0.5) for name, family in families_of.items()}
    assert made["qwen2_vl"] == made["qwen2_5_vl"] == (2, 2, 3)
    assert (made["qwen2_vl"].interval, made["qwen2_5_vl"].interval) == (1.0, 2.0)
    assert patch_grids([0]) == [(1, 4, 6)]
