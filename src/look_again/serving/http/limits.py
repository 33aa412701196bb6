"""How much one request, and all of them together, may take. Checked before the work that they bound is done."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Limits:
    """ValueError on construction for a bound below 1.

    body_bytes: of a request as sent. bodies_bytes: of all requests under way together. image_bytes: of one image as
    encoded. pixels: of all images of a request together, read from each one's header before it is decoded, and of the
    frames that are taken of its videos. images: of a request; a video is one of them. video_bytes: of one video as
    encoded; video_s: its length; video_frames: taken of it at most. text_characters, choices (`n`): of a request.
    max_tokens: what a request may ask for; None leaves it to the model's context. default_tokens: for a request that
    does not say. concurrency, queue: requests answered and waiting at once; a further one gets 429. timeout_s: from a
    request's first byte to its answer's last; body_timeout_s: to receive it, image_timeout_s: to fetch one image.
    grace_s: for running requests to finish at shutdown.
    """

    body_bytes: int = 64 * 2**20
    bodies_bytes: int = 2**30
    image_bytes: int = 20 * 2**20
    pixels: int = 50_000_000
    images: int = 16
    video_bytes: int = 40 * 2**20
    video_s: float = 600.0
    video_frames: int = 64
    text_characters: int = 1_000_000
    max_tokens: int | None = None
    default_tokens: int = 2048
    choices: int = 8
    concurrency: int = 64
    queue: int = 128
    timeout_s: float = 600.0
    body_timeout_s: float = 60.0
    image_timeout_s: float = 10.0
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("queue", "grace_s", "images") else 1
            if value is not None and not (least <= value < 2**63):
                raise ValueError(f"the limit {field.name} is at least {least}, not {value}")

    def tokens(self, requested: int | None) -> int:
        """`max_new_tokens` of a request. ValueError for more than may be asked for."""
        if requested is None:
            return self.default_tokens if self.max_tokens is None else min(self.default_tokens, self.max_tokens)
        if self.max_tokens is not None and requested > self.max_tokens:
            raise ValueError(f"{requested} tokens were asked for; this server gives at most {self.max_tokens}")
        return requested
