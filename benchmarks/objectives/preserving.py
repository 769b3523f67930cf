"""The variance-preserving picture of a ladder, in which DiffCLF's literature tells noise levels apart.

A variance-preserving process x_t = α_t x_0 + √(1-α_t²) ε is z_σ = x_0 + σ ε with σ = √(1-α²)/α and x = α z
= z/√(1+σ²). A score, a path or an effective sample size is the same in both pictures. A *classification* is
not: which level does this x come from, with x/α_t put in place of z at each level t, is a harder question
than which level does this z come from, since z tells its noise by its sheer size. Levels that both are all
but Gaussian are the same density in x and far apart in z.
"""

from dataclasses import fields, replace
from functools import cached_property

import torch
from torch import Tensor

from bgdiff.models import EnergyModel
from bgdiff.objectives.base import Problem

__all__ = ["PreservingProblem", "PreservingView", "linear_vp_levels", "preserving", "preserving_logits"]


def linear_vp_levels(
    n_levels: int = 128, *, first: float = 1e-3, beta: tuple[float, float] = (0.1, 20.0)
) -> Tensor:
    """σ of the ladder ``(n_levels + 1,)`` whose rungs are those of a linear variance-preserving process.

    Rung 0 is the data; the others are at times evenly spaced in [``first``, 1], with
    ln α = -½ (β_0 t + ½ (β_1 - β_0) t²).
    """
    time = torch.linspace(first, 1.0, n_levels, dtype=torch.float64)
    log_alpha = -0.5 * (beta[0] * time + 0.5 * (beta[1] - beta[0]) * time**2)
    sigma = torch.expm1(-2 * log_alpha).sqrt()  # √(1 - α²)/α
    return torch.cat([torch.zeros_like(sigma[:1]), sigma])


class PreservingView:
    """A model on all real axes, as a density of x = z/√(1+σ²)."""

    def __init__(self, model: EnergyModel) -> None:
        if bool(model.periodic.any()):
            raise ValueError("periodic axes cannot be rescaled")
        self.model, self.periodic = model, model.periodic

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p̃(z, σ) + ½ d ln(1+σ²) at z = x √(1+σ²): ``(B,)`` for x ``(B, d)``."""
        spread = 1 + sigma.to(x) ** 2
        return self.model.log_density(x * spread.sqrt()[:, None], sigma) + 0.5 * x.shape[1] * spread.log()


class PreservingProblem(Problem):
    """A step whose points are those of x, for objectives that tell levels apart.

    Displacements and scores of the data are left as they are, those of z.
    """

    @cached_property
    def clean(self) -> Tensor:
        """The data points that x come from ``(P, d)``."""
        return self.points * self._size(self.rungs)[:, None] - self.displacement

    def log_kernels(self, z: Tensor, rungs: Tensor, clean: Tensor) -> Tensor:
        """log q_k(x_i | z_j) with x = (z_j + σ_k ε)/√(1+σ_k²)."""
        size = self._size(rungs).to(torch.float64)[:, None]
        return super().log_kernels(z * size, rungs, clean) + z.shape[1] * size.log()

    def _size(self, rungs: Tensor) -> Tensor:
        return (1 + self.sigma.to(self.batch.z)[rungs] ** 2).sqrt()


def preserving(problem: Problem) -> PreservingProblem:
    """The same step in x; the library's objectives can be used on it."""
    level = problem.sigma.to(problem.batch.z)[problem.batch.rungs]
    batch = replace(problem.batch, z=problem.batch.z * (1 + level**2).rsqrt()[..., None])
    values = {field.name: getattr(problem, field.name) for field in fields(problem)}
    return PreservingProblem(**values | {"model": PreservingView(problem.model), "batch": batch})


def preserving_logits(model: EnergyModel, offsets: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
    """ℓ_k(x) of all noisy rungs, ``(B, K)`` float64: log density of x at rung k with its offset f_k.

    Args:
        offsets: f ``(K+1,)``; that of rung 0 is not used.
        sigma: ``(K+1,)``.
        x: ``(B, d)``, points in the variance-preserving picture.
    """
    view = PreservingView(model)
    with torch.no_grad():
        columns = [view.log_density(x, level.reshape(1)).to(torch.float64) for level in sigma[1:]]
    return torch.stack(columns, -1) + offsets[1:].to(torch.float64)
