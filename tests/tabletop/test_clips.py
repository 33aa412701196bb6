"""Tabletop's clips: the same on every machine, and every answer follows from the moves that the scenes show."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import Counter
from itertools import pairwise

import pytest

from look_again.core.reattention import Reattention
from look_again.data.image_files import open_shown, restore_image
from look_again.data.sample import Sample
from look_again.evaluation.benchmark import DataLocation, ModelReply
from look_again.images import ImageError
from look_again.images.video_file import load_video
from look_again.loading import load_checkpoint
from look_again.tabletop.clips.clip_benchmark import load_clips, score_clips
from look_again.tabletop.clips.clip_samples import ClipVideo, build_clip_sample, write_clips
from look_again.tabletop.clips.moves import CLIP_KINDS, TabletopClip, make_clip, make_clips
from look_again.tabletop.seeing import LISTED
from look_again.tabletop.world import HELDOUT_PAIRS
from look_again.text.grammar import parse
from look_again.training.batches import Codec

CLIPS_SHA256 = "67beeffea94186151af21abffc9921d150ae1789346d5945fcfe081034eb485a"
FRAMES_SHA256 = "1411290fc682202d047ac0a6bf679ac30ff973fb0f27897f5f7989fa2fbbba1d"


def seen_moves(clip: TabletopClip) -> list[str]:
    """Which object is elsewhere in the next scene, from the captions alone."""
    scenes = [{(c, s): place for place, c, s in LISTED.findall(scene.caption)} for scene in clip.scenes]
    moved = []
    for before, after in pairwise(scenes):
        (pair,) = [pair for pair in before if before[pair] != after[pair]]
        moved.append(" ".join(pair))
    return moved


def test_clips_are_the_same_on_every_machine():
    text = "\n".join(f"{clip.prompt} {clip.response}" for clip in make_clips("test", 20261130, 50))
    assert hashlib.sha256(text.encode()).hexdigest() == CLIPS_SHA256
    frames = b"".join(frame.tobytes() for clip in make_clips("test", 20261130, 3) for frame in clip.frames())
    assert hashlib.sha256(frames).hexdigest() == FRAMES_SHA256


def test_every_answer_follows_from_what_is_seen():
    """Would catch an answer by other moves than those that the scenes show."""
    for clip in make_clips("test", 4, 300):
        moved, question = seen_moves(clip), clip.question
        if question.kind == "which":
            assert set(moved) == {question.answer}
        elif question.kind == "order":
            assert question.answer == (moved[0] if "first" in question.text else moved[-1])
            assert moved[0] != moved[-1]
        else:
            asked = question.text.removeprefix("How many times did the ").removesuffix(" move?")
            assert question.answer == str(moved.count(asked))


def test_kinds_take_turns_and_numbers_are_balanced():
    clips = list(make_clips("train", 1, 600))
    assert Counter(clip.question.kind for clip in clips) == dict.fromkeys(CLIP_KINDS, 200)
    counts = Counter(clip.question.answer for clip in clips if clip.question.kind == "often")
    assert set(counts) == set("0123")
    assert min(counts.values()) > 25


def test_responses_are_well_formed_and_true():
    for clip in make_clips("validation", 2, 60):
        response = parse(clip.response)
        assert response.well_formed
        assert response.conclusion == clip.question.answer
        for move in clip.moves:
            assert f"{move.before} {' '.join(move.pair)} {move.after}" in response.get("REFLECTION").text


def test_a_reflection_by_hand():
    """Every object with its next place; what counts is every move, or those of the object that was asked about."""
    first, counted = make_clip("test", 5, 1), make_clip("test", 5, 2)
    assert parse(first.response).get("REFLECTION").text == (
        "e4 blue cone c1 yes, f4 green cube f4 no, and c1 blue cone c1 no, f4 green cube a3 yes,"
        " and a3 green cube d4 yes, c1 blue cone c1 no, so blue cone"
    )
    assert parse(counted.response).get("REFLECTION").text == (
        "c6 yellow cone c6 no 0, d3 black cone d4 no 0, f3 green ball f3 no 0,"
        " and c6 yellow cone c6 no 0, d4 black cone d4 no 0, f3 green ball b6 no 0,"
        " and b6 green ball b6 no 0, c6 yellow cone c6 no 0, d4 black cone c3 no 0, so 0"
    )


def test_heldout_pairs_stay_held_out():
    shown = [{thing.pair for thing in clip.scenes[0].things} for clip in make_clips("train", 3, 200)]
    assert not any(HELDOUT_PAIRS & pairs for pairs in shown)
    assert all(HELDOUT_PAIRS & {t.pair for t in clip.scenes[0].things} for clip in make_clips("heldout", 3, 60))


@pytest.mark.parametrize(("split", "kind", "said"), [("dev", None, "unknown split"), ("test", "why", "unknown kind")])
def test_unknown_names_are_named(split, kind, said):
    with pytest.raises(ValueError, match=said):
        make_clip(split, 0, 0, kind=kind)


def test_files_hold_the_clips(tmp_path):
    """A second per scene: at the clip's own rate the file gives its frames, at one a second its scenes."""
    pytest.importorskip("av")
    clips = list(write_clips(tmp_path, "test", 5, 3))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [clip.question.answer for clip in clips]
    video = load_video(tmp_path / rows[0]["video"], fps=2)
    assert len(video.frames) == 8
    assert video.size == (168, 168)
    drawn = clips[0].frames()
    for mine, stored in zip(drawn, video.frames, strict=True):
        far = [abs(a - b) for a, b in zip(mine.tobytes(), stored.tobytes(), strict=True)]
        assert sum(far) / len(far) < 4  # chroma is halved; what is drawn stays
    assert len(load_video(tmp_path / rows[0]["video"], fps=1).frames) == 4


