"""The Fokker-Planck equation as a regulariser: energies of all rungs must diffuse into each other."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.models.base import EnergyModel
from bgdiff.objectives.base import Objective, Options, Problem
from bgdiff.objectives.noising import noise_to

__all__ = ["FokkerPlanck", "FokkerPlanckOptions", "fokker_planck_loss", "fokker_planck_residual"]

_BLOCK = 8


def fokker_planck_residual(
    model: EnergyModel,
    z: Tensor,
    sigma: Tensor,
    probes: int,
    generator: torch.Generator,
    *,
    create_graph: bool = True,
) -> tuple[Tensor, Tensor]:
    """Two estimates of σ²/(1 + σ²) · (2 ∂_{σ²} log p̃ - Δ log p̃ - |∇ log p̃|²), both ``(B,)``.

    Blurring is diffusion, ∂_{σ²} p = ½ Δp; in log densities ∂_{σ²} log p = ½ (Δ log p + |∇ log p|²), and for
    the model's unnormalised ones what is left is the same at all points of a rung. The factor counts it per
    unit of log σ, in which the ladder is even, as long as the data's shape is there. Without its denominator
    the periodic axes of the top rungs would be all of the loss: flat by then, where z no longer spreads.

    The estimates differ in the random directions v with E[v vᵀ] = 1 whose vᵀ∇∇ᵀ log p̃ v make the Laplacian
    (Hutchinson 1990): given z they are independent. Where there are no more axes than ``probes``, both are
    the exact value.

    Args:
        z: ``(B, d)``; ``sigma``: ``(B,)``.
        probes: directions of both together, at least 2.
    """
    d = z.shape[1]
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        variance = (sigma**2).detach().requires_grad_(True)
        value = model.log_density(z, variance.sqrt())
        score, change = torch.autograd.grad(value.sum(), (z, variance), create_graph=True)

        def curvature(v: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(
                (score * v).sum(), z, create_graph=create_graph, retain_graph=True
            )
            return (product * v).sum(1)

        if d <= probes:
            basis = torch.eye(d, dtype=z.dtype, device=z.device)
            exact = torch.stack([curvature(row.expand_as(z)) for row in basis]).sum(0)
            laplacians = (exact, exact)
        else:
            signs = [
                torch.randint(2, z.shape, generator=generator, device=z.device).to(z) * 2 - 1
                for _ in range(probes)
            ]
            estimates = [curvature(sign) for sign in signs]
            half = probes // 2
            laplacians = (torch.stack(estimates[:half]).mean(0), torch.stack(estimates[half:]).mean(0))
        rest = 2 * change - (score**2).sum(1)
        weight = sigma**2 / (1 + sigma**2)
        first, second = (weight * (rest - laplacian) for laplacian in laplacians)
    return (first, second) if create_graph else (first.detach(), second.detach())


def fokker_planck_loss(first: Tensor, second: Tensor, d: int) -> Tensor:
    """Variance of the residual within each rung, over 2d; unbiased, so it may be negative.

    Plainer et al. 2025 (ScoreMD, arXiv 2506.17139) square the residual of the Fokker-Planck equation. The
    variance leaves out what is the same at all points of a rung, the unknown change of its normaliser. The
    product of two independent estimates has the exact Laplacian's mean; the square of one would punish
    curvature across the directions.

    Args:
        first, second: estimates of the residual at m points of each of G rungs ``(G, m)``.
        d: number of axes.
    """
    first = first - first.mean(1, keepdim=True)
    second = second - second.mean(1, keepdim=True)
    return (first * second).sum(1).mean() / (first.shape[1] - 1) / (2 * d)


class FokkerPlanckOptions(Options):
    """Of :class:`FokkerPlanck`."""

    probes: Annotated[int, Field(ge=2, le=4096)] = 2
    """Random directions per point; the Laplacian is exact where there are no more axes than these."""
    points: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    """Points per step, at most; each costs third derivatives of the network."""


class FokkerPlanck(Objective):
    """:func:`fokker_planck_loss` for data points of the batch, in blocks that share a rung.

    It takes one point of each of the batch's groups, since those of one group share their data point. The
    energies of any data's ladder solve the equation, so another objective must tie them to these data.
    """

    name = "fokker_planck"
    options_class = FokkerPlanckOptions
    options: FokkerPlanckOptions

    def loss(self, problem: Problem) -> Tensor:
        batch = problem.batch
        block = min(_BLOCK, len(batch.z))
        if block < 2:
            raise ConfigError(
                "training.batch_size: fokker_planck compares points of a rung; it needs at least twice "
                f"training.n_levels ({batch.z.shape[1]})"
            )
        blocks = max(1, min(len(batch.z), self.options.points) // block)
        count = blocks * block
        rung = batch.rungs[:count:block, 0].clamp_min(1).repeat_interleave(block)
        level = problem.sigma.to(batch.z)[rung]
        clean = (batch.z - batch.displacement)[:count, 0]
        z, _ = noise_to(clean, level, problem.model.periodic, problem.generator)
        first, second = fokker_planck_residual(
            problem.model, z, level, self.options.probes, problem.generator,
            create_graph=problem.create_graph,
        )  # fmt: skip
        return fokker_planck_loss(first.reshape(blocks, block), second.reshape(blocks, block), z.shape[1])
