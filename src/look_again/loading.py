"""Loading a checkpoint by hub name or folder: model, tokenizer, image processor, and what has to be said about it.

Safetensors only, no remote code, and the image processor that needs no torchvision whether or not it is installed, so
that answers do not depend on it. The default is the tiny Tabletop model that ships with the package. Where the weights
go, what they are stored in and which adapter lies on them is the concern of `look_again.weights`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from look_again.core.compiled.compiled_step import check_compiler, describe_obstacle
from look_again.core.families import Family, UnknownFamilyError, find_family
from look_again.core.reattention import Reattention
from look_again.extras import MissingExtraError
from look_again.images.video import Video
from look_again.processing import bound_pixels, check_options, check_processor, load_pil_processor
from look_again.text.grammar import TAG_TOKENS, Response
from look_again.text.renderer import Renderer
from look_again.text.tags import has_tags, prepare, prepare_model
from look_again.weights import LoadError, LoadOptions
from look_again.weights.adapters import Adapter, check_base, is_adapter, put_adapter_on, read_adapter
from look_again.weights.checkpoint_record import SIDE_FILE, CheckpointRecord, find_file, read_record
from look_again.weights.checkpoint_scope import Scope, find_scope
from look_again.weights.configuration import read_config
from look_again.weights.devices import placement_kwargs, resolve_device, resolve_dtype
from look_again.weights.offloading import keep_rows_in_memory
from look_again.weights.quantization import build_quantization_config, check_in_memory, check_library, find_method
from look_again.weights.reading import read_model
from look_again.weights.sources import default_checkpoint, resolve_source

__all__ = [
    "Checkpoint",
    "LoadError",
    "LoadOptions",
    "Sources",
    "default_checkpoint",
    "guess_note",
    "load_checkpoint",
    "load_image_processor",
    "load_tokenizer",
    "recorded_reattention",
    "resolve_source",
    "resolve_sources",
]

PROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILES = (PROCESSOR_FILE, "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
REASON_CHARACTERS = 400  # of a library's error, which may list all that it knows
GUESSED = (
    "nothing says whether this checkpoint was trained on the response format, so it is prompted for it; if it was "
    "trained, say --trained (trained=True) or write look_again.json into its folder"
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    trained: it writes the format unprompted. notes: what a user should be told. reattention: how it re-attended in
    training, which is followed where nobody asks for anything else. scope: the small world that is all it knows.
    compiled: its decode steps run as a compiled graph.
    """

    name: str
    model: Any
    tokenizer: Any
    image_processor: Any
    family: Family
    trained: bool
    notes: tuple[str, ...] = ()
    reattention: Reattention = field(default_factory=Reattention)
    scope: Scope | None = None
    compiled: bool = False

    def __repr__(self) -> str:
        kind = "trained" if self.trained else "prompted"
        return f"Checkpoint({self.name!r}, {kind}, re-attention {self.reattention})"

    @property
    def renderer(self) -> Renderer:
        video = None if self.family.video is None else self.family.video.placeholder
        return Renderer(self.tokenizer, self.family.image_text, self.trained, self.family.placeholder, video)

    def notes_on_images(self, images: Iterable[Any]) -> tuple[str, ...]:
        """What a user should be told of the images of a question: those that are none of the checkpoint's scope."""
        pictures = [image for image in images if not isinstance(image, Video)]
        notes = [self.scope.note_on_image(image) for image in pictures] if self.scope else []
        return tuple(dict.fromkeys(note for note in notes if note))

    def notes_on_answer(self, response: Response) -> tuple[str, ...]:
        """What a user should be told of a response that answers nothing."""
        note = self.scope.note_on_answer(response) if self.scope else None
        return (note,) if note else ()


@dataclass(frozen=True)
class Sources:
    """Where the parts of a checkpoint are read from: its base (folder or hub name), and an adapter's own files."""

    base: str
    adapter: Adapter | None = None

    def with_file(self, name: str) -> str:
        """The adapter's folder where it holds a file of this name, else the base."""
        if self.adapter is not None and (self.adapter.folder / name).is_file():
            return str(self.adapter.folder)
        return self.base

    @property
    def record(self) -> CheckpointRecord:
        """What is recorded of the checkpoint, by the adapter or else by its base."""
        return _try(self.base, lambda: read_record(self.with_file(SIDE_FILE)))


