"""Walks along the whole ladder, with the path weights that make them exact.

A walk down starts at a prior draw z_K and takes reverse steps p_θ(z_k | z_{k+1}) to z_0; a walk up starts
at z_0 and takes noising steps q(z_{k+1} | z_k). Both give

    log W = log p̃(z_0) + Σ log q(z_{k+1}|z_k) - log p_K(z_K) - Σ log p_θ(z_k|z_{k+1}),

and E[W] = Z of the target p̃ over walks down, whatever the model (Neal 2001; Crooks 1999). The model
decides only how much W scatters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.ladder.failures import check_points
from bgdiff.ladder.kernels import NormalStep, Prior, ReverseStep, reverse_step
from bgdiff.ladder.levels import interpolate_moments
from bgdiff.ladder.pairwise import PairCurvature
from bgdiff.ladder.torsional import fit_curvature, smooth_curvature, torsion_features
from bgdiff.models.base import EnergyModel, log_density_and_score, mean_of_equal_axes
from bgdiff.progress import Progress, silent

__all__ = ["Ladder", "Paths", "measure_curvature", "measure_moments"]


@dataclass(frozen=True)
class Paths:
    """Ends and weights of n walks."""

    z: Tensor
    """``(n, d)`` float64: the bottom end, rung 0"""
    log_ratio: Tensor
    """``(n,)`` float64: log W without the target's log p̃(z_0)"""
    z_low: Tensor
    """``(n, d)`` float64: the same walks at rung 1"""
    log_weight_low: Tensor
    """``(n,)`` float64: log weight of the walk's part above rung 1, with the model's own energy at rung 1
    as its target: what these weights average is the energy that was learned, not the sampler"""


@dataclass(frozen=True)
class Ladder:
    """A model with rungs and reverse steps: everything a walk needs.

    Args:
        sigma: ``(K+1,)`` noise, from 0 up.
        moments: E[s_i²] of rungs 1..K, ``(K, d)``; see :func:`measure_moments`.
        torsional: what torsions add to them on the P periodic axes, ``(K, 1 + 6 P, P)``, if known; see
            :mod:`bgdiff.ladder.torsional`.
        pairs: what pairs of particles add to them, if known; see :mod:`bgdiff.ladder.pairwise`.
    """

    model: EnergyModel
    sigma: Tensor
    moments: Tensor
    torsional: Tensor | None = None
    pairs: PairCurvature | None = None

    def at(self, sigma: Tensor) -> "Ladder":
        """The same ladder with other rungs, ``(K'+1,)``; what is known about steps is interpolated."""
        moments = interpolate_moments(sigma, self.sigma, self.moments)
        torsional = self.torsional
        if torsional is not None:
            flat = interpolate_moments(sigma, self.sigma, torsional.flatten(1))
            torsional = flat.reshape(len(flat), *torsional.shape[1:])
        pairs = None if self.pairs is None else self.pairs.at(sigma, self.sigma)
        return Ladder(self.model, sigma, moments, torsional, pairs)

    @property
    def n_rungs(self) -> int:
        return len(self.sigma) - 1

    @property
    def prior(self) -> Prior:
        return Prior(float(self.sigma[-1]), self.model.periodic)

    def step_variance(self, k: int) -> float:
        """D = σ²_{k+1} - σ²_k."""
        return float(self.sigma[k + 1] ** 2 - self.sigma[k] ** 2)

    def up(self, k: int) -> NormalStep:
        """The noising step from rung k to k+1."""
        return NormalStep.isotropic(self.step_variance(k), self.model.periodic)

    def down(self, k: int, above: Tensor) -> ReverseStep:
        """The reverse step from points ``above`` ``(B, d)`` at rung k+1 to rung k; centred at z + D s(z)."""
        moment, periodic = self.moments[k], self.model.periodic
        if self.pairs is not None:
            return self.pairs.step(k, above, self.sigma, moment)
        if self.torsional is None:
            return reverse_step(self.step_variance(k), moment, periodic)
        local = moment.expand(len(above), -1).clone()
        local[:, periodic] += torsion_features(above, periodic) @ self.torsional[k]
        return reverse_step(self.step_variance(k), moment, periodic, local)

    def centre(self, z: Tensor, k: int) -> Tensor:
        """Where the reverse step from z at rung k+1 to rung k is centred, ``(B, d)``."""
        _, score = log_density_and_score(self.model, z, self._level(k + 1, z))
        return z + self.step_variance(k) * score.to(z.dtype)

    def walk_down(self, n: int, generator: torch.Generator, progress: Progress = silent) -> Paths:
        """n independent walks from the prior to rung 0; one score per rung and walk.

        Raises:
            CorrectionError: the model's score is not finite for most of them; the rung is named.
        """
        z = self.prior.sample(n, generator)
        log_ratio = -self.prior.log_prob(z)
        z_low, log_weight_low = z, log_ratio
        for k in range(self.n_rungs - 1, -1, -1):
            if k == 0:
                z_low = z
                log_weight_low = log_ratio + self._log_density(z, 1)
            centre, step = self.centre(z, k), self.down(k, z)
            lower = step.sample(centre, generator)
            check_points(lower, f"rung {k + 1} (sigma = {float(self.sigma[k + 1]):.3g})")
            log_ratio = log_ratio + self.up(k).log_prob(z, lower) - step.log_prob(lower, centre)
            z = lower
            progress(self.n_rungs - k, self.n_rungs)
        return Paths(z, log_ratio, z_low, log_weight_low)

    def walk_up(self, z: Tensor, generator: torch.Generator, progress: Progress = silent) -> Paths:
        """Noise given ends z ``(n, d)`` to the top; the weights of the same walks taken downwards."""
        start = z = z.to(torch.float64)
        log_ratio = torch.zeros_like(z[:, 0])
        z_low, above = z, log_ratio
        for k in range(self.n_rungs):
            step = self.up(k)
            upper = step.sample(z, generator)
            change = step.log_prob(upper, z) - self.down(k, upper).log_prob(z, self.centre(upper, k))
            log_ratio = log_ratio + change
            if k == 0:
                z_low = upper
            else:
                above = above + change
            z = upper
            progress(k + 1, self.n_rungs)
        top = self.prior.log_prob(z)
        return Paths(start, log_ratio - top, z_low, above - top + self._log_density(z_low, 1))

    def step_variances(self, z: Tensor, generator: torch.Generator, progress: Progress = silent) -> Tensor:
        """How much each step from rung k+1 to k, k = 1..K-1, scatters the weight: ``(K-1,)``.

        The variance over noised data ``z`` ``(n, d)`` of log p̃_k(z_k) + log q(z_{k+1}|z_k)
        - log p̃_{k+1}(z_{k+1}) - log p_θ(z_k|z_{k+1}), which is constant for a step that samples the model's
        own rungs exactly.
        """
        lower = self.up(0).sample(z.to(torch.float64), generator)
        energy = self._log_density(lower, 1)
        variances = []
        for k in range(1, self.n_rungs):
            step = self.up(k)
            upper = step.sample(lower, generator)
            above = self._log_density(upper, k + 1)
            change = energy - above + step.log_prob(upper, lower)
            variances.append((change - self.down(k, upper).log_prob(lower, self.centre(upper, k))).var())
            lower, energy = upper, above
            progress(k, self.n_rungs - 1)
        return torch.stack(variances)

    def _level(self, k: int, z: Tensor) -> Tensor:
        return self.sigma[k].to(z).reshape(1)

    def _log_density(self, z: Tensor, k: int) -> Tensor:
        with torch.no_grad():
            return self.model.log_density(z, self._level(k, z)).to(torch.float64)


