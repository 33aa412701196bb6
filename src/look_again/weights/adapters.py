"""Adapters of peft: which base they belong to, and how they are put onto it.

An adapter's configuration names its base, and nothing in it says more. So what can be compared is: every tensor of the
adapter must find its place in the model, and where both bases lie on this machine, the adapted weights of both must be
the same.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from look_again.extras import require
from look_again.weights.checkpoint_record import find_file
from look_again.weights.options import LoadError
from look_again.weights.weight_files import INDEX, WEIGHTS, open_weights, read_index

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the names in an adapter's file
BASE_COPY = ".base_layer.weight"  # an embedding that peft saves whole beside its adapter
COMPARED = 8
"""Weights, spread over the model, that are compared between two bases."""

REASON_CHARACTERS = 200


@dataclass(frozen=True)
class Adapter:
    """A folder of peft's on this machine. base: what its configuration names, None where it names nothing."""

    folder: Path
    base: str | None

    def find_base(self) -> str:
        """Where its base is to be loaded from: its folder, or a hub name. LoadError where nothing is named."""
        if self.base is None:
            raise LoadError(f"the adapter {self.folder} names no base: say which it is (--model BASE)")
        beside = self.folder / self.base
        if not Path(self.base).is_dir() and not Path(self.base).is_absolute() and beside.is_dir():
            return str(beside)
        return self.base


def is_adapter(source: str) -> bool:
    """Whether a folder or hub name holds an adapter of peft."""
    try:
        return find_file(source, CONFIG_FILE) is not None
    except OSError:  # no such name, or no right to it: told where the checkpoint is loaded
        return False


def read_adapter(source: str | Path) -> Adapter:
    """The adapter of a folder or hub name. LoadError for none, a damaged one, and pickled weights."""
    path = find_file(str(source), CONFIG_FILE)
    if path is None:
        raise LoadError(f"{source} is no adapter: it has no {CONFIG_FILE}")
    if not Path(source).is_dir():
        path = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.jinja", "*.safetensors"])) / path.name
    if not (path.parent / WEIGHTS_FILE).is_file():
        raise LoadError(f"the adapter {source} has no {WEIGHTS_FILE}; pickled weights are refused: save it again")
    _list_file(path.parent / WEIGHTS_FILE)
    return Adapter(path.parent, _read_base(path))


