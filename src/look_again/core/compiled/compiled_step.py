"""The decode step as one compiled graph per number of sequences: inductor on a CPU, CUDA graphs of it on a GPU.

An eager step of a small batch is bound by launches and Python. Here the cache's capacity goes by buckets, each sequence
writes at its own length, and a mask hides what lies beyond it, so that neither a growing answer nor a reflection makes
a new graph: the capacity is a symbol of the graph, and on a GPU each bucket is recorded once. Prefills and chunks stay
eager. The paper measures no speed.

Legend: B sequences, P position dimensions, S slots of the bucket, H heads, K key-value heads, D head size, W
vocabulary.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from look_again.core.attention import PREFIX, AttentionCall
from look_again.core.cache import RaggedCache
from look_again.core.compiled.step_state import IDS, LENGTHS, MOVING, POSITIONS, StepState
from look_again.core.families import Family, find_family, layer_kinds
from look_again.core.masks import MaskBuilder

BACKEND = "inductor"
CPU_COMPILER = "clang++" if sys.platform == "darwin" else "g++"  # that torch.compile looks for
KERNEL = "sdpa"  # the attention whose step is the same in a graph
EXPERT_FIELDS = ("num_experts", "n_routed_experts", "num_local_experts")  # of a text configuration
EAGER_WAY = "leave --compile (compile=True) out: the eager step gives the same answers"

Graph = Callable[..., torch.Tensor]
_GRAPHS: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Graph]] = weakref.WeakKeyDictionary()


class CompileError(ValueError):
    """The decode step cannot be compiled on this machine."""


def check_compiler(device: torch.device) -> None:
    """CompileError, with the eager way on, where nothing on this machine compiles for the device."""
    if device.type == "cpu":
        name = os.environ.get("CXX") or CPU_COMPILER
        path = shutil.which(name)
        fault = "there is none" if path is None else try_compiler(path)
        if fault:
            raise CompileError(
                f"compiling for a CPU needs a C++ compiler ({name}; CXX names another), and {fault}; {EAGER_WAY}"
            )
    if device.type not in ("cpu", "cuda"):
        raise CompileError(f"the decode step is compiled for cpu and cuda, not for {device.type}; {EAGER_WAY}")


@cache
def try_compiler(path: str) -> str | None:
    """What is wrong with a C++ compiler that builds no library, in a line; None for one that does."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "trial.cpp"), Path(folder, "trial.so")
        source.write_text("#include <cmath>\ndouble root(double x) { return std::sqrt(x); }\n")
        command = [path, "-shared", "-fPIC", str(source), "-o", str(library)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            return f"it does not run ({error.strerror})"
        if done.returncode == 0 and library.exists():
            return None
        said = next(iter(done.stderr.strip().splitlines()), f"exit {done.returncode}")
        return f"it builds nothing ({said})"


def find_obstacle(model: Any) -> str | None:
    """Why the step of a model is not compiled, so that it decodes eagerly; None where it is compiled."""
    name, text = model.config.model_type, model.config.get_text_config()
    kernel = str(text._attn_implementation).removeprefix(PREFIX)
    if kernel != KERNEL:
        return f"the compiled step has the attention {KERNEL}, and this model runs {kernel}"
    if not getattr(model, "_can_compile_fullgraph", False):
        return f"transformers does not compile a {name} as one graph"
    if set(layer_kinds(model.config)) != {"full_attention"} or MaskBuilder(model).needed:
        return f"a {name} has layers whose attention is no plain causal one"
    if any(getattr(text, field, None) for field in EXPERT_FIELDS):
        return f"a {name} sends tokens to experts, which has not been examined in a graph"
    if getattr(text, "attn_logit_softcapping", None) is not None:
        return f"a {name} caps its attention scores"
    if getattr(model, "hf_device_map", None) and len(set(model.hf_device_map.values())) > 1:
        return "the model is spread over several devices"
    return None


def describe_obstacle(model: Any) -> str | None:
    """The sentence for a user who asked for a compiled step; None where there is one. CompileError as above."""
    check_compiler(model.get_input_embeddings().weight.device)
    obstacle = find_obstacle(model)
    return None if obstacle is None else f"answers are decoded step by step, not compiled: {obstacle}"


def is_carried(model: Any) -> bool:
    """Whether the step of a model is compiled here; warns, with the reason, where not. CompileError as above."""
    note = describe_obstacle(model)
    if note is not None:
        warnings.warn(note, stacklevel=3)
    return note is None


def count_graphs() -> int:
    """The graphs that this process compiled so far."""
    from torch._dynamo.utils import counters  # imported where it is used: it takes a second

    return int(counters["stats"]["unique_graphs"])


class CompiledStep:
    """The step of one model. `find_obstacle` of the model is None.

    cache_keyword: of the model's forward. project: logits of a model's last hidden states.
    """

    def __init__(self, model: Any, cache_keyword: str, project: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        self.model, self.family = model, find_family(model.config)
        self.cache_keyword, self.project = cache_keyword, project
        self.state: StepState | None = None
        self._marked: torch.Tensor | None = None  # the buffers whose capacity is a symbol are this one and its kin

    def prepare(self, cache: RaggedCache, device: torch.device) -> StepState:
        """Make room for one more slot of every sequence; the state for as many sequences as there is room for."""
        rows = cache.reserve_step()
        if self.state is None or self.state.sequences != rows:
            self.state = StepState(rows, self.family.position_dims, device)
        return self.state

    def run(
        self, cache: RaggedCache, queries: Sequence[torch.Tensor], layers: Sequence[int], column: int
    ) -> torch.Tensor:
        """Feed what the state holds: logits (B, W), which the next step may write over. The state is moved on.

        queries: of each of `layers`, a buffer (B, H, columns, D), into whose `column` this step's queries are written.
        """
        state = self.state
        assert state is not None, "prepare makes the state"
        keys, values = cache.buffers()
        if keys[0] is not self._marked:
            for tensor in (*keys, *values):
                torch._dynamo.mark_dynamic(tensor, 2)
            self._marked = keys[0]
        where = torch.tensor(column, device=state.tensor.device)
        if state.tensor.is_cuda:
            for tensor in (*keys, *values, *queries, state.tensor):
                torch._dynamo.mark_static_address(tensor, guard=False)
            torch.compiler.cudagraph_mark_step_begin()
        logits = self._graph(state.sequences, tuple(layers))(self.model, state.tensor, keys, values, queries, where)
        state.move()
        return logits

    def _graph(self, sequences: int, layers: tuple[int, ...]) -> Graph:
        """The graph of B and the layers whose queries are kept; compiled at its first call."""
        graphs = _GRAPHS.setdefault(self.model, {})
        if (sequences, layers) not in graphs:
            graphs[sequences, layers] = _compile(_build_step(self.family, self.cache_keyword, self.project, layers))
        return graphs[sequences, layers]


def _compile(step: Any) -> Graph:
    # A code object of its own: the compiler counts, and bounds, how often one is compiled for new shapes.
    own = FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
    options: dict[str, Any] | None = None
    if BACKEND == "inductor":  # strides are guarded already; asserting them again at every step costs a twentieth of it
        options = {"size_asserts": False, "triton.cudagraphs": torch.cuda.is_available()}
    compiled: Graph = torch.compile(own, fullgraph=True, backend=BACKEND, options=options)
    return compiled


def _build_step(
    family: Family, cache_keyword: str, project: Callable[..., torch.Tensor], layers: Sequence[int]
) -> Graph:
    """The function that becomes a graph."""

    def step(model, state, keys, values, queries, column):
        lengths_B, moving_B, positions_PB = state[LENGTHS], state[MOVING], state[POSITIONS:]
        slots_S = torch.arange(keys[0].shape[2], device=state.device)
        mask = (slots_S <= lengths_B[:, None])[:, None, None]
        pairs = zip(keys, values, strict=True)
        hidden = model.base_model(
            input_ids=state[IDS][:, None],
            position_ids=family.shape_positions(positions_PB[:, :, None]),
            attention_mask=mask,
            use_cache=True,
            attention_recorder=StepAttention(layers, queries, column),
            **{cache_keyword: Cache(layers=[FixedLayer(k, v, lengths_B) for k, v in pairs])},
        ).last_hidden_state
        logits = project(model, hidden[:, -1])
        state[LENGTHS].add_(moving_B)
        state[POSITIONS:].add_(moving_B)
        return logits

    return step


class StepAttention:
    """Stands in a graph where a recorder stands in an eager pass: keeps queries, and attends instead of the kernel.

    layers: whose queries are kept. queries: a buffer for each of them. column: where in it, a tensor of one number.
    """

    def __init__(self, layers: Sequence[int], queries: Sequence[torch.Tensor], column: torch.Tensor) -> None:
        self.buffers = dict(zip(layers, queries, strict=True))
        self.column = column

    def observe(self, layer: int, query: torch.Tensor, key: torch.Tensor, call: AttentionCall | None = None) -> None:
        """Keep the queries (B, H, 1, D) of a watched layer."""
        if layer in self.buffers:
            self.buffers[layer].index_copy_(2, self.column[None], query)

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ):
        """The step's attention: on a CPU, products and sums that the compiler fuses; elsewhere the kernel."""
        if query.device.type == "cpu":
            return attend_one(query, key, value, mask, kwargs["scaling"]), None
        return ALL_ATTENTION_FUNCTIONS[KERNEL](module, query, key, value, mask, **kwargs)


def attend_one(
    query_BH1D: torch.Tensor, key_BKSD: torch.Tensor, value_BKSD: torch.Tensor, mask_B11S: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attention of one query per sequence over all slots of the bucket that the mask shows: (B, 1, H, D)."""
    batch, heads, _, size = query_BH1D.shape
    groups = key_BKSD.shape[1]
    query = query_BH1D.view(batch, groups, heads // groups, 1, size).float() * scaling
    scores_BKGS = (query * key_BKSD[:, :, None].float()).sum(-1)
    weights = torch.softmax(scores_BKGS.masked_fill(~mask_B11S, float("-inf")), -1)
    attended = (weights[..., None] * value_BKSD[:, :, None].float()).sum(-2)
    return attended.to(query_BH1D.dtype).reshape(batch, 1, heads, size)


class FixedLayer(CacheLayerMixin):
    """One layer's buffers (B, K, S, D): a new state goes to each sequence's length, and all S slots are handed out."""

    is_sliding = False
    is_compileable = True
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.lengths = keys, values, lengths
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise AssertionError("the buffers are given")

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any):
        """Write the states (B, K, 1, D); return keys and values, (B, K, S, D) each."""
        sequences = torch.arange(len(self.lengths), device=self.lengths.device)
        self.keys[sequences, :, self.lengths] = key_states[:, :, 0]
        self.values[sequences, :, self.lengths] = value_states[:, :, 0]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        return self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        return self.keys.shape[2]