def test_a_clip_among_a_samples_images():
    source = ClipVideo("test", 5, 1)
    assert pickle.loads(pickle.dumps(source)) == source
    assert restore_image(source.stored()) == source
    assert [f.tobytes() for f in open_shown(source).frames] == [f.tobytes() for f in make_clip("test", 5, 1).frames()]
    with pytest.raises(ImageError, match="is a video"):
        source.read()


def test_a_sample_becomes_a_prompt_that_shows_the_video():
    check = load_checkpoint(device="cpu")
    codec = Codec.of(check.model.config, check.tokenizer, check.image_processor)
    sample: Sample = build_clip_sample("train", 0, 0)
    item = codec.item(sample, Reattention())
    assert item.example.grids == [(4, 6, 6)]
    assert item.example.grids[0].interval == 4.0  # a second, and four positions a second
    video = check.model.config.video_token_id
    assert item.example.prompt_ids.count(video) == 4 * 36


def test_scores_by_hand():
    items = list(load_clips(DataLocation(path="seed=3", split="test", images=None, limit=3)))
    clips = list(make_clips("test", 3, 3))
    replies = [ModelReply(clip.response, parse(clip.response).conclusion) for clip in clips]
    right = score_clips(items, replies)
    assert right.metrics["accuracy"] == right.metrics["moves_named"] == right.metrics["named_moves_true"] == 1
    replies[0] = ModelReply("<REFLECTION> a1 red ball a2 yes</REFLECTION><CONCLUSION> nothing</CONCLUSION>", "nothing")
    wrong = score_clips(items, replies)
    assert wrong.metrics["accuracy"] == pytest.approx(2 / 3)
    assert wrong.metrics["moves_named"] == pytest.approx(2 / 3)
    assert wrong.metrics["named_moves_true"] == pytest.approx(6 / 7)
    with pytest.raises(ValueError, match="seed=0"):
        list(load_clips(DataLocation(path="somewhere", split="test", images=None, limit=1)))
