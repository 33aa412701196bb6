"""Training tasks of questions as people ask them: whole responses, and what is asked for alone."""

from __future__ import annotations

from dataclasses import replace

from look_again.data.sample import Sample
from look_again.tabletop.people.phrased_samples import make_phrased
from look_again.tabletop.sft_tasks import AnswersTask, TabletopDataset
from look_again.text.grammar import close_tag


class PhrasedDataset(TabletopDataset):
    """Samples as people ask them, by the stage's weights of forms."""

    def sample(self, index: int) -> Sample:
        """The example as a sample."""
        options = self.stage.options
        example = make_phrased(
            "train",
            self._stream_seed(),
            index if options.distinct is None else index % options.distinct,
            options.forms,
            error_rate=options.error_rate,
            lengths=options.lengths,
            reflections=options.reflections,
        )
        return example.as_sample("train")


class GoalDataset(PhrasedDataset):
    """The same with responses up to SUMMARY and without images: what is asked for stands in the question alone."""

    def sample(self, index: int) -> Sample:
        """The example without its image and what follows the goal."""
        sample, end = super().sample(index), close_tag("SUMMARY")
        assert sample.response is not None
        return replace(sample, images=(), response=sample.response[: sample.response.index(end) + len(end)], silent=())


class PhrasedTask(AnswersTask):
    """Tabletop's whole responses to questions as people ask them."""

    dataset_class = PhrasedDataset


class GoalsTask(AnswersTask):
    """Their responses up to SUMMARY."""

    dataset_class = GoalDataset
