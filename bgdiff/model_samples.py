"""Samples of any energy model by sequential Monte Carlo, without data: for compositions above all.

    pilot      a ladder whose steps are measured on its own particles; moves tuned; a bridge, if there is a
               target. Its particles are thrown away.
    samples    populations that come down that ladder, each a function of the pilot, the seed and its number.

What comes back is weighted samples of the model's lowest rung or of the target, and its log Z.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.importance import expectation, family_log_weights, log_z, normalised_weights
from bgdiff.ladder.bridge import Bridge, plan_bridge, traverse
from bgdiff.ladder.data_free import check_confined, data_free_ladder
from bgdiff.ladder.densities import LatentDensity, TargetDensity
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.moves import Move, mala, move_scale
from bgdiff.ladder.paths import Ladder
from bgdiff.ladder.pilot import MoveRecipe, tuned_plan
from bgdiff.ladder.resampling import systematic
from bgdiff.ladder.smc import Plan, Population, Resampler, StageRecord, descend
from bgdiff.models.base import EnergyModel
from bgdiff.models.composition import Composition
from bgdiff.models.composition_parts import noise_range
from bgdiff.progress import Progress, silent
from bgdiff.random import generator_for

__all__ = ["ModelSamples", "sample_smc"]

_LOWEST, _HIGHEST = 0.02, 12.0  # where a model does not say: as the settings of training
_MOVES = (MoveRecipe("mala", 2), MoveRecipe("torsion_jump"))
_KNOTS, _ROUNDS = 6, 12


@dataclass(frozen=True)
class ModelSamples:
    """Weighted samples of a density, with what they say about it.

    Args:
        z: latents ``(n, d)`` float64.
        log_weight: ``(n,)`` float64; the mean of the weights estimates Z without bias.
        family: int64 ``(n,)``, which samples descend from the same draw of the prior.
        plan: rungs, reverse steps and moves that made them, and would make more.
        bridge: from the lowest rung to the target; None without a target.
        records: what happened at each rung, population by population.
    """

    z: Tensor
    log_weight: Tensor
    family: Tensor
    plan: Plan
    bridge: Bridge | None
    records: tuple[tuple[StageRecord, ...], ...]

    def __len__(self) -> int:
        return len(self.z)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Weights ``(n,)`` that sum to 1."""
        return normalised_weights(self.log_weight.cpu().numpy())

    @property
    def log_z(self) -> Estimate:
        """log of the integral of the unnormalised density over the latents."""
        return log_z(self.log_weight.cpu().numpy(), family=self.family.cpu().numpy())

    @property
    def ess(self) -> float:
        """Effective fraction of the draws of the prior: Kish's, by family."""
        summed = family_log_weights(self.log_weight.cpu().numpy(), self.family.cpu().numpy())
        share = normalised_weights(summed)
        return float(1 / (len(share) * np.square(share).sum()))

    def expectation(self, values: ArrayLike | Tensor) -> Estimate:
        """Average of values ``(n,)``, one per sample."""
        observed = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        return expectation(self.log_weight.cpu().numpy(), observed, family=self.family.cpu().numpy())

    def resampled(self, *, seed: int = 0) -> Tensor:
        """As many samples without weights ``(n, d)``, in random order; heavy ones are copied."""
        stream = generator_for(seed, "resampled", device=self.z.device)
        rows = systematic(self.log_weight, stream)
        order = torch.randperm(len(rows), generator=stream, device=rows.device)
        return self.z[rows[order]]


