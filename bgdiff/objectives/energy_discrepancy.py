"""Energy discrepancy: contrast the energy of data with that of points perturbed away and back again."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bgdiff.ladder.densities import wrapped
from bgdiff.objectives.base import Objective, Options, Problem

__all__ = ["EnergyDiscrepancy", "EnergyDiscrepancyOptions", "energy_discrepancy", "perturb"]


def energy_discrepancy(own: Tensor, negative: Tensor, stabilisation: float = 1.0) -> Tensor:
    """Mean over the batch of log(w/M + 1/M Σ_j exp(U(x) - U(x'_j))), a scalar.

    The Monte-Carlo form of ED = E[U(x)] - E[U_q(y)] with the contrastive potential
    U_q(y) = -log ∫ q(y|x') e^(-U(x')) dx' (Schröder et al. 2023, arXiv 2307.06431), bounded
    from below by w (the paper's w-stabilisation). As M → ∞ its one minimiser is the data's energy up to a
    constant. Little perturbation makes it score matching, much perturbation makes it maximum likelihood.

    With w = 1 it is -log of the probability with which a softmax over x and its M negatives picks x, up to
    log((M+1)/M). Given y, x and the negatives differ in nothing but the factor e^(-U) of x's density, so that
    the data's energy is the minimiser for *any* M. With w = 0 the logarithm of a mean biases it by O(1/M).

    Args:
        own: U(x) = -log p̃(x) at the data ``(B,)``.
        negative: U(x'_j) ``(B, M)`` at the points of :func:`perturb`.
        stabilisation: w ≥ 0.
    """
    difference = own[:, None] - negative
    if stabilisation:
        difference = torch.cat([torch.full_like(own, math.log(stabilisation))[:, None], difference], 1)
    return torch.logsumexp(difference, 1).mean() - math.log(negative.shape[1])


def perturb(
    x: Tensor, variance: Tensor, negatives: int, periodic: Tensor, generator: torch.Generator
) -> Tensor:
    """x'_j = y + √t ξ'_j around the common y = x + √t ξ: ``(B, M, d)``.

    Periodic axes are wrapped. The wrapped normal kernel is symmetric, q(y|x) = q(x|y), which is all that the
    loss needs of it.

    Args:
        x: data ``(B, d)``.
        variance: t ``(B, d)``, positive.
        negatives: M ≥ 1.
        periodic: bool ``(d,)``.
    """
    shape = (len(x), 1 + negatives, x.shape[1])
    noise = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
    noise = noise * variance.sqrt().to(x)[:, None]
    return wrapped(x[:, None] + noise[:, :1] + noise[:, 1:], periodic)


class EnergyDiscrepancyOptions(Options):
    """Of :class:`EnergyDiscrepancy`."""

    time: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Variance t of the perturbation in units of each axis's own, c + σ²."""
    negatives: Annotated[int, Field(ge=1, le=4096)] = 4
    """Points M that each data point is told from; an evaluation of the model each."""
    stabilisation: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """w; 1 leaves no bias, 0 is the plain estimator, which is unstable."""


class EnergyDiscrepancy(Objective):
    """:func:`energy_discrepancy` at every rung of the batch; leaves the rungs' normalisers alone."""

    name = "energy_discrepancy"
    options_class = EnergyDiscrepancyOptions
    options: EnergyDiscrepancyOptions

    def loss(self, problem: Problem) -> Tensor:
        x, level = problem.points[problem.noisy], problem.level[problem.noisy]
        m = self.options.negatives
        variance = self.options.time * (problem.width.to(x) + level[:, None] ** 2)
        points = perturb(x, variance, m, problem.model.periodic, problem.generator)
        with torch.set_grad_enabled(problem.create_graph):
            there = problem.model.log_density(points.flatten(0, 1), level.repeat_interleave(m))
        own = problem.own_log_density()[problem.noisy]
        return energy_discrepancy(-own, -there.reshape(-1, m), self.options.stabilisation)
