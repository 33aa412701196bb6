"""Keys of a training stage whose samples are Tabletop's clips; the paper has no videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from look_again.training.run_parts import require_positive
from look_again.yaml_config import check_types


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """How the clips of a stage are drawn. ValueError for values out of range."""

    endless: ClassVar[bool] = True
    """Samples are made as the stage goes, so that only steps can end it."""

    distinct: int | None = None
    """Clips before they come again; None for no end."""

    def __post_init__(self) -> None:
        check_types(self)
        require_positive(self, "distinct")
