"""Clips as samples, as files, as a training task and as a benchmark; all made on the fly from `clips`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from look_again.data.image_files import LazyVideo
from look_again.data.sample import Sample
from look_again.images.video import Video
from look_again.images.video_writing import write_video
from look_again.tabletop.clips.moves import FPS, TabletopClip, make_clip, make_clips
from look_again.tabletop.sft_tasks import AnswersTask, TabletopDataset


@dataclass(frozen=True)
class ClipVideo(LazyVideo):
    """The video of a clip, drawn when read. `split`, `seed` and `index` name it."""

    split: str
    seed: int
    index: int

    def __str__(self) -> str:
        return f"drawn for clip-{self.split}-{self.seed}-{self.index}"

    def read_video(self) -> Video:
        return make_clip(self.split, self.seed, self.index).video()

    def stored(self) -> dict[str, Any]:
        return {"clip": asdict(self)}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> ClipVideo:
        return cls(**stored["clip"])


def build_clip_sample(split: str, seed: int, index: int) -> Sample:
    """A clip as a sample."""
    clip = make_clip(split, seed, index)
    return Sample(
        id=clip.id,
        images=(ClipVideo(split, seed, index),),
        question=clip.prompt,
        reference=clip.question.answer,
        response=clip.response,
        source="tabletop-clips",
        split=split,
    )


def write_clips(out: Path, split: str, seed: int, n: int, suffix: str = ".mp4") -> Iterator[TabletopClip]:
    """Write `videos/` and `rows.jsonl` under `out`, yielding each clip once it is written."""
    (out / "videos").mkdir(parents=True, exist_ok=True)
    with (out / "rows.jsonl").open("w", encoding="utf-8") as file:
        for clip in make_clips(split, seed, n):
            video = f"videos/{clip.id}{suffix}"
            write_video(out / video, clip.frames(), FPS)
            file.write(json.dumps(clip.as_dict(video), ensure_ascii=False) + "\n")
            yield clip


class ClipDataset(TabletopDataset):
    """Clips of the train split, enough for all steps."""

    def sample(self, index: int) -> Sample:
        """The clip as a sample."""
        distinct = self.stage.options.distinct
        return build_clip_sample("train", self._stream_seed(), index if distinct is None else index % distinct)


class ClipsTask(AnswersTask):
    """Whole responses about Tabletop's clips."""

    dataset_class = ClipDataset