def _read_base(path: Path) -> str | None:
    """The base that an adapter's configuration names. LoadError for a file that is no such configuration."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        base = config.get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise LoadError(f"{path} is no configuration of an adapter: {error}") from error
    if base is not None and not isinstance(base, str):
        raise LoadError(f"{path} is damaged: base_model_name_or_path is {base!r}, and a name or folder is needed")
    return base or None


def put_adapter_on(model: Any, adapter: Adapter, *, merge: bool) -> Any:
    """The model with the adapter in its layers, or folded into its weights.

    LoadError for an adapter that does not fit, for a configuration that peft does not know, and for what is put on no
    layer (prompts that are learnt).
    """
    require("peft", extra="load")
    from peft import PeftModel

    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise LoadError(
            "an adapter needs its base in memory, and the device map leaves a part on disk: write both into one "
            f"checkpoint first (look-again prepare {adapter.folder} OUT)"
        )
    _check_kind(adapter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied rows and deprecations inside peft
            warnings.filterwarnings("error", "Found missing adapter keys")
            wrapped = PeftModel.from_pretrained(model, adapter.folder, autocast_adapter_dtype=False)
    except Exception as error:  # peft raises anything: a place that is missing, a shape, a key
        raise _does_not_fit(adapter, _shorten(str(error))) from error
    _check_all_placed(wrapped, adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wrapped.merge_and_unload() if merge else wrapped.get_base_model()


def _check_kind(adapter: Adapter) -> None:
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(adapter.folder))
    except (KeyError, TypeError, ValueError) as error:
        reason = _shorten(f"{type(error).__name__}: {error}")
        raise LoadError(f"{adapter.folder / CONFIG_FILE} is no configuration of an adapter: {reason}") from error
    if config.is_prompt_learning:
        raise LoadError(f"the adapter {adapter.folder} learns prompts, which is not supported: use LoRA and the like")


def _shorten(reason: str) -> str:
    """The line of an error that says what does not fit, where it lists many."""
    lines = [line.strip() for line in reason.strip().splitlines()]
    line = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    return line if len(line) <= REASON_CHARACTERS else f"{line[:REASON_CHARACTERS]}…"


def _check_all_placed(wrapped: Any, adapter: Adapter) -> None:
    """LoadError where the adapter brings tensors that the model has no place for, which peft drops in silence."""
    from peft import get_peft_model_state_dict

    names = _list_file(adapter.folder / WEIGHTS_FILE)
    brought = sum(not name.endswith(BASE_COPY) for name in names)
    placed = len(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    if brought > placed:
        raise _does_not_fit(adapter, f"it brings {brought} tensors, and the model has a place for {placed}")


def _does_not_fit(adapter: Adapter, reason: str) -> LoadError:
    return LoadError(
        f"the adapter {adapter.folder} does not fit this base; its configuration names {adapter.base!r}: {reason}"
    )


def _another_base(adapter: Adapter, reason: str) -> LoadError:
    return LoadError(
        f"the adapter {adapter.folder} belongs to another base; its configuration names {adapter.base!r}: {reason}"
    )


def check_base(adapter: Adapter, used: str) -> tuple[str, ...]:
    """What to say of a base that is not the one which the adapter names; nothing where it is.

    LoadError where both lie here and their adapted weights differ, or the files of one are damaged.
    """
    if adapter.base is None or used == adapter.base:
        return ()
    own = _local(adapter.find_base())
    if own is not None and Path(used).is_dir() and own.resolve() == Path(used).resolve():
        return ()
    same = None if own is None else have_same_weights(own, Path(used), _adapted_weights(adapter))
    if same is False:
        raise _another_base(adapter, f"the weights of {used} are others")
    if same:
        return ()
    return (f"the adapter names the base {adapter.base!r}; whether {used!r} is the same could not be compared",)


def have_same_weights(one: Path, other: Path, names: list[str]) -> bool | None:
    """Whether some weights of two folders are equal, in the coarser of their types; None where none is in both.

    Copies of a checkpoint in another type, or with rows for the tags, count as equal.
    """
    held = [_list_weights(folder) for folder in (one, other)]
    chosen = names[:: max(1, len(names) // COMPARED)]
    pairs = [[_find_name(weights, name) for weights in held] for name in chosen]
    found = [pair for pair in pairs if None not in pair]
    read = ([_read(weights[key], key) for weights, key in zip(held, pair, strict=True) if key] for pair in found)
    return all(_equal(*pair) for pair in read) if found else None


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    coarser = one.dtype if one.element_size() <= other.element_size() else other.dtype
    return torch.equal(one.to(coarser), other.to(coarser))


def _adapted_weights(adapter: Adapter) -> list[str]:
    """Names, in the base, of the weights that an adapter changes."""
    names = (name.removeprefix(PREFIX).partition(".lora_")[0] for name in _list_file(adapter.folder / WEIGHTS_FILE))
    return sorted({f"{name}.weight" for name in names})


def _find_name(weights: Mapping[str, Path], name: str) -> str | None:
    """A weight's name in a folder: checkpoints of one model differ in what stands before the number of a layer."""
    parts = name.split(".")
    for start in range(len(parts)):
        ending = ".".join(parts[start:])
        found = [key for key in weights if key == ending or key.endswith(f".{ending}")]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _list_weights(folder: Path) -> dict[str, Path]:
    """The weights of a checkpoint's folder that are here, with the file of each. LoadError for damaged files."""
    index = folder / INDEX
    if index.is_file():
        places = {name: folder / file for name, file in read_index(index).items()}
        return {name: file for name, file in places.items() if file.is_file()}
    file = folder / WEIGHTS
    return dict.fromkeys(_list_file(file), file) if file.is_file() else {}


def _list_file(file: Path) -> list[str]:
    with open_weights(file) as weights:
        return list(weights.keys())


def _read(file: Path, name: str) -> torch.Tensor:
    with open_weights(file) as weights:
        tensor: torch.Tensor = weights.get_tensor(name)
    return tensor


def _local(source: str) -> Path | None:
    """The folder of a checkpoint on this machine; None where it is not here."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError):
        return None
