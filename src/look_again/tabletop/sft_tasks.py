"""Training tasks whose samples are drawn from Tabletop: the vision warm-up, captions, and whole answers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer

from look_again.data.sample import Sample
from look_again.tabletop.loader import build_sample
from look_again.tabletop.samples import TabletopSample, make_sample
from look_again.tabletop.world import COLOURS, GRID_SIDE, PLACES, SHAPES
from look_again.text.grammar import close_tag, parse
from look_again.training.base_model import BaseModel
from look_again.training.batches import Codec
from look_again.training.sft_config import Stage
from look_again.training.sft_task import SftTask


class TabletopDataset(Dataset):
    """Enough samples of the train split for all steps: each is a function of (seed, stage, index) alone."""

    def __init__(self, stage: Stage, seed: int, codec: Codec, processes: int = 1) -> None:
        self.stage, self.seed, self.codec, self.processes = stage, seed, codec, processes

    def __len__(self) -> int:
        passes = self.stage.passes
        return (passes.steps or 0) * passes.batch * passes.accumulation * self.processes

    def draw(self, index: int) -> TabletopSample:
        """The row behind a sample."""
        options = self.stage.options
        return make_sample(
            "train",
            self._stream_seed(),
            index if options.distinct is None else index % options.distinct,
            reflections=options.reflections,
            error_rate=options.error_rate,
            lengths=options.lengths,
            cursory=options.cursory,
        )

    def sample(self, index: int) -> Sample:
        """The row as a sample."""
        return build_sample(self.draw(index), "train")

    def __getitem__(self, index: int) -> Any:
        sample = self.sample(index)
        policy = self.stage.mixture.draw(self.seed, sample.id)
        return self.codec.item(sample, policy, learn_silent=self.stage.sequence.learn_mistakes)

    def _stream_seed(self) -> int:
        """Stages read different rows."""
        return self.seed * 1_000_003 + zlib.crc32(self.stage.name.encode())


class CaptionDataset(TabletopDataset):
    """The same with responses up to CAPTION."""

    def sample(self, index: int) -> Sample:
        sample, end = super().sample(index), close_tag("CAPTION")
        assert sample.response is not None
        return replace(sample, response=sample.response[: sample.response.index(end) + len(end)])


class PlainDataset(TabletopDataset):
    """The same without tags and reflections: what a model writes that was never told of the format."""

    def sample(self, index: int) -> Sample:
        sample = super().sample(index)
        parsed = parse(sample.response or "")
        words = [section.text for section in parsed.sections if section.tag not in ("REFLECTION", "CONCLUSION")]
        text = f" {'. '.join(words)}. the answer is {parsed.conclusion}"
        return replace(sample, response=text, silent=())


class SceneDataset(TabletopDataset):
    """Images, and the classes of what lies at each visual token."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.draw(index)
        return {**self.codec.images(build_sample(row, "train")).tensors, "contents": scene_classes(row)}


def scene_classes(row: TabletopSample) -> torch.Tensor:
    """(visual tokens, 4): at every place its row and column, and the colour and shape of what is there (0: nothing)."""
    classes = torch.zeros((len(PLACES), 4), dtype=torch.long)
    places = torch.arange(len(PLACES))
    classes[:, 0], classes[:, 1] = places // GRID_SIDE, places % GRID_SIDE
    for thing in row.scene.things:
        place = PLACES.index(thing.place)
        classes[place, 2] = 1 + COLOURS.index(thing.colour)
        classes[place, 3] = 1 + SHAPES.index(thing.shape)
    return classes


def collate_scenes(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Items of one step: images one after the other, contents (B, visual tokens, 4)."""
    images = {name: torch.cat([item[name] for item in items]) for name in ("pixel_values", "image_grid_thw")}
    return images | {"contents": torch.stack([item["contents"] for item in items])}


class VisionProbe(torch.nn.Module):
    """The vision tower with a head that names place, colour and shape at every visual token (warm-up only).

    The head compares directions, and visual tokens are held near a root mean square of SCALE. A free linear head lets
    them grow a hundred times larger than word embeddings, nearly all one attribute, which a language model then hardly
    reads. What later layers of a language model read (deepstack) is held to the same.
    """

    CLASSES = (GRID_SIDE, GRID_SIDE, len(COLOURS) + 1, len(SHAPES) + 1)
    SCALE = 0.5
    SHARPNESS = 20.0

    def __init__(self, visual: torch.nn.Module, hidden: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = torch.nn.Linear(hidden, sum(self.CLASSES))

    def forward(
        self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, contents: torch.Tensor, **unused: Any
    ) -> dict[str, torch.Tensor]:
        output = self.visual(pixel_values, grid_thw=image_grid_thw)
        levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        losses = [self._loss(tokens, contents) for tokens in levels]
        return {"loss": torch.stack(losses).sum()}

    def _loss(self, tokens: torch.Tensor, contents: torch.Tensor) -> torch.Tensor:
        """Of visual tokens (N, hidden) that show contents (B, visual tokens, 4)."""
        directions = torch.nn.functional.normalize(self.head.weight, dim=-1)
        cosines = torch.nn.functional.normalize(tokens.float(), dim=-1) @ directions.T
        parts = (self.SHARPNESS * cosines + self.head.bias).split(self.CLASSES, dim=-1)
        wanted = contents.view(-1, len(self.CLASSES))
        losses = [torch.nn.functional.cross_entropy(part, wanted[:, i]) for i, part in enumerate(parts)]
        size = tokens.float().square().mean(-1).sqrt()
        losses.append((size / self.SCALE).log().square().mean())
        return torch.stack(losses).sum()


class AnswersTask(SftTask):
    """Tabletop's whole responses."""

    dataset_class: type[TabletopDataset] = TabletopDataset

    def dataset(self, stage: Stage, seed: int, codec: Codec, processes: int) -> tuple[Any, dict[str, int]]:
        """Samples made on the fly; nothing is counted."""
        return self.dataset_class(stage, seed, codec, processes), {}


class CaptionsTask(AnswersTask):
    """Tabletop's responses up to CAPTION."""

    dataset_class = CaptionDataset


class PlainTask(AnswersTask):
    """Tabletop's answers as plain text, without tags: a base that the pipeline has to teach the format."""

    dataset_class = PlainDataset


class VisionTask(AnswersTask):
    """What lies at each visual token, by a linear head; of the model the vision tower alone trains."""

    dataset_class = SceneDataset
    trainer = Trainer

    def collate(self, items: Sequence[Any]) -> dict[str, Any]:
        """Images and classes."""
        return collate_scenes(items)

    def module(self, base: BaseModel, model: Any, stage: Stage) -> torch.nn.Module:
        """The tower with its head."""
        torch.manual_seed(base.seed)  # of the head
        return VisionProbe(model.base_model.visual, model.config.get_text_config().hidden_size)

    def trained(self, base: BaseModel, state: Mapping[str, torch.Tensor]) -> Any:
        """The start with the trained tower in it."""
        model = base.load()
        visual = {name.removeprefix("visual."): v for name, v in state.items() if name.startswith("visual.")}
        model.base_model.visual.load_state_dict(visual)
        return model
