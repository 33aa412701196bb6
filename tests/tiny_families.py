"""Tiny random models of every family, made on the spot: a model, the ids of one image's block, and its pixels.

Nothing here comes from the project: configurations and pixels are the library's, so that the tests compare with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

VOCABULARY, IMAGE, VIDEO, START, END, BREAK = 128, 100, 101, 102, 103, 104
OPEN, CLOSE = 90, 91  # the tags around a reflection
HIDDEN = 32
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
GLM_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "image_start_token_id": START,
    "image_end_token_id": END,
    "video_start_token_id": 106,
    "video_end_token_id": 107,
}


@dataclass
class TinyFamily:
    """One family's tiny model.

    block: the ids that show image number i. pixels: what the vision tower takes for a list of images by number, of one
    prompt. token_types: the argument that the library's own pass wants to be told where images are.
    """

    name: str
    model: Any
    block: Callable[[int], list[int]]
    pixels: Callable[[list[int]], dict[str, torch.Tensor]]
    token_types: str | None = None
    batched: Callable[[list[list[int]]], dict[str, torch.Tensor]] | None = None

    def batch_pixels(self, prompts: list[list[int]]) -> dict[str, torch.Tensor]:
        """What the vision tower takes for the images of several prompts."""
        if self.batched is not None:
            return self.batched(prompts)
        return self.pixels([number for numbers in prompts for number in numbers])

    def library_pass(self, ids: list[int], images: list[int], scale: float = 1.0) -> torch.Tensor:
        """Logits (N, W) of one pass of the library alone, every image given again wherever it stands.

        scale: of the image features, to measure how far rounding carries.
        """
        token_ids = torch.tensor([ids])
        types = {self.token_types: (token_ids == IMAGE).long()} if self.token_types else {}
        pixels = self.pixels(images)
        with torch.no_grad():
            if scale != 1.0:
                return self._scaled_pass(token_ids, pixels, types, scale)
            return self.model(input_ids=token_ids, use_cache=False, **pixels, **types).logits[0]

    def _scaled_pass(self, token_ids: torch.Tensor, pixels: Any, types: Any, scale: float) -> torch.Tensor:
        output = self.model.get_image_features(**pixels, return_dict=True)
        pooled = output.pooler_output
        scaled = pooled * scale if torch.is_tensor(pooled) else [part * scale for part in pooled]
        output.pooler_output = scaled
        grids = {name: value for name, value in pixels.items() if name in ("image_grid_thw", "image_sizes")}
        given = {"mm_encoder_outputs": {"image": output}, **grids, **types}
        return self.model(input_ids=token_ids, use_cache=False, **given).logits[0]


def spread(model: Any, scale: float = 0.15) -> Any:
    """Weights so large that everything depends on everything: freshly initialised ones attend almost uniformly."""
    noise = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        matrix, vector = parameter.dim() >= 2, parameter.dim() == 1
        if matrix or (vector and not any(part in name for part in ("norm", "A_log", "dt_bias"))):
            parameter.data.copy_(torch.randn(parameter.shape, generator=noise) * scale)
    return model.eval().requires_grad_(False)


def build(model_type: str, kernel: str = "sdpa", weights: float = 0.15, **settings: Any) -> Any:
    """A random model with generation settings that neither stop nor pad unasked; weights: their standard deviation."""
    config = AutoConfig.for_model(model_type, **settings)
    config._attn_implementation = kernel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = spread(AutoModelForImageTextToText.from_config(config, dtype=torch.float32), weights)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patch_grids(numbers: list[int]) -> list[tuple[int, int, int]]:
    """Grids of patches: images of 6 and 4 visual tokens by turns."""
    return [(1, 4, 6) if number % 2 == 0 else (1, 4, 4) for number in numbers]


def grid_family(
    name: str, ids: dict[str, int], text: dict[str, Any], vision: dict[str, Any], weights: float = 0.15
) -> TinyFamily:
    """A family with grids of patches and three position dimensions."""
    common = {"num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
    model = build(name, weights=weights, text_config=TEXT | text, vision_config=common | vision, **ids)

    def block(number: int) -> list[int]:
        _, rows, columns = patch_grids([number])[0]
        return [START, *[IMAGE] * (rows * columns // 4), END]

    def pixels(numbers: list[int]) -> dict[str, torch.Tensor]:
        grids = patch_grids(numbers)
        patches = [
            noise(rows * columns, 96, seed=number) for number, (_, rows, columns) in zip(numbers, grids, strict=True)
        ]
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}

    return TinyFamily(name, model, block, pixels, "mm_token_type_ids")


def qwen2_vl() -> TinyFamily:
    rope = {"rope_parameters": ROPE | {"mrope_section": [2, 1, 1]}}
    return grid_family("qwen2_vl", QWEN_IDS, rope, {"depth": 2, "embed_dim": 16, "hidden_size": HIDDEN, "mlp_ratio": 2})


def qwen2_5_vl() -> TinyFamily:
    rope = {"rope_parameters": ROPE | {"mrope_section": [2, 1, 1]}}
    sizes = {"depth": 3, "hidden_size": 16, "out_hidden_size": HIDDEN, "intermediate_size": 24}
    vision = sizes | {"window_size": 16, "fullatt_block_indexes": [2], "tokens_per_second": 4}
    return grid_family("qwen2_5_vl", QWEN_IDS, rope, vision)


def qwen3_vl(name: str = "qwen3_vl", **text: Any) -> TinyFamily:
    rope = {"head_dim": 8, "rope_parameters": ROPE | {"mrope_section": [2, 1, 1], "mrope_interleaved": True}}
    sizes = {"depth": 3, "hidden_size": 16, "out_hidden_size": HIDDEN, "intermediate_size": 24}
    vision = sizes | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return grid_family(name, QWEN_IDS, rope | text, vision)


def qwen3_vl_moe() -> TinyFamily:
    return qwen3_vl("qwen3_vl_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)


def glm4v(name: str = "glm4v", **text: Any) -> TinyFamily:
    rope = {"head_dim": 8, "rope_parameters": ROPE | {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}}
    sizes = {"depth": 2, "hidden_size": 16, "out_hidden_size": HIDDEN, "intermediate_size": 24, "image_size": 64}
    parts = {"glm46v": ({"model_type": "glm4v_text"}, {"model_type": "glm4v_vision"})}.get(name, ({}, {}))
    return grid_family(name, GLM_IDS, rope | text | parts[0], sizes | parts[1])


def glm46v() -> TinyFamily:
    return glm4v("glm46v")


def glm4v_moe() -> TinyFamily:
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
    return glm4v("glm4v_moe", **experts, n_group=1, topk_group=1, first_k_dense_replace=1)


SIGLIP: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
}


def internvl(text_type: str = "qwen3", kernel: str = "sdpa", **text: Any) -> TinyFamily:
    """Tiles of 4 visual tokens: images of 3 and 1 tiles by turns, one run of tokens each."""
    settings = TEXT | {"model_type": text_type, "rope_parameters": ROPE} | text
    vision = SIGLIP | {"image_size": [16, 16], "patch_size": [4, 4]}
    sizes = {"image_token_id": IMAGE, "image_seq_length": 4, "downsample_ratio": 0.5}
    model = build("internvl", kernel, text_config=settings, vision_config=vision, **sizes)

    def pixels(numbers: list[int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.cat([noise(tiles(number), 3, 16, 16, seed=number) for number in numbers])}

    return TinyFamily("internvl", model, lambda number: [START, *[IMAGE] * 4 * tiles(number), END], pixels)


def tiles(number: int) -> int:
    return 3 if number % 2 == 0 else 1


def llava_onevision() -> TinyFamily:
    """A base and tiles with newline features; the images differ in their tiles' padding."""
    text = TEXT | {"model_type": "qwen2", "rope_parameters": ROPE}
    vision = SIGLIP | {
        "model_type": "siglip_vision_model",
        "image_size": 16,
        "num_channels": 3,
        "vision_use_head": False,
    }
    points = [[16, 16], [16, 32], [32, 16], [32, 32]]
    ids = {"image_token_index": IMAGE, "video_token_index": VIDEO}
    model = build(
        "llava_onevision",
        text_config=text,
        vision_config=vision,
        image_grid_pinpoints=points,
        vision_feature_layer=-1,
        **ids,
    )

    def pixels(numbers: list[int]) -> dict[str, torch.Tensor]:
        sizes = [[16, 30] if number % 2 == 0 else [24, 16] for number in numbers]
        values = torch.cat([noise(1, 3, 3, 16, 16, seed=number) for number in numbers])
        return {"pixel_values": values, "image_sizes": torch.tensor(sizes)}

    def block(number: int) -> list[int]:
        return [IMAGE] * len(model.get_image_features(**pixels([number]), return_dict=True).pooler_output[0])

    return TinyFamily("llava_onevision", model, block, pixels)


