"""The policy of a study's arm, and the checkpoint under its mask."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from look_again.core.reattention import Reattention
from look_again.evaluation.controls import ARMS, policies
from look_again.evaluation.run_folder import write_json
from look_again.model import LookAgain, load
from look_again.study.designs import RANKED, ROTATED
from look_again.study.settings import StudySettings, split_arm
from look_again.weights.sources import default_checkpoint

RANKINGS = {"": "relevance", "-diversity": "diversity", "-both": "relevance-diversity"}
LOCAL_IN = 3  # of a mixed model's layers one in so many sees everything
CONFIG = "config.json"


def build_policy(base: Reattention, arm: str) -> Reattention:
    """The policy of an arm. ValueError for one that is unknown."""
    name = split_arm(arm)[0]
    if name == ROTATED:
        return replace(base, mode="copy", reuse="rotated")
    found = RANKED.fullmatch(name)
    if name in ARMS or found is None or (found[1] == "random" and found[3]):
        return policies(base, [name])[name]
    if found[1] == "random":
        return replace(base, mode="route", keep=int(found[2]), control="random-rows")
    return replace(base, mode="route", keep=int(found[2]), ranking=RANKINGS[found[3] or ""])


def load_arm(settings: StudySettings, place: int, arm: str, out: Path) -> LookAgain:
    """The model that an arm runs on: number `place` of the study's checkpoints, under the arm's mask."""
    mask = split_arm(arm)[1]
    return load_once(str(_mask_folder(settings, place, mask, out)) if mask else settings.models[place])


@lru_cache(maxsize=1)
def load_once(name: str | None) -> LookAgain:
    return load(name)


def mask_checkpoint(settings: StudySettings, place: int, mask: str, out: Path) -> None:
    """Write a checkpoint of the same weights whose layers see the last `settings.window` slots, under `out`.

    mask: "global" no layer, "local" every layer, "mixed" all but the last of every LOCAL_IN layers. ValueError for a
    checkpoint that is no folder, and for a family whose configuration has no kinds of layers.
    """
    name = settings.models[place]
    source = (default_checkpoint() if name is None else Path(name)).resolve()
    if not (source / CONFIG).is_file():
        raise ValueError(f"the study of windows changes a checkpoint's configuration: give a folder, not {name!r}")
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    if "layer_types" not in text or "sliding_window" not in text:
        raise ValueError(f"a model of the type {config.get('model_type')!r} has no windows that could be set")
    if set(text["layer_types"]) != {"full_attention"}:
        raise ValueError(f"{source} has windows of its own: the study of windows begins with a model without")
    text |= _windows(mask, len(text["layer_types"]), settings.window)
    folder = _mask_folder(settings, place, mask, out)
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():  # links: other weights are then another model, which a resumed cell refuses
        if path.name != CONFIG and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    write_json(folder / CONFIG, config)


def _windows(mask: str, layers: int, window: int) -> dict[str, Any]:
    """What a text configuration says of its windows."""
    local = {"global": 0, "mixed": LOCAL_IN - 1, "local": LOCAL_IN}[mask]
    kinds = ["sliding_attention" if layer % LOCAL_IN < local else "full_attention" for layer in range(layers)]
    return {
        "layer_types": kinds,
        "sliding_window": window,
        "use_sliding_window": local > 0,
        "max_window_layers": 0,
    }


def _mask_folder(settings: StudySettings, place: int, mask: str, out: Path) -> Path:
    return out / "models" / f"model-{place}-{mask}-{settings.window}"
