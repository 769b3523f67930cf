"""Sliced score matching: Hyvärinen's score matching with the Laplacian estimated along random directions."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bgdiff.models.base import EnergyModel
from bgdiff.objectives.base import Objective, Options, Problem

__all__ = ["SlicedScore", "SlicedScoreOptions", "directional_curvature", "sliced_score_matching"]


def sliced_score_matching(score: Tensor, curvature: Tensor, weight: Tensor) -> Tensor:
    """Mean over batch and axes of ½ Σ_i w_i s_i² + E_v[vᵀ √w ∇s √w v], a scalar that may be negative.

    Integration by parts turns ½ E Σ_i w_i (s_i - ∂_i log p)² into E[½ Σ_i w_i s_i² + Σ_i w_i ∂_i s_i] plus a
    constant (Hyvärinen 2005, theorem 1, axis by axis; on periodic axes there is no boundary). The last
    sum is the mean over directions with E[v vᵀ] = 1. That s² is taken exactly rather than as (vᵀs)² is the
    variance reduction of Song et al. 2019 (arXiv 1905.07088, SSM-VR).

    Args:
        score: s = ∇log p̃ ``(B, d)``.
        curvature: vᵀ √w ∇s √w v ``(B, M)`` for M directions v, from :func:`directional_curvature`.
        weight: w ``(B, d)``, which may depend on the noise level; leaves the minimiser where it is.
    """
    return (0.5 * (weight * score.square()).sum(1) + curvature.mean(1)).mean() / score.shape[1]


def directional_curvature(
    model: EnergyModel,
    z: Tensor,
    sigma: Tensor,
    weight: Tensor,
    directions: int,
    generator: torch.Generator,
    *,
    create_graph: bool = True,
) -> tuple[Tensor, Tensor]:
    """Score ``(B, d)`` and vᵀ √w ∇s √w v ``(B, M)`` along M random directions v.

    Directions have entries ±1 (Rademacher), which estimate the trace with the least variance of all
    independent entries (Hutchinson 1990). Each costs one more pass backwards.

    Args:
        z: points ``(B, d)``; ``sigma``: their noise ``(B,)``; ``weight``: w ``(B, d)``.
        directions: M ≥ 1.
        create_graph: keep both differentiable in the model's parameters.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        # not log_density_and_score: a model's own faster way need not be differentiable in z once more
        (score,) = torch.autograd.grad(model.log_density(z, sigma).sum(), z, create_graph=True)
        columns = []
        for index in range(directions):
            sign = torch.randint(2, z.shape, generator=generator, device=z.device).to(z) * 2 - 1
            v = sign * weight.sqrt().to(z)
            keep = create_graph or index + 1 < directions
            (product,) = torch.autograd.grad(
                (score * v).sum(), z, create_graph=create_graph, retain_graph=keep
            )
            columns.append((product * v).sum(1))
        curvature = torch.stack(columns, 1)
    return (score, curvature) if create_graph else (score.detach(), curvature.detach())


class SlicedScoreOptions(Options):
    """Of :class:`SlicedScore`."""

    directions: Annotated[int, Field(ge=1, le=4096)] = 1
    """Random directions M per point."""


class SlicedScore(Objective):
    """:func:`sliced_score_matching` at every rung of the batch, weighted by σ² + c like the mixed score.

    It knows neither the noise that was added nor the data's forces. Leaves the rungs' normalisers alone.
    """

    name = "sliced_score"
    options_class = SlicedScoreOptions
    options: SlicedScoreOptions

    def loss(self, problem: Problem) -> Tensor:
        z, level = problem.points[problem.noisy], problem.level[problem.noisy]
        weight = level[:, None] ** 2 + problem.width.to(z)
        score, curvature = directional_curvature(
            problem.model, z, level, weight, self.options.directions, problem.generator,
            create_graph=problem.create_graph,
        )  # fmt: skip
        return sliced_score_matching(score, curvature, weight)