def mistral3(text_type: str = "mistral", *, window: int | None = None, **rope: Any) -> TinyFamily:
    """Rows of image tokens with breaks between them and an end: 3 rows of 4 and 2 rows of 3 by turns."""
    text = TEXT | {"model_type": text_type, "head_dim": 8, "sliding_window": window, "rope_parameters": ROPE | rope}
    axial = {"rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}}
    vision = SIGLIP | {"model_type": "pixtral", "image_size": 32} | axial
    sizes = {"image_token_index": IMAGE, "spatial_merge_size": 2}
    model = build("mistral3", text_config=text, vision_config=vision, **sizes)

    def size(number: int) -> tuple[int, int]:
        return (24, 32) if number % 2 == 0 else (16, 24)

    def block(number: int) -> list[int]:
        height, width = size(number)
        return [*([*[IMAGE] * (width // 8), BREAK] * (height // 8))[:-1], END]

    def pixels(numbers: list[int]) -> dict[str, torch.Tensor]:
        values = torch.zeros(len(numbers), 3, max(size(n)[0] for n in numbers), max(size(n)[1] for n in numbers))
        for place, number in enumerate(numbers):
            height, width = size(number)
            values[place, :, :height, :width] = noise(3, height, width, seed=number)
        return {"pixel_values": values, "image_sizes": torch.tensor([size(number) for number in numbers])}

    return TinyFamily("mistral3", model, block, pixels)


def smolvlm(name: str = "smolvlm") -> TinyFamily:
    """Tiles of 4 tokens with headers: two tiles in a row and the whole image, or the whole image alone, by turns."""
    text = TEXT | {"model_type": "llama", "rope_parameters": ROPE}
    model = build(
        name, text_config=text, vision_config=SIGLIP | {"image_size": 16}, image_token_id=IMAGE, scale_factor=2
    )
    tile, fake, newline, whole = [IMAGE] * 4, BREAK, 10, 112

    def block(number: int) -> list[int]:
        global_view = [fake, whole, *tile, fake]
        if tiles(number) == 1:
            return global_view
        return [fake, 110, *tile, fake, 111, *tile, newline, newline, *global_view]

    def pixels(numbers: list[int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.cat([noise(tiles(number), 3, 16, 16, seed=number) for number in numbers])[None]}

    def batch_pixels(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
        values = [pixels(numbers)["pixel_values"][0] for numbers in prompts]
        padded = torch.zeros(len(values), max(map(len, values)), 3, 16, 16)
        for place, own in enumerate(values):
            padded[place, : len(own)] = own
        return {"pixel_values": padded}

    return TinyFamily(name, model, block, pixels, batched=batch_pixels)


def idefics3() -> TinyFamily:
    return smolvlm("idefics3")


def qwen3_5(name: str = "qwen3_5", **text: Any) -> TinyFamily:
    """Three layers with a recurrent state and one with attention."""
    rope = ROPE | {"mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.25}
    linear = {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_conv_kernel_dim": 4,
    }
    kinds = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
    shapes = {"head_dim": 32, "num_hidden_layers": 4, "layer_types": kinds, "rope_parameters": rope} | linear
    sizes = {"depth": 3, "hidden_size": 16, "out_hidden_size": HIDDEN, "intermediate_size": 24}
    return grid_family(name, QWEN_IDS, shapes | text, sizes | {"num_position_embeddings": 64}, weights=0.1)


def qwen3_5_moe() -> TinyFamily:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return qwen3_5("qwen3_5_moe", **experts, shared_expert_intermediate_size=16)


def gemma3() -> TinyFamily:
    """Images of 16 tokens, which are more than the window of 10."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    shapes = {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 10, "query_pre_attn_scalar": 8}
    text = TEXT | shapes | {"num_hidden_layers": 4, "layer_types": kinds}
    ids = {"image_token_index": IMAGE, "boi_token_index": START, "eoi_token_index": END, "mm_tokens_per_image": 16}
    vision = SIGLIP | {
        "model_type": "siglip_vision_model",
        "image_size": 16,
        "num_channels": 3,
        "vision_use_head": False,
    }
    model = build("gemma3", text_config=text, vision_config=vision, **ids)

    def pixels(numbers: list[int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.cat([noise(1, 3, 16, 16, seed=number) for number in numbers])}

    return TinyFamily("gemma3", model, lambda number: [START, *[IMAGE] * 16, END], pixels, "token_type_ids")


def gemma4(bidirectional: str | None = "vision") -> TinyFamily:
    """Layers that share keys, embeddings per layer, capped logits; images of 6 and 4 tokens by turns."""
    kinds = ["sliding_attention", "full_attention"] * 3
    shapes = {"model_type": "gemma4_text", "head_dim": 8, "global_head_dim": 16, "sliding_window": 5}
    shared = {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": VOCABULARY}
    cap = {"use_bidirectional_attention": bidirectional, "final_logit_softcapping": 3.0}
    text = TEXT | shapes | shared | cap | {"num_hidden_layers": 6, "layer_types": kinds}
    pooled = {"pooling_kernel_size": 2, "position_embedding_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    ids = {"image_token_id": IMAGE, "video_token_id": VIDEO, "boi_token_id": START, "eoi_token_id": END}
    audio = {"audio_config": None, "audio_token_id": 120, "boa_token_id": 121, "eoa_token_index": 122}
    model = build("gemma4", weights=0.12, text_config=text, vision_config=SIGLIP | pooled, **ids, **audio)

    def pixels(numbers: list[int]) -> dict[str, torch.Tensor]:
        values, places = torch.zeros(len(numbers), 24, 48), torch.full((len(numbers), 24, 2), -1)
        for place, (number, (_, rows, columns)) in enumerate(zip(numbers, patch_grids(numbers), strict=True)):
            values[place, : rows * columns] = noise(rows * columns, 48, seed=number).sigmoid()
            grid = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
            places[place, : rows * columns] = torch.stack(grid, -1).reshape(-1, 2)
        return {"pixel_values": values, "image_position_ids": places}

    def block(number: int) -> list[int]:
        _, rows, columns = patch_grids([number])[0]
        return [START, *[IMAGE] * (rows * columns // 4), END]

    return TinyFamily("gemma4", model, block, pixels, "mm_token_type_ids")


def gemma4_causal() -> TinyFamily:
    return gemma4(None)


def mistral3_windowed() -> TinyFamily:
    """Its configuration has a window and names no kinds of layers: all of them have it, and take one mask."""
    return mistral3(window=24)


def internvl_windowed() -> TinyFamily:
    """The same, where experts follow."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
    return internvl("qwen3_moe", sliding_window=24, use_sliding_window=True, **experts)


VARIANTS = ("_causal", "_windowed")


def family_of(name: str) -> str:
    """The family that one of `TINY_FAMILIES` is of."""
    return next((name.removesuffix(variant) for variant in VARIANTS if name.endswith(variant)), name)


TINY_FAMILIES: dict[str, Callable[[], TinyFamily]] = {
    make.__name__: make
    for make in (
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        qwen3_vl_moe,
        glm4v,
        glm46v,
        glm4v_moe,
        internvl,
        llava_onevision,
        mistral3,
        smolvlm,
        idefics3,
        qwen3_5,
        qwen3_5_moe,
        gemma3,
        gemma4,
        gemma4_causal,
        mistral3_windowed,
        internvl_windowed,
    )
}
