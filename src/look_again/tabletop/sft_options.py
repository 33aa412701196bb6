"""Keys of a training stage whose samples are drawn from Tabletop; the paper has nothing of the kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from look_again.tabletop.oracle import LENGTHS
from look_again.tabletop.people.phrased_samples import FORMS
from look_again.tabletop.samples import LENGTH_WEIGHTS
from look_again.training.run_parts import require_least, require_positive, require_weights
from look_again.yaml_config import check_types


@dataclass(frozen=True, kw_only=True)
class TabletopOptions:
    """How the samples of a stage are drawn. ValueError for values out of range."""

    endless: ClassVar[bool] = True
    """Samples are made as the stage goes, so that only steps can end it."""

    error_rate: float = 0.0
    """Chance of a planted mistake per object that a caption lists."""
    lengths: Mapping[str, float] = field(default_factory=lambda: dict(LENGTH_WEIGHTS))
    """Weights of the lengths that prompts ask for: brief, normal, long."""
    reflections: int | None = None
    """Reflections of each response; None draws their number."""
    distinct: int | None = None
    """Samples before they come again; None for no end."""
    cursory: float = 0.0
    """Chance that a crowded image's reflection only names the answer."""

    def __post_init__(self) -> None:
        check_types(self)
        if not (0 <= self.error_rate <= 1 and 0 <= self.cursory <= 1):
            raise ValueError(f"error_rate and cursory are 0..1, not {self.error_rate} and {self.cursory}")
        require_weights(self, "lengths", LENGTHS)
        require_least(self, 0, "reflections")
        require_positive(self, "distinct")


@dataclass(frozen=True, kw_only=True)
class PhrasedOptions(TabletopOptions):
    """How samples as people ask them are drawn. ValueError for values out of range."""

    forms: Mapping[str, float] = field(default_factory=lambda: {"made": 1.0, "reworded": 1.0})
    """Weights of the forms of a sample, by the names of `phrased_samples.FORMS`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cursory:
            raise ValueError("cursory belongs to the task 'answers'")
        require_weights(self, "forms", FORMS)