def measure_moments(
    model: EnergyModel,
    sigma: Tensor,
    z: Tensor,
    generator: torch.Generator,
    *,
    batch: int = 4096,
    progress: Progress = silent,
) -> Tensor:
    """E[s_i²] of the model's score over noised data, for each rung 1..K; ``(K, d)`` float64.

    The same on all axes where the model's symmetry makes them equal.

    Args:
        z: data ``(n, d)``; each rung noises all of it afresh.
    """
    z = z.to(torch.float64)
    moments = []
    for k in range(1, len(sigma)):
        noised = NormalStep.isotropic(float(sigma[k] ** 2), model.periodic).sample(z, generator)
        level = sigma[k].to(noised).reshape(1)
        total = torch.zeros_like(z[0])
        for part in noised.split(batch):
            score = log_density_and_score(model, part, level)[1].to(torch.float64)
            total += (score**2).sum(0)
        moments.append(total / len(z))
        progress(k, len(sigma) - 1)
    return mean_of_equal_axes(model, torch.stack(moments))


def measure_curvature(
    model: EnergyModel, sigma: Tensor, z: Tensor, generator: torch.Generator, *, progress: Progress = silent
) -> Tensor | None:
    """``torsional`` of a :class:`Ladder`, from data z ``(n, d)``; None where no axis is periodic."""
    if not bool(model.periodic.any()):
        return None
    z, found = z.to(torch.float64), []
    for k in range(1, len(sigma)):
        noised = NormalStep.isotropic(float(sigma[k] ** 2), model.periodic).sample(z, generator)
        found.append(fit_curvature(model, noised, sigma[k].to(noised).reshape(1), generator))
        progress(k, len(sigma) - 1)
    return smooth_curvature(sigma, torch.stack(found))
