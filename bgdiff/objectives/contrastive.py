"""Persistent contrastive divergence: maximum likelihood with Markov chains that go on from step to step."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bgdiff.errors import DataError
from bgdiff.ladder.densities import State
from bgdiff.ladder.kernels import Prior
from bgdiff.ladder.moves import mala
from bgdiff.objectives.base import Objective, Options, Problem, Setup
from bgdiff.objectives.langevin import RungsDensity, langevin_step
from bgdiff.objectives.likelihood import likelihood_loss
from bgdiff.objectives.pool import Pool, widths

__all__ = ["ContrastiveDivergence", "ContrastiveDivergenceOptions", "run_chains"]


def run_chains(
    density: RungsDensity, z: Tensor, length: Tensor, moves: int, generator: torch.Generator, *, adjust: bool
) -> Tensor:
    """Langevin moves of chains ``(B, d)`` under their rungs' densities; where they end, ``(B, d)`` float64.

    Args:
        length: ℓ of a move ``(B, d)``: z' = z + ½ ℓ² ∇log p + ℓ ξ.
        moves: how many.
        adjust: accept or reject (MALA), which is exact for any length; else not (ULA).
    """
    state: State = density.evaluate(z)
    for _ in range(moves):
        if adjust:
            state, _ = mala(length, 1.0)(state, density, generator)
        else:
            state = density.evaluate(langevin_step(state, length, density.periodic, generator))
    return state.z


class ContrastiveDivergenceOptions(Options):
    """Of :class:`ContrastiveDivergence`."""

    chains: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Chains M of each rung. The more there are, the longer each of them waits for its next move."""
    moves: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Of each chain in a training step that uses it; a score each."""
    kernel: Literal["mala", "ula"] = "mala"
    """With accepting and rejecting, or without."""
    step: Annotated[float, Field(gt=0, le=10)] = 0.7
    """Length ℓ of a move, in units of the width E[s²]^(-1/2) of each axis."""
    restart: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Probability with which a chain that is used first starts anew from N(0, 1 + σ²)."""


class ContrastiveDivergence(Objective):
    """:func:`~bgdiff.objectives.likelihood.likelihood_loss` with persistent chains (Tieleman 2008).

    Each point of the batch is compared with one chain of its own rung, drawn from that rung's pool, which has
    just moved under the current model. Chains lag behind the model, and those of separated modes do not
    exchange: the gradient is biased by an unknown amount, and relative weights of modes are what it knows
    least. Where the model runs away from its chains (one move per step is too few at a learning rate of
    0.003) the loss falls without bound. Here to be compared with.

    Acts on every rung of the batch; leaves the normalisers alone.
    """

    name = "contrastive_divergence"
    options_class = ContrastiveDivergenceOptions
    options: ContrastiveDivergenceOptions

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__(setup, options)
        self.pool = Pool(setup.sigma, setup.model.periodic, self.options.chains, setup.generator)

    def loss(self, problem: Problem) -> Tensor:
        model, pool, options = problem.model, self.pool, self.options
        rung, generator = problem.rungs[problem.noisy], problem.generator
        value, score = (part[problem.noisy] for part in problem.own())
        moment = pool.measured(model, rung, score)
        row = torch.randint(pool.size, rung.shape, generator=generator, device=rung.device)
        # a chain that two points chose moves once
        chain, member = (rung * pool.size + row).unique(return_inverse=True)
        home = chain // pool.size
        places, index = home.unique(return_inverse=True)
        level = problem.sigma[home]
        length = options.step * widths(moment, places, problem.sigma, model.periodic)[index]
        start = pool.z.flatten(0, 1)[chain]
        if options.restart:
            anew = torch.rand(len(chain), generator=generator, device=start.device) < options.restart
            unit = Prior(0.0, model.periodic).sample(len(chain), generator)
            spread = torch.where(model.periodic, 1.0, (1 + level[:, None] ** 2).sqrt())
            start = torch.where(anew[:, None], unit * spread, start)
        end = run_chains(
            RungsDensity(model, level), start, length, options.moves, generator,
            adjust=options.kernel == "mala",
        )  # fmt: skip
        if not bool(torch.isfinite(end).all()):
            raise DataError(
                "contrastive_divergence: chains have left for infinity; use kernel mala, or a smaller step"
            )
        if self.training:
            pool.moment.copy_(moment)
            pool.z.flatten(0, 1)[chain] = end
        with torch.set_grad_enabled(problem.create_graph):
            samples = model.log_density(end.to(problem.points), level.to(problem.points))
        return likelihood_loss(value, samples[member])
