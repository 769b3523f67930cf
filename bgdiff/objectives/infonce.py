"""InfoNCE over noise levels: which of a few candidates is the level that this point was noised to?"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import log_softmax

from bgdiff.ladder.levels import rung_spacing, statistical_length
from bgdiff.objectives.base import Objective, Options, Problem, Setup
from bgdiff.objectives.noising import noise_to

__all__ = ["InfoNCE", "InfoNCEOptions", "candidate_log_prior", "info_nce", "neighbour_log_prob"]


def info_nce(logits: Tensor, log_prior: Tensor) -> Tensor:
    """Cross-entropy of each point's own level among its candidates, a scalar.

    The contrastive estimate of -log p(σ | z) with which BoltzNCE trains its energy (Aggarwal et al. 2025,
    arXiv 2507.00846, eq. 14; van den Oord et al. 2018). It conditions on the *point*: one z, several levels.
    So does multi-level DiffCLF, and both have log p(z, σ_k) as their optimal logits; they differ in
    what else is given. DiffCLF draws a *set* of levels and one point from each of them, so that every
    level of the set is equally likely to be that of a point, whatever the set. Here a point's level is drawn
    first and the negatives around it: the middle of a set is likelier than its edge to be the point's own,
    by the factor of :func:`candidate_log_prior`. The paper leaves it out, which is exact for a single
    negative from a symmetric proposal only; otherwise the energies come out too flat, for Gaussian data with
    four negatives by a tenth.

    Args:
        logits: ℓ = log p̃(z, σ) + f of the candidates ``(B, 1 + M)``; the first is the point's own level.
        log_prior: how likely each candidate is the point's own before z is seen ``(B, 1 + M)``, up to a
            constant per row.
    """
    return -log_softmax(logits + log_prior, -1)[:, 0].mean()


def candidate_log_prior(rungs: Tensor, log_start: Tensor, log_jump: Tensor) -> Tensor:
    """log π(k_s) + Σ_{r≠s} log g(k_r | k_s) for each candidate s ``(B, 1 + M)``: had it been drawn first.

    Args:
        rungs: candidates ``(B, 1 + M)``.
        log_start: log π ``(K+1,)``, how a point's own rung is drawn.
        log_jump: log g ``(K+1, K+1)``, row by row how a negative is drawn around it; -inf on the diagonal.
    """
    jumps = log_jump[rungs[:, :, None], rungs[:, None, :]]
    others = ~torch.eye(rungs.shape[1], dtype=torch.bool, device=rungs.device)
    return log_start[rungs] + torch.where(others, jumps, 0.0).sum(-1)


def neighbour_log_prob(sigma: Tensor, width: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """log π ``(K+1,)`` and log g ``(K+1, K+1)``: own rungs and negatives, even in statistical length.

    Negatives come from a Gaussian of standard deviation ``reach`` around the own rung, which itself is left
    out; rung 0 has probability 0.
    """
    length = statistical_length(sigma, width)
    spacing = rung_spacing(sigma, width)
    start = spacing.clamp_min(1e-9 * float(spacing.max())).log()
    start[0] = -torch.inf
    jump = start - 0.5 * ((length[:, None] - length) / reach) ** 2
    jump.fill_diagonal_(-torch.inf)
    return log_softmax(start, -1), log_softmax(jump, -1)


class InfoNCEOptions(Options):
    """Of :class:`InfoNCE`."""

    negatives: Annotated[int, Field(ge=1, le=1024)] = 4
    """Levels that a point is not from; an energy each."""
    reach: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.5
    """How far from the own level, in Fisher-Rao length (as ``training.reach``), they lie."""
    corrected: bool = True
    """Count how likely each candidate is before the point is seen; false is the published loss."""


class InfoNCE(Objective):
    """:func:`info_nce` for the batch's data points, noised to levels of its own."""

    name = "info_nce"
    options_class = InfoNCEOptions
    options: InfoNCEOptions
    log_start: Tensor
    log_jump: Tensor

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__(setup, options)
        start, jump = neighbour_log_prob(setup.sigma, setup.width, self.options.reach)
        self.register_buffer("log_start", start, persistent=False)
        self.register_buffer("log_jump", jump, persistent=False)

    def loss(self, problem: Problem) -> Tensor:
        clean, negatives = problem.clean, self.options.negatives
        generator = problem.generator
        own = torch.multinomial(self.log_start.exp(), len(clean), replacement=True, generator=generator)
        others = torch.multinomial(self.log_jump.exp()[own], negatives, replacement=True, generator=generator)
        rungs = torch.cat([own[:, None], others], 1)
        sigma = problem.sigma.to(clean)
        z, _ = noise_to(clean, sigma[own], problem.model.periodic, generator)
        with torch.set_grad_enabled(problem.create_graph):
            energies = problem.model.log_density(
                z.repeat_interleave(1 + negatives, 0), sigma[rungs].reshape(-1)
            )
        logits = energies.reshape(rungs.shape) + problem.offsets.to(energies)[rungs]
        prior = torch.zeros_like(logits)
        if self.options.corrected:
            prior = candidate_log_prior(rungs, self.log_start, self.log_jump).to(logits)
        return info_nce(logits, prior)
