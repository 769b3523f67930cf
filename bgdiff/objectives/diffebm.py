"""DiffEBM: an energy and a diffusion that samples it, each trained to match the data and the other.

After "No MCMC teaching for me: learning energy-based models via diffusion synergy" (anonymous preprint),
whose equations are cited; here with discrete paths, on which likelihood ratios are exact.
"""

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bgdiff.ladder.kernels import Prior
from bgdiff.objectives.base import Objective, Options, Problem, Setup
from bgdiff.objectives.control import ControlNetwork
from bgdiff.objectives.diffusion_paths import log_variance, path_log_ratio, reverse_variance, simulate
from bgdiff.objectives.likelihood import likelihood_loss
from bgdiff.objectives.noising import noise_to
from bgdiff.objectives.score import conditional_score, mixed_score, weighted_score_loss

__all__ = ["DiffEBM", "DiffEBMOptions", "energy_loss", "generator_loss"]


def generator_loss(score_loss: Tensor, log_ratio: Tensor, log_density: Tensor, match: float) -> Tensor:
    """(1-η) L_DSM + η Var[log dP̃/dP^u] for the generator, with the energy held fixed; a scalar.

    The diffusion learns the data and follows the energy (DiffEBM, eq. 12).

    Args:
        score_loss: denoising score matching of the control.
        log_ratio: of :func:`~bgdiff.objectives.diffusion_paths.path_log_ratio` ``(n,)``.
        log_density: log p̃_θ(x_0) at the paths' ends ``(n,)``.
        match: η in [0, 1].
    """
    return (1 - match) * score_loss + match * log_variance(log_ratio, log_density.detach())


def energy_loss(data: Tensor, log_density: Tensor, log_ratio: Tensor, match: float) -> Tensor:
    """(1-α) L_MLE + α Var[log dP̃/dP^u] for the energy, with the generator held fixed; a scalar.

    The generator's ends stand for samples of the energy's own density, so no Markov chain is needed (DiffEBM,
    eq. 14; eq. 13 is the variance written out).

    Args:
        data: log p̃_θ at data ``(B,)``.
        log_density: log p̃_θ(x_0) at the paths' ends ``(n,)``.
        log_ratio: ``(n,)``.
        match: α in [0, 1].
    """
    likelihood = likelihood_loss(data, log_density)
    return (1 - match) * likelihood + match * log_variance(log_ratio.detach(), log_density)


class DiffEBMOptions(Options):
    """Of :class:`DiffEBM`."""

    steps: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Steps T of the generator between the lowest rung and the top; at most all of the ladder's rungs."""
    paths: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    """Paths that are simulated in a training step."""
    generator_match: Annotated[float, Field(ge=0, le=1)] = 0.1
    """η: share of the divergence from the energy in the generator's loss, against denoising."""
    energy_match: Annotated[float, Field(ge=0, le=1)] = 0.1
    """α: share of the divergence from the generator in the energy's loss, against maximum likelihood."""
    width: Annotated[int, Field(ge=4, le=8192)] = 128
    """Of the generator's network."""
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    """Its residual blocks."""

    @model_validator(mode="after")
    def _coupled(self) -> "DiffEBMOptions":
        # the energy's gradient would compare the data with a generator that knows nothing of the energy
        if self.generator_match == 0 and self.energy_match == 0:
            raise ValueError(
                "generator_match and energy_match may not both be 0: nothing would fix the energy"
            )
        return self


class DiffEBM(Objective):
    """:func:`generator_loss` + :func:`energy_loss`: both networks take a step on the same paths.

    The energy is that of the ladder's lowest noisy rung, log p̃(·, σ_1), where the paths end; the generator's
    levels are rungs of the ladder, evenly spread by number. Reference paths are the generator's own. Its
    network and the variances of its steps are parameters of this objective; denoising trains it on all noise
    levels of the batch, with the data's forces where they are known.

    One of the two shares of the divergence must be positive: maximum likelihood alone compares the data with
    a generator that has learned the data, whatever the energy.

    Trains the lowest rung of the energy and nothing else: no other rung, no normaliser.
    """

    name = "diffebm"
    options_class = DiffEBMOptions
    options: DiffEBMOptions

    levels: Tensor

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__(setup, options)
        top, steps = len(setup.sigma) - 1, self.options.steps
        rungs = torch.linspace(1, top, min(steps, top - 1) + 1, dtype=torch.float64).round().long()
        periodic = setup.model.periodic
        self.register_buffer("levels", setup.sigma[rungs.to(setup.sigma.device)].to(torch.float64))
        self.control = ControlNetwork(
            periodic, setup.width, float(setup.sigma[1]), float(setup.sigma[-1]), self.options.width,
            self.options.depth,
        )  # fmt: skip
        # how much the variance of a step differs from that of normal data, on a log scale
        self.log_spread = nn.Parameter(torch.zeros(len(self.levels) - 1, len(periodic)))

    def loss(self, problem: Problem) -> Tensor:
        model, options = problem.model, self.options
        periodic, generator, levels = model.periodic, problem.generator, self.levels
        prior = Prior(float(levels[-1]), periodic)
        with torch.set_grad_enabled(problem.create_graph):
            variance = self.variance()
            path = simulate(self.control, levels, variance, prior, options.paths, generator)
            log_ratio = path_log_ratio(self.control, levels, variance, prior, path)
            clean, low = problem.clean, levels[:1].to(problem.points)
            data, _ = noise_to(clean, low, periodic, generator)
            both = torch.cat([data, path[0].to(data)])
            energy = model.log_density(both, low.expand(len(both)))
            at_data, at_ends = energy.split([len(data), options.paths])
            score_loss = self._score_loss(problem)
            return generator_loss(score_loss, log_ratio, at_ends, options.generator_match) + energy_loss(
                at_data, at_ends, log_ratio, options.energy_match
            )

    def variance(self) -> Tensor:
        """Of the generator's steps, ``(T, d)`` float64."""
        width = self.control.data_width.to(torch.float64)
        return reverse_variance(self.levels, width) * self.log_spread.to(torch.float64).exp()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n points of the generator at the lowest rung, ``(n, d)`` float64."""
        prior = Prior(float(self.levels[-1]), self.control.periodic)
        return simulate(self.control, self.levels, self.variance(), prior, n, generator)[0]

    def _score_loss(self, problem: Problem) -> Tensor:
        """Of the control, at the batch's points."""
        noisy, known = problem.noisy, problem.batch.data_score
        level = problem.level[noisy]
        conditional = conditional_score(problem.displacement[noisy], level, problem.model.periodic)
        data_score = None if known is None else known.flatten(0, 1)[noisy]
        target, weight = mixed_score(conditional, data_score, level, problem.width.to(level))
        return weighted_score_loss(self.control(problem.points[noisy], level), target, weight)