def sample_smc(
    model: EnergyModel,
    n: int,
    *,
    target: LatentDensity | None = None,
    seed: int = 0,
    sigma: Tensor | None = None,
    n_rungs: int = 64,
    population: int = 2000,
    pilot: int = 500,
    moves: Sequence[MoveRecipe] = _MOVES,
    threshold: float = 0.5,
    overlap: float = 0.9,
    progress: Progress = silent,
) -> ModelSamples:
    """Draw n weighted samples of a model's lowest rung, or of a target that it is near to.

    Args:
        target: the density at rung 0, in the model's latents: :meth:`Composition.target
            <bgdiff.models.composition.Composition.target>`, a :class:`~bgdiff.coordinates.LatentTarget`, or
            :class:`~bgdiff.models.composition_parts.RungTarget` for a model in closed form.
        sigma: noise ``(K+1,)``, from 0 up; by default ``n_rungs`` levels over the range of the model, placed
            where the pilot's weights scatter.
        population: particles that interact, at most; n is divided evenly.
        pilot: particles of the pilot.
        moves: at every rung.
        threshold: resample when the effective fraction falls below it.
        overlap: of neighbouring places of the bridge.

    Raises:
        ConfigError: a number is out of range, the noise is beyond the model's range, or the density cannot be
            normalised.
        CorrectionError: weights collapse, or energies are not finite; the rung is named.
    """
    if n < 2 or population < 2 or pilot < 10:
        raise ConfigError(
            f"at least 2 samples, 2 per population and 10 in the pilot, not {n}, {population}, {pilot}"
        )
    device, levels = model.periodic.device, _levels(model, sigma, n_rungs)
    levels = levels.to(device)
    count = -(-n // population)
    stages = 2 + count  # the pilot twice

    def part(number: int) -> Progress:
        return lambda done, of, text="": progress(number * of + done, stages * of, text)

    stream = generator_for(seed, "model", "pilot", device=device)
    if isinstance(model, Composition) and model.divides:
        check_confined(model, levels, stream)
    respace = sigma is None
    ladder = data_free_ladder(model, levels, pilot, stream, recipes=moves, respace=respace, progress=part(0))
    resampler = Resampler(threshold)
    plan = tuned_plan(
        ladder, moves, pilot, stream, resampler=resampler, knots=_KNOTS, rounds=_ROUNDS, progress=part(1)
    )
    goal = None if target is None else TargetDensity(target, model.periodic)
    bridge = None if goal is None else _bridge(plan, goal, pilot, overlap, stream)

    arrived: list[Population] = []
    for index in range(count):
        size = n // count + (index < n % count)
        stream = generator_for(seed, "model", index, device=device)
        low, _ = descend(plan, size, stream, part(2 + index))
        if goal is not None and bridge is not None:
            low = traverse(plan.density(1), goal, bridge, low, resampler, stream)
        arrived.append(low)
    first = [0, *np.cumsum([len(one.log_weight) for one in arrived])]
    families = [one.genealogy.ancestors().to(device) + int(k) for one, k in zip(arrived, first, strict=False)]
    return ModelSamples(
        torch.cat([one.state.z for one in arrived]),
        torch.cat([one.log_weight for one in arrived]),
        torch.cat(families),
        plan,
        bridge,
        tuple(one.records for one in arrived),
    )


def _levels(model: EnergyModel, sigma: Tensor | None, n_rungs: int) -> Tensor:
    """The levels of the pilot."""
    lowest, highest = noise_range(model)
    if sigma is None:
        scale = getattr(model, "noise_scale", 1.0)
        low, high = max(lowest, _LOWEST / scale), min(highest, _HIGHEST / scale)
        return noise_levels(n_rungs, low, high)
    inside = lowest * (1 - _ROUNDING) <= float(sigma[1]) and float(sigma[-1]) <= highest * (1 + _ROUNDING)
    if not inside:
        raise ConfigError(
            f"the model is defined for noise between {lowest:.3g} and {highest:.3g}, not from "
            f"{float(sigma[1]):.3g} to {float(sigma[-1]):.3g}"
        )
    return sigma


def _bridge(plan: Plan, goal: TargetDensity, n: int, overlap: float, generator: torch.Generator) -> Bridge:
    low, _ = descend(replace(plan, resampler=Resampler(0.5)), n, generator)
    found = plan_bridge(
        plan.density(1), goal, low, lambda: [_move(plan.ladder)], generator, overlap=overlap, rounds=_ROUNDS
    )
    # at the end the weights are settled, and moves would cost forces without improving them
    return Bridge(found.places, (*found.moves[:-1], ()))


def _move(ladder: Ladder) -> Move:
    scale = move_scale(ladder.moments[0], float(ladder.sigma[1]), ladder.model.periodic)
    return mala(scale, 1.65 * len(scale) ** (-1 / 6))


_ROUNDING = 1e-6
