"""Which files hold a checkpoint's weights: safetensors alone, found and read before the library opens any of them.

The library, told to take safetensors only, still opens whatever an index of shards names, pickles among it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_files

from look_again.weights.checkpoint_record import find_file
from look_again.weights.options import LoadError, parse_object

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SAFE = ".safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def find_weight_files(source: str, named: str | None = None) -> list[Path]:
    """The files of a checkpoint's weights (folder or hub name), fetched where they are not here.

    named: the file or index that its configuration names in place of the usual ones. LoadError for a file that is no
    safetensors, for a damaged index, for weights in other formats alone, and for none.
    """
    if named is not None:
        if not isinstance(named, str) or not named.endswith((SAFE, f"{SAFE}.index.json")):
            raise refuse_pickles(f"the config.json of {source} names the weights {named!r}")
        names = [named]
    else:
        names = [WEIGHTS, INDEX]
    path = next((path for name in names if (path := _find(source, name)) is not None), None)
    if path is None:
        raise LoadError(_say_missing(source, names))
    if path.suffix != ".json":
        return [path]
    shards = sorted(set(read_index(path).values()))
    if Path(source).is_dir():
        return [_existing(path, shard) for shard in shards]
    return [Path(file) for file in cached_files(source, shards) or ()]


def read_index(path: Path) -> dict[str, str]:
    """The weights that an index of shards names, each with its file. LoadError for a damaged one and for pickles."""
    places = _read_places(path)
    if not all(isinstance(file, str) for file in places.values()):
        raise LoadError(f"{path} is damaged: its weight_map names files that are no text; fetch the checkpoint again")
    other = next((file for file in places.values() if not file.endswith(SAFE)), None)
    if other is not None:
        raise refuse_pickles(f"{path} names the weights {other!r}")
    return dict(places)


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """A safetensors file, open. LoadError for one that is truncated, damaged or cannot be read, here or while it is."""
    try:
        with safe_open(path, "pt") as weights:
            yield weights
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path} is truncated or damaged: {error}; fetch or save it again") from error


def read_shapes(files: Sequence[Path]) -> list[list[int]]:
    """The shapes of all weights in some files, from their headers. LoadError for a damaged file."""
    shapes: list[list[int]] = []
    for file in files:
        with open_weights(file) as weights:
            shapes += [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - no mapping
    return shapes


def refuse_pickles(where: str) -> LoadError:
    """The error for weights that are no safetensors. where: what names them."""
    return LoadError(f"{where}, which are no safetensors: pickled weights are refused; save the checkpoint again")


def _read_places(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}; fetch the checkpoint again") from error
    index = parse_object(text, str(path))
    for key in ("metadata", "weight_map"):
        if not isinstance(index.get(key), dict):
            raise LoadError(f"{path} is damaged: it has no {key}; fetch the checkpoint again")
    places: Mapping[str, Any] = index["weight_map"]
    return places


def _find(source: str, name: str) -> Path | None:
    """A file of a folder or hub name; None where there is none."""
    if not Path(source).is_dir():
        return find_file(source, name)
    path = Path(source) / name
    return path if path.is_file() else None


def _existing(index: Path, shard: str) -> Path:
    path = index.parent / shard
    if not path.is_file():
        raise LoadError(f"{index} names {shard!r}, which is not there; fetch or save the checkpoint again")
    return path


def _say_missing(source: str, names: Sequence[str]) -> str:
    """What to say of a source without weights that can be read."""
    pickles = sorted(path.name for pattern in PICKLES for path in Path(source).glob(pattern))
    if Path(source).is_dir() and pickles:
        return (
            f"{source} holds its weights as {pickles[0]} alone: pickled weights are refused; save them as safetensors "
            "(save_pretrained) or take a checkpoint that has them"
        )
    return f"{source} has no weights: no file named {' or '.join(names)}; weights in other formats are refused"
