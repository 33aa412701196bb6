"""Data sets of the Hugging Face hub, or local ones in its formats, through the `datasets` library.

Records are taken as the tables hold them: pictures stay encoded, so a damaged one is found when its row is checked and
costs nothing before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lookagain.data.readers import BATCH_ROWS
from lookagain.extras import require


def read_hub(path: str, split: str, name: str | None = None) -> Iterator[Mapping[str, Any]]:
    """The records of a hub data set, of a folder in a format of `datasets`, or of one that `save_to_disk` wrote.

    ValueError when there is none, or no such split or configuration; MissingExtraError without datasets.
    """
    require("datasets", extra="data")
    tables = _load(path, split, name).with_format("arrow")  # as stored: decodes no picture
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
    """A picture, or list of them, that the library put into its cache becomes a `Path`; other values stay."""
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
