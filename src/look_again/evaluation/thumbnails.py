"""Small copies of a benchmark's images, for the report to show beside answers."""

from __future__ import annotations

from collections.abc import Collection

from look_again.data.image_files import open_shown
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation
from look_again.images import ImageError, data_url
from look_again.images.video import Video

SIDE = 240  # pixels, of the longer side


def load_thumbnails(benchmark: Benchmark, location: DataLocation, ids: Collection[str]) -> dict[str, list[str]]:
    """Data URLs of the images of these items, by id; an image that cannot be read is left out."""
    found: dict[str, list[str]] = {}
    if not ids:
        return found
    for item in benchmark.load(location):
        if isinstance(item, BenchmarkItem) and item.id in ids:
            found[item.id] = _shrink(item)
            if len(found) == len(ids):
                break
    return found


def _shrink(item: BenchmarkItem) -> list[str]:
    urls = []
    for source in item.images:
        try:
            shown = open_shown(source)
        except ImageError:
            continue
        image = shown.frames[0].copy() if isinstance(shown, Video) else shown
        image.thumbnail((SIDE, SIDE))
        urls.append(data_url(image, "JPEG", quality=80))
    return urls
