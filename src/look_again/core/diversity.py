"""Visual tokens that differ from one another: a second and a third ranking for ROUTE, beside equation (5).

Equation (5) ranks each visual token by itself, so neighbours that show one thing are kept together. A determinantal
point process scores a set by the volume that its members span: L = diag(q) S diag(q) with S the cosines of the feature
rows and q a quality (Kulesza and Taskar, "Determinantal point processes for machine learning", 2012, section 3.1). The
greedy choice is that of Chen, Zhang and Zhou, "Fast greedy MAP inference for determinantal point process"
(arXiv 1709.05135, algorithm 1). With q = 1 it is diversity alone; with q the attention of equation (5), relevance times
diversity. The paper has neither.

Legend: V visual tokens, D hidden size, k chosen ones.
"""

from __future__ import annotations

import torch

SMALLEST = 1e-9  # of a gain in volume, relative to the largest quality: below it the rows span nothing new


def diverse_indices(features_VD: torch.Tensor, k: int, relevance_V: torch.Tensor | None = None) -> list[int]:
    """Indices of k visual tokens that together span the largest volume, greedily, ascending.

    features_VD: rows of visual features (V, D). relevance_V: (V,) quality of each, never negative; None takes all as
    equal, and the first choice is then the first token. Once the rows span nothing new, the most relevant ones that are
    left follow. Ties go to the lower index. A scale of the relevance changes nothing.
    """
    rows = torch.nn.functional.normalize(features_VD.double(), dim=-1)
    quality = rows.new_ones(len(rows)) if relevance_V is None else relevance_V.to(rows).clamp(min=0)
    quality = quality / quality.max().clamp(min=torch.finfo(rows.dtype).tiny)
    gains = quality.square() * rows.square().sum(-1)
    bases = rows.new_zeros((len(rows), min(k, len(rows))))  # rows of the Cholesky factor so far
    chosen: list[int] = []
    for step in range(bases.shape[1]):
        best = _first_of_largest(gains)
        if float(gains[best]) <= SMALLEST:
            break
        kernel = quality[best] * quality * (rows @ rows[best])
        bases[:, step] = (kernel - bases[:, :step] @ bases[best, :step]) / gains[best].sqrt()
        gains = gains - bases[:, step].square()
        chosen.append(best)
        gains[chosen] = float("-inf")
    left = torch.sort(quality, descending=True, stable=True).indices.tolist()
    chosen += [index for index in left if index not in set(chosen)][: k - len(chosen)]
    return sorted(chosen)


def _first_of_largest(values: torch.Tensor) -> int:
    return int((values == values.max()).nonzero()[0, 0])