def resolve_sources(name: str | Path | None = None, adapter: str | Path | None = None) -> Sources:
    """The base and the adapter of a checkpoint; `name` may be an adapter itself.

    None is the shipped checkpoint, or the base that the adapter names. LoadError as of `resolve_source`, for two
    adapters at once, and for an adapter whose base is not here.
    """
    if adapter is None and name is not None and is_adapter(source := resolve_source(name)):
        name, adapter = None, source
    if adapter is None:
        return Sources(resolve_source(name))
    found = _try(str(adapter), lambda: read_adapter(resolve_source(adapter)))
    try:
        base = resolve_source(found.find_base() if name is None else name)
    except LoadError as error:
        if name is not None:
            raise
        raise LoadError(
            f"the base of the adapter {found.folder} is not here: {error}; name it (--model BASE)"
        ) from error
    if is_adapter(base):
        raise LoadError(f"{base} is an adapter itself: merge it into its base first (look-again prepare {base} OUT)")
    return Sources(base, found)


def load_checkpoint(name: str | Path | None = None, options: LoadOptions | None = None, **given: Any) -> Checkpoint:
    """Load a checkpoint, an adapter with its base, or the result of a run by the run's folder; None is the shipped one.

    options: how, see `LoadOptions`; fields of it may be given by name as well.
    Raises LoadError, MissingExtraError for a library that the options need, or UnknownFamilyError for a family that is
    not in the table, CompileError where a compiled step is asked for and nothing compiles. Without tags it gets them in
    memory, and `notes` says so.
    """
    chosen = replace(options or LoadOptions(), **given)
    device = resolve_device(chosen.device)  # told before anything is read
    if chosen.compile:
        check_compiler(device)
    sources = resolve_sources(name, chosen.adapter)
    config = _load_config(sources.base)
    family, record = find_family(config), sources.record
    tokenizer = _load_tokenizer(sources)
    image_processor = load_image_processor(sources.with_file(PROCESSOR_FILE), config, record, chosen)
    compared = () if sources.adapter is None else check_base(sources.adapter, sources.base)
    with _progress_bars(shown=name is not None or sources.adapter is not None):
        model, read = _load_model(sources.base, config, chosen)
    notes = (*compared, *read, *(_give_tags(model, tokenizer, sources) or guess_note(record, chosen.trained)))
    if sources.adapter is not None:
        model = put_adapter_on(model, sources.adapter, merge=_merges(model, chosen))
    shown = [str(part) for part in (name, chosen.adapter) if part is not None]
    obstacle = describe_obstacle(model) if chosen.compile else None
    return Checkpoint(
        " + ".join(shown) or "tabletop-tiny",
        model.eval(),
        tokenizer,
        image_processor,
        family,
        trained=bool(record.trained) if chosen.trained is None else chosen.trained,
        notes=(*notes, *record.notes, *([obstacle] if obstacle else [])),
        reattention=record.reattention or Reattention(),
        scope=find_scope(record.scope),
        compiled=chosen.compile and obstacle is None,
    )


def _merges(model: Any, options: LoadOptions) -> bool:
    """Whether an adapter is folded in. LoadError where that is asked for and the weights are quantised."""
    quantised = find_method(model.config) is not None
    if quantised and options.merge_adapter:
        raise LoadError(
            "an adapter cannot be folded into quantised weights: leave it apart, or fold it in first (look-again "
            "prepare ADAPTER OUT) and quantise what that writes"
        )
    return not quantised if options.merge_adapter is None else options.merge_adapter


def _load_config(source: str) -> Any:
    """The configuration of a checkpoint, whose quantisation has what it needs."""
    config = _try(source, lambda: read_config(source))
    check_library(config)
    return config


def _load_model(source: str, config: Any, options: LoadOptions) -> tuple[Any, tuple[str, ...]]:
    """The model where its weights belong, on one device or wherever a map puts them, and notes on it."""
    place = resolve_device(options.device)
    kwargs: dict[str, Any] = placement_kwargs(options, config)
    if options.attn_implementation:
        kwargs["attn_implementation"] = options.attn_implementation
    if options.quantization is not None:
        kwargs["quantization_config"] = build_quantization_config(options.quantization, config, place)
    quantised = options.quantization is not None or find_method(config) is not None
    if quantised and "device_map" not in kwargs:
        kwargs["device_map"] = {"": str(place)}  # packed weights are made where they are used
    dtype = resolve_dtype(options.dtype, place)
    model, notes = _try(source, lambda: read_model(source, dtype=dtype, **kwargs))
    if quantised:
        check_in_memory(model)
    return model if "device_map" in kwargs else _try(source, lambda: model.to(place)), notes


