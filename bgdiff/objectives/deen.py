"""Deep energy estimator networks: denoising by the gradient of an energy, at one noise scale."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bgdiff.models.base import log_density_and_score
from bgdiff.objectives.base import Objective, Options, Problem, Setup
from bgdiff.objectives.noising import noise_to
from bgdiff.objectives.score import conditional_score

__all__ = ["DEEN", "DEENOptions", "denoising_energy"]


def denoising_energy(score: Tensor, conditional: Tensor, sigma: Tensor) -> Tensor:
    """Mean over batch and axes of (x - y + σ² ∇E(y))²/σ², for data x seen as y = x + σ ξ; a scalar.

    The squared error of the denoiser y - σ² ∇E(y), whose best choice is E[x|y] (Saremi et al. 2018,
    arXiv 1805.08306; Miyasawa 1961). In terms of the score it is σ² (∇log p̃(y) - ∇log q(y|x))²; that form
    holds on periodic axes too, with the wrapped normal q.

    Args:
        score: -∇E(y) ``(B, d)``.
        conditional: ∇_y log q(y|x) ``(B, d)``, which is (x - y)/σ² on real axes.
        sigma: noise ``(B,)`` or ``(1,)``.
    """
    return (sigma[:, None] ** 2 * (score - conditional) ** 2).mean()


class DEENOptions(Options):
    """Of :class:`DEEN`."""

    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The noise scale, rounded to the nearest rung's; by default that of the lowest rung."""


class DEEN(Objective):
    """:func:`denoising_energy` at one rung, for all data points of the batch.

    The density of rung k *is* the data blurred with σ_k, so a ladder leaves no choice of which energy the
    noise scale σ_k belongs to, and none of the bias of reading the blurred energy as the clean one. The same
    loss at every rung is denoising score matching (``denoising_score``), point by point and weight by weight;
    what makes this the method of the paper is that there is one scale.

    Trains that one rung and nothing else: no other rung, no normaliser. Nothing leads from the prior down to
    it, and relative weights of modes that lie farther apart than σ_k remain unlearned.
    """

    name = "deen"
    options_class = DEENOptions
    options: DEENOptions

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__(setup, options)
        self.rung = 1
        if self.options.noise is not None:
            self.rung = 1 + int(
                (setup.sigma[1:].log() - torch.tensor(self.options.noise).log()).abs().argmin()
            )

    def loss(self, problem: Problem) -> Tensor:
        periodic = problem.model.periodic
        sigma = problem.sigma[self.rung].to(problem.points).expand(len(problem.points))
        y, displacement = noise_to(problem.clean, sigma, periodic, problem.generator)
        _, score = log_density_and_score(problem.model, y, sigma, create_graph=problem.create_graph)
        return denoising_energy(score, conditional_score(displacement, sigma, periodic), sigma)
