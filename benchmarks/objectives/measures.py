"""What a learned ladder is compared with where the density of every level is known.

All averages are over exact samples of a level, with w = p̃_θ/p there: no sampler of the model comes in
between.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from benchmarks.objectives.mixtures import IsotropicMixture
from benchmarks.objectives.preserving import preserving_logits
from bgdiff.models import EnergyModel, log_density_and_score
from bgdiff.random import generator_for

__all__ = [
    "Classification",
    "LevelMeasures",
    "best_offsets",
    "classify",
    "measure_levels",
    "mode_weight_errors",
]


@dataclass(frozen=True)
class Classification:
    """Cross-entropy in nats of telling all levels apart, on held-out points, with standard errors.

    Attributes:
        loss: of the learned energies with the learned offsets.
        loss_best_offsets: the same energies with the offsets that fit other points best.
        optimum: of the exact densities, on the same points.
        excess, excess_best_offsets: above it, with the error of the paired difference.
        chance: ln K.
    """

    loss: float
    loss_error: float
    loss_best_offsets: float
    optimum: float
    excess: float
    excess_error: float
    excess_best_offsets: float
    excess_best_offsets_error: float
    chance: float


@dataclass(frozen=True)
class LevelMeasures:
    """At each level: noise, ESS, Fisher divergence, and how wrong the modes' weights are.

    Attributes:
        ess: Kish fraction of the weights w of exact samples.
        fisher: E|s_θ - s|²/d of the scores in the variance-preserving picture (data of unit variance).
        mode_error: error of the log weights of modes in nats: of the log odds for two modes (with its sign),
        the
            root mean square over modes for more of them, its sampling variance taken off.
        mode_error_std: its standard error.
    """

    sigma: list[float]
    ess: list[float]
    fisher: list[float]
    mode_error: list[float]
    mode_error_std: list[float]


def classify(
    model: EnergyModel, offsets: Tensor, sigma: Tensor, truth: IsotropicMixture, per_level: int, seed: int
) -> Classification:
    """Held-out 128-way (K-way) classification in the variance-preserving picture."""
    fit_x, fit_label = _held_out(truth, sigma, max(2, per_level // 2), generator_for(seed, "offsets"))
    x, label = _held_out(truth, sigma, per_level, generator_for(seed, "classify"))
    free = torch.zeros_like(offsets)
    best = best_offsets(preserving_logits(model, free, sigma, fit_x), fit_label)
    energy = preserving_logits(model, free, sigma, x)
    row = torch.arange(len(x))

    def loss(logits: Tensor) -> Tensor:
        return -log_softmax(logits, -1)[row, label]

    learned, polished = loss(energy + offsets[1:]), loss(energy + best)
    exact = loss(preserving_logits(_Exact(truth), free, sigma, x))

    def error(values: Tensor) -> float:
        return float(values.std() / math.sqrt(len(values)))

    return Classification(
        float(learned.mean()),
        error(learned),
        float(polished.mean()),
        float(exact.mean()),
        float((learned - exact).mean()),
        error(learned - exact),
        float((polished - exact).mean()),
        error(polished - exact),
        math.log(len(sigma) - 1),
    )


def best_offsets(energy: Tensor, label: Tensor, steps: int = 60) -> Tensor:
    """Offsets ``(K,)`` that minimise the cross-entropy of ``energy + f`` ``(B, K)``.

    Reverse logistic regression: with equal numbers of points at all levels the optimum is MBAR's (Geyer
    1994).
    """
    offsets = torch.zeros(energy.shape[1], dtype=energy.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([offsets], max_iter=steps, history_size=20, line_search_fn="strong_wolfe")
    start = -energy[torch.arange(len(label)), label].mean()  # keeps numbers small

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(energy + start + offsets, label)
        value.backward()
        return value

    optimiser.step(closure)
    return offsets.detach()


def measure_levels(
    model: EnergyModel, sigma: Tensor, truth: IsotropicMixture, per_level: int, seed: int
) -> LevelMeasures:
    """ESS, Fisher divergence and mode weights at every noisy rung, from ``per_level`` exact samples of each.

    Samples are stratified: as many from each component as its weight says, so that mode weights are compared
    between equal shares.
    """
    ess, fisher, error, std = [], [], [], []
    for k, level in enumerate(sigma[1:], start=1):
        generator = generator_for(seed, "level", k)
        z = _stratified(truth, per_level, generator)
        z = z + float(level) * torch.randn(z.shape, generator=generator, dtype=torch.float64)
        at = level.to(torch.float64).reshape(1)
        learned, score = log_density_and_score(model, z.to(torch.float32), at.to(torch.float32))
        log_weight = learned.to(torch.float64) - truth.log_density(z, at)
        share = torch.softmax(log_weight, 0)
        ess.append(float(1 / (len(z) * share.square().sum())))
        wrong = (score.to(torch.float64) - truth.score(z, at)) ** 2
        fisher.append(float(wrong.mean() * (1 + level**2)))
        responsibility = torch.softmax(truth.component_log_density(z, at), -1)
        one, its_std = mode_weight_errors(log_weight, responsibility)
        error.append(one)
        std.append(its_std)
    return LevelMeasures([float(level) for level in sigma[1:]], ess, fisher, error, std)


def mode_weight_errors(log_weight: Tensor, responsibility: Tensor) -> tuple[float, float]:
    """How wrong a density has the weights of modes, in nats, and the standard error.

    Mode j has the weight E_p[w r_j]/E_p[w] under the density p w, with the true responsibilities r_j of modes
    for points; the truth is E_p[r_j]. For two modes: the error of ln(W_2/W_1). For more: the root mean square
    of the errors of ln W_j about their mean, after the mean sampling variance is taken off.

    Args:
        log_weight: ln w at n exact samples ``(n,)``.
        responsibility: ``(n, m)``.
    """
    n, m = responsibility.shape
    weight = torch.softmax(log_weight, 0)[:, None] * n
    learned, true = weight * responsibility, responsibility
    log_error = learned.mean(0).clamp_min(1e-300).log() - true.mean(0).log()
    influence = learned / learned.mean(0).clamp_min(1e-300) - true / true.mean(0)
    if m == 2:
        spread = (influence[:, 1] - influence[:, 0]).std() / math.sqrt(n)
        return float(log_error[1] - log_error[0]), float(spread)
    centred = log_error - log_error.mean()
    noise = (influence - influence.mean(1, keepdim=True)).var(0) / n
    square = centred.square().mean() - noise.mean()
    root = float(square.clamp_min(0).sqrt())
    spread = (4 * centred.square() * noise + 2 * noise.square()).sum().sqrt() / m
    return root, float(spread / (2 * root) if root > 0 else spread.sqrt())


class _Exact:
    """The truth as a model."""

    def __init__(self, truth: IsotropicMixture) -> None:
        self.truth = truth
        self.periodic = torch.zeros(truth.dim, dtype=torch.bool)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.truth.log_density(z, sigma)


def _held_out(
    truth: IsotropicMixture, sigma: Tensor, per_level: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Points x ``(K per_level, d)`` in the variance-preserving picture and their levels, 0 to K-1."""
    label = torch.arange(len(sigma) - 1).repeat_interleave(per_level)
    level = sigma[1:].to(torch.float64)[label][:, None]
    clean = truth.sample(len(label), generator)
    z = clean + level * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return z * (1 + level**2).rsqrt(), label


def _stratified(truth: IsotropicMixture, n: int, generator: torch.Generator) -> Tensor:
    counts = torch.round(truth.weight * n).to(torch.int64).clamp_min(1)
    component = torch.arange(len(counts)).repeat_interleave(counts)
    return truth.sample(len(component), generator, component)
