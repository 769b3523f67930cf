"""A ladder for a model that no data belong to, such as a composition of others.

The best variance of a reverse step needs E[s²] of the rung above, which is otherwise measured on noised data.
Here a pilot population measures it on its own way down: weighted, resampled and moved at every rung, its
particles represent that rung, and E[s²] = -E[∂²log p] holds for any density. Weights are exact with any
variance; the pilot's particles enter no estimate.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import State
from bgdiff.ladder.levels import even_levels
from bgdiff.ladder.moves import move_scale
from bgdiff.ladder.paths import Ladder
from bgdiff.ladder.pilot import MoveRecipe
from bgdiff.ladder.resampling import effective_size, shares
from bgdiff.ladder.smc import Plan, Resampler, enter, settle, step_down
from bgdiff.models.base import EnergyModel, mean_of_equal_axes
from bgdiff.progress import Progress, silent

__all__ = ["check_confined", "data_free_ladder"]

_LEAST_AT_TOP = 0.1
_DIRECTIONS, _NEAR, _FAR = 512, 4.0, 8.0


def data_free_ladder(
    model: EnergyModel,
    sigma: Tensor,
    n: int,
    generator: torch.Generator,
    *,
    recipes: Sequence[MoveRecipe] = (MoveRecipe("mala", 2),),
    respace: bool = False,
    progress: Progress = silent,
) -> Ladder:
    """A ladder whose reverse steps are measured on a pilot of n particles.

    Args:
        sigma: noise ``(K+1,)``, from 0 up.
        recipes: moves at every rung, with the steps that are best for normal densities.
        respace: put the K rungs between the same ends where the pilot's weights scattered.

    Raises:
        ConfigError: the model's top rung is not near the prior.
        CorrectionError: the pilot's weights collapse; the rung is named.
    """
    top, d = len(sigma) - 1, len(model.periodic)
    # plain noising steps, until a rung has been measured
    moments = torch.zeros(top, d, dtype=torch.float64, device=sigma.device)
    plan = Plan(Ladder(model, sigma, moments), resampler=Resampler(1.0))
    population = enter(plan, n, generator)
    _check_top(plan, population.state)
    for k in range(top - 1, -1, -1):
        share = shares(population.log_weight)[:, None]
        known = torch.isfinite(population.state.score).all(1, keepdim=True)
        square = torch.where(known, population.state.score, 0.0).square()
        moments[k] = mean_of_equal_axes(model, (share * square).sum(0))
        if k == 0:
            break
        weighed, density = step_down(plan, population, k, generator), plan.density(k)
        scale = move_scale(moments[k], float(sigma[k + 1]), model.periodic)
        moves = [
            move
            for recipe in recipes
            if (move := recipe.make(scale, model.periodic)) is not None
            for _ in range(recipe.repeats)
        ]
        population = settle(weighed, density, moves, plan.resampler, generator)
        progress(top - k, top)
    ladder = replace(plan.ladder, moments=moments)
    if not respace:
        return ladder
    # of the steps from rung 2 to rung 1, from 3 to 2, …; a variance ∝ (step in ln σ)²
    overlaps = torch.tensor([record.conditional_fraction for record in reversed(population.records)])
    variances = -overlaps.to(torch.float64).clamp(1e-6, 1).log()
    return ladder.at(even_levels(sigma, variances.to(sigma.device), top))


def check_confined(model: EnergyModel, sigma: Tensor, generator: torch.Generator) -> None:
    """Refuse a density that rises where there should be nothing, along the axes or in random directions.

    Compares the log density at eight and at four widths √(1+σ²), at every rung. What this refuses cannot be
    normalised; it does not find everything that cannot.

    Args:
        sigma: noise ``(K+1,)``, from 0 up; rung 0 is left out.

    Raises:
        ConfigError: it rises; the rung is named.
    """
    real = ~model.periodic
    d, n_real = len(real), int(real.sum())
    if not n_real:
        return
    along = torch.zeros(2 * n_real, d, dtype=torch.float64, device=real.device)
    along[:, real] = torch.cat([torch.eye(n_real), -torch.eye(n_real)]).to(along)
    anywhere = torch.randn(_DIRECTIONS, d, generator=generator, dtype=torch.float64, device=real.device)
    anywhere = anywhere * real
    direction = torch.cat([along, anywhere / anywhere.square().sum(1, keepdim=True).sqrt() * n_real**0.5])
    turn = torch.rand(direction.shape, generator=generator, dtype=torch.float64, device=real.device)
    angle = torch.where(real, 0.0, (2 * turn - 1) * math.pi)
    for k in range(1, len(sigma)):
        level, width = sigma[k].reshape(1), math.sqrt(1 + float(sigma[k]) ** 2)
        with torch.no_grad():
            near, far = (model.log_density(angle + r * width * direction, level) for r in (_NEAR, _FAR))
        rises = int((far > near).sum())
        if rises:
            raise ConfigError(
                f"rung {k} (sigma = {float(sigma[k]):.3g}): the density rises between {_NEAR:g} and {_FAR:g} "
                f"widths from the centre in {rises} of {len(direction)} directions, so it cannot be "
                "normalised; what is divided by must be wider, or its exponent smaller"
            )


def _check_top(plan: Plan, state: State) -> None:
    top = plan.ladder.n_rungs
    ratio = plan.density(top).evaluate(state.z).log_density - state.log_density
    if not bool(torch.isfinite(ratio).any()):
        raise CorrectionError(f"{plan.density(top).name}: the model has no finite density there")
    share = effective_size(ratio) / len(ratio)
    if share < _LEAST_AT_TOP:
        raise ConfigError(
            f"{plan.density(top).name}: the top rung is not the prior N(0, 1+σ²) (only {100 * share:.2g} % "
            "of its samples are effective); let the ladder end at more noise, and give potentials that are "
            "still felt there a smaller width"
        )
