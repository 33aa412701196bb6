"""Data sets of the Hugging Face hub, or local ones in its formats, through the `datasets` library.

Records are taken as the tables hold them: images stay encoded, so a damaged one is found when its row is checked and
costs nothing before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from look_again.data.readers import BATCH_ROWS
from look_again.extras import require

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_folder(path: str, patterns: list[str], *, example: str) -> Path:
    """The folder `path`, or where the files of the hub data set of that name that match `patterns` were downloaded to.

    ValueError where it is neither, or the hub does not give it; `example` is a name to suggest.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(path):
        raise ValueError(f"{path!r} is neither a folder nor a hub name such as {example}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path!r} is no folder here, and the hub did not give it: {error}") from error


def read_data_set(path: str, split: str, name: str | None = None, *, looked_for: str) -> Iterator[Mapping[str, Any]]:
    """`read_hub` of a folder or hub name; a ValueError also names the other layout that was looked for before."""
    folder = Path(path).expanduser()
    try:
        yield from read_hub(str(folder) if folder.is_dir() else path, split, name)
    except ValueError as error:
        raise ValueError(f"{error}; nor is there {looked_for}") from error


def read_configurations(
    path: str, split: str, name: str | None = None, *, looked_for: str
) -> Iterator[Mapping[str, Any]]:
    """`read_data_set`, which without a name reads the configuration `default`, or all of them without such a one."""
    for chosen in [name] if name else _configurations(path):
        yield from read_data_set(path, split, chosen, looked_for=looked_for)


def _configurations(path: str) -> list[str | None]:
    """None stands for the one that the library takes by itself, also where they cannot be listed."""
    require("datasets", extra="data")
    import datasets

    folder = Path(path).expanduser()
    try:
        names = datasets.get_dataset_config_names(str(folder) if folder.is_dir() else path)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError):
        return [None]  # reading says what is wrong
    return [None] if "default" in names or len(names) < 2 else list(names)


def read_hub(path: str, split: str, name: str | None = None) -> Iterator[Mapping[str, Any]]:
    """The records of a hub data set, of a folder in a format of `datasets`, or of one that `save_to_disk` wrote.

    ValueError when there is none, or no such split or configuration; MissingExtraError without datasets.
    """
    require("datasets", extra="data")
    tables = _load(path, split, name).with_format("arrow")  # as stored: decodes no image
    for batch in tables.iter(batch_size=BATCH_ROWS):
        for record in batch.to_pylist():
            yield {field: _downloaded(value) for field, value in record.items()}


def _load(path: str, split: str, name: str | None) -> Any:
    import datasets

    saved = any((Path(path) / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    try:
        if not saved:
            return datasets.load_dataset(path, name, split=split)
        dataset = datasets.load_from_disk(path)
        return dataset[split] if isinstance(dataset, datasets.DatasetDict) else dataset
    except (OSError, ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError) as error:
        which = f"{path}, configuration {name}" if name else path
        raise ValueError(f"split {split!r} of {which} cannot be loaded: {error}") from error


def _downloaded(value: Any) -> Any:
    """An image, or list of them, that the library put into its cache becomes a `Path`; other values stay."""
    if isinstance(value, list):
        return [_downloaded(item) for item in value]
    match value:
        case {"bytes": None, "path": str(path)} if any(Path(path).is_relative_to(root) for root in _caches()):
            return Path(path)
    return value


def _caches() -> list[str]:
    import datasets
    from huggingface_hub import constants

    return [constants.HF_HOME, constants.HF_HUB_CACHE, str(datasets.config.HF_DATASETS_CACHE)]
