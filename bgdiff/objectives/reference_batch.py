"""Which data point and which rung a noised point came from: averaged over, instead of known from the draw.

The source of a noised point z is one of the step's data points, all equally likely before z is seen. Given z
and *all* of them, its probabilities are q_k(z | z_j)/Σ_i q_k(z | z_i). Regression targets and labels that are
averaged with them have the same mean given z as those of the draw, and less variance (the theorem of Rao and
Blackwell). Where the noise covers the distances between data points hardly any is left. At smaller noise a
point's own source has all the probability, and nothing changes.

Xu, Tong & Jaakkola 2023 (Stable Target Field, arXiv 2302.00670) average score targets over such a reference
batch. Here the source itself is always one of it, which makes the average unbiased for any size.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bgdiff.objectives.base import Options, Problem

__all__ = ["ReferenceBatchOptions", "log_rung_weights", "source_weights"]


class ReferenceBatchOptions(Options):
    """Of the objectives whose targets or labels can be averaged."""

    reference_batch: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Data points of a step over which each point's target is averaged; 1 takes its own alone."""


def source_weights(problem: Problem, size: int) -> list[tuple[slice, slice, Tensor]]:
    """How likely each data point is the source of each point.

    Args:
        size: data points of a block, at most; a point may have come from those of its own block.

    Returns:
        For each block which points, which groups, and ``(points, groups)`` in the points' precision, rows
        summing to 1. Points of rung 0 are no noised points; their rows mean nothing.
    """
    groups, n, _ = problem.batch.z.shape
    clean, rungs = problem.sources, problem.rungs.clamp_min(1)
    blocks = []
    for first in range(0, groups, size):
        group = slice(first, min(first + size, groups))
        point = slice(group.start * n, group.stop * n)
        kernel = problem.log_kernels(problem.points[point], rungs[point], clean[group])
        blocks.append((point, group, torch.softmax(kernel, -1).to(problem.points)))
    return blocks


def log_rung_weights(problem: Problem, size: int) -> Tensor:
    """log Σ_j q_b(z_a | z_j) of each group's rungs b at its points a, ``(G, n, n)`` float64.

    Their softmax over any rungs of a group that hold a's own is how likely each of these is the one that z_a
    was noised to. Clean points keep their label, and no other point may be one: rung 0 has -inf but for
    0 at its own points.

    Args:
        size: data points j of a block, at most; each group's points are looked at with its own block's.
    """
    batch = problem.batch
    groups, n, d = batch.z.shape
    clean = problem.sources
    rungs = batch.rungs[:, None, :].expand(groups, n, n)
    z = batch.z[:, :, None].expand(groups, n, n, d)
    parts = []
    for first in range(0, groups, size):
        group = slice(first, min(first + size, groups))
        kernel = problem.log_kernels(
            z[group].reshape(-1, d), rungs[group].reshape(-1).clamp_min(1), clean[group]
        )
        parts.append(torch.logsumexp(kernel, -1).reshape(-1, n, n))
    weights = torch.cat(parts)
    own = torch.eye(n, dtype=torch.bool, device=weights.device)
    at_clean = batch.rungs == 0
    weights = weights.masked_fill(at_clean[:, None, :] | (at_clean[:, :, None] & ~own), -torch.inf)
    return weights.masked_fill(at_clean[:, :, None] & own, 0.0)