def load_image_processor(source: str, config: Any, record: CheckpointRecord, options: LoadOptions | None = None) -> Any:
    """The image processor, with the options' fields, bounded by their pixels or else by the record's of training.

    config: of the model, for which it is tried. LoadError where there is none, for an option that it does not have, and
    where what it makes is not what the model takes. ValueError for a bound below one visual token.
    """
    chosen = options or LoadOptions()
    _check_holds(source, PROCESSOR_FILES, "configuration of an image processor")
    processor = _try(source, lambda: load_pil_processor(source))
    _try(source, lambda: check_options(processor, chosen.processor_options, config))
    if chosen.processor_options:
        processor = _try(source, lambda: load_pil_processor(source, **chosen.processor_options))
    _try(source, lambda: check_processor(processor, config))
    bound = record.max_pixels if chosen.max_pixels is None else chosen.max_pixels
    return bound_pixels(processor, bound, chosen.min_pixels)


def guess_note(record: CheckpointRecord, trained: bool | None) -> tuple[str, ...]:
    """The note of a checkpoint of which nothing and nobody says whether it was trained on the format."""
    return (GUESSED,) if record.trained is None and trained is None else ()


def recorded_reattention(name: str | Path | None, adapter: str | Path | None = None) -> Reattention:
    """How a checkpoint (hub name or folder; None is the shipped one) re-attended in training, without loading it.

    The defaults where nothing says. Raises LoadError for a damaged record.
    """
    return resolve_sources(name, adapter).record.reattention or Reattention()


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """The library's progress bars as they are, or none: the shipped model is loaded before a bar could be read."""
    if shown or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def _give_tags(model: Any, tokenizer: Any, sources: Sources) -> tuple[str, ...]:
    """Rows for the tags that the base does not have; an adapter's tokenizer may have them already."""
    base = tokenizer if sources.adapter is None else load_tokenizer(sources.base)
    if has_tags(base):
        return ()
    keep_rows_in_memory(model)
    if has_tags(tokenizer):
        known = base.get_added_vocab()
        prepare_model(model, tokenizer, [tag for tag in TAG_TOKENS if tag not in known])
        return ()
    report = prepare(model, tokenizer)
    return (f"this checkpoint has no tags: {len(report.added)} were added in memory, untrained",)


def _load_tokenizer(sources: Sources) -> Any:
    source = sources.with_file("tokenizer.json")
    return _try(source, lambda: load_tokenizer(source))


def load_tokenizer(source: str) -> Any:
    """The tokenizer, with the processor's chat template where the checkpoint has one of its own.

    Checkpoints on the hub may keep the template that shows images in `chat_template.json`, which only processors read,
    beside a text-only one in the tokenizer's configuration.
    """
    _check_holds(source, TOKENIZER_FILES, "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    path = find_file(source, "chat_template.json")
    if path is not None:
        tokenizer.chat_template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    return tokenizer


def _check_holds(source: str, names: Sequence[str], what: str) -> None:
    """LoadError for a folder without any of these files, in place of which the library makes something empty."""
    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in names):
        raise LoadError(f"{source} has no {what} ({names[0]}): copy it from the checkpoint that this one was made of")


def _try(source: str, load: Any) -> Any:
    with _quiet():
        try:
            return load()
        except (LoadError, MissingExtraError, UnknownFamilyError):
            raise
        except Exception as error:  # libraries raise anything here: the reason is what a user needs, whatever its class
            first, *rest = str(error).strip().splitlines() or [""]
            said = f"{first.strip()} {rest[0].strip()}" if first.rstrip().endswith(":") and rest else first
            reason = shorten(f"{type(error).__name__}: {said}", width=REASON_CHARACTERS, placeholder=" …")
            where = "folder" if Path(source).is_dir() else "hub name (no such folder here)"
            raise LoadError(f"cannot load the model {source!r}, taken as a {where}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The loading libraries' warnings off: what matters of them is an error or a note of ours."""
    verbosity = transformers_logging.get_verbosity()
    loggers = [logging.getLogger(name) for name in ("accelerate", "torchao", "bitsandbytes", "peft")]
    levels = [logger.level for logger in loggers]
    transformers_logging.set_verbosity_error()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
