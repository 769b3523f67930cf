"""The Radon-Nikodym estimator as a regulariser: neighbouring rungs must agree through a step between them."""

import torch
from torch import Tensor

from bgdiff.ladder.kernels import NormalStep
from bgdiff.objectives.base import Objective, Problem

__all__ = ["RNE", "radon_nikodym_residual", "rne_loss"]


def radon_nikodym_residual(below: Tensor, above: Tensor, forward: Tensor, reverse: Tensor) -> Tensor:
    """log p(z_k) + log q(z_{k+1}|z_k) - log p(z_{k+1}) - log p(z_k|z_{k+1}) ``(B,)``.

    The log ratio of one pair of points drawn upwards and downwards, 0 for the true densities and the true
    reverse kernel (He et al. 2025, arXiv 2506.05668: the density ratio of the path forth and back).

    Args:
        below, above: log p̃ + f at the lower and upper point ``(B,)``.
        forward, reverse: log density of the noising step and of the reverse step ``(B,)``.
    """
    return below + forward - above - reverse


def rne_loss(residual: Tensor) -> Tensor:
    """Mean square of the residual.

    What remains of it at the truth is the error of a normal reverse kernel of that variance: nothing for
    Gaussian data of variance c, otherwise ½ D² E[Σ_ij (∂_i∂_j log p_{k+1} + δ_ij/(c_i + σ²_{k+1}))²] to
    lowest order in the variance D of the noising step: little between the rungs of a long ladder.
    """
    return (residual**2).mean()


class RNE(Objective):
    """:func:`rne_loss` for the batch's points and points one rung above them.

    The reverse kernel is normal, with the model's own score in its mean and, per axis, the variance that is
    exact for Gaussian data of variance c, D (c + σ_k²)/(c + σ_{k+1}²). No gradient passes through it, as in
    the paper: it says what the energies should agree with. The energies of any data's ladder agree with each
    other in this way, so another objective must tie them to these data.
    """

    name = "rne"

    def loss(self, problem: Problem) -> Tensor:
        model = problem.model
        chosen = (problem.rungs > 0) & (problem.rungs < len(problem.sigma) - 1)
        below, rung = problem.own_log_density()[chosen], problem.rungs[chosen]
        lower = problem.points[chosen]
        if not len(rung):  # a tiny batch may lie on the top rung alone
            return below.sum()
        sigma, width = problem.sigma.to(lower), problem.width.to(lower)
        variance = (sigma[rung + 1] ** 2 - sigma[rung] ** 2)[:, None].expand_as(lower)
        step = NormalStep(variance, model.periodic)
        upper = step.sample(lower, problem.generator)
        with torch.enable_grad():
            upper = upper.requires_grad_(True)
            above = model.log_density(upper, sigma[rung + 1])
            (score,) = torch.autograd.grad(above.sum(), upper, retain_graph=problem.create_graph)
        if not problem.create_graph:
            above = above.detach()
        upper = upper.detach()
        share = (width + sigma[rung, None] ** 2) / (width + sigma[rung + 1, None] ** 2)
        back = NormalStep(variance * share, model.periodic)
        offsets = problem.offsets.to(below)
        residual = radon_nikodym_residual(
            below + offsets[rung],
            above + offsets[rung + 1],
            step.log_prob(upper, lower),
            back.log_prob(lower, upper + variance * score),
        )
        return rne_loss(residual)
