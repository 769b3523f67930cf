"""Two planar mixtures of normals, and what their compositions are by quadrature or in closed form."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bgdiff.models import EnergyModel, GaussianMixtureModel
from bgdiff.models.composition_parts import TargetLike

STEP, REACH = 0.1, 7.0


def planar(
    weights: list[float], means: list[list[float]], covariances: list[list[list[float]]]
) -> GaussianMixtureModel:
    return GaussianMixtureModel(torch.tensor(weights), torch.tensor(means), torch.tensor(covariances))


def first() -> GaussianMixtureModel:
    """A narrow mode on the left, a wide one on the right."""
    narrow, wide = [[0.08, 0.0], [0.0, 0.3]], [[0.5, -0.1], [-0.1, 0.25]]
    return planar([0.5, 0.5], [[-1.2, 0.3], [1.0, -0.2]], [narrow, wide])


def second() -> GaussianMixtureModel:
    """Two modes that match those of the first one unequally well."""
    flat, round_ = [[0.3, 0.0], [0.0, 0.08]], [[0.3, 0.0], [0.0, 0.3]]
    return planar([0.5, 0.5], [[-0.9, -0.9], [1.1, 0.3]], [flat, round_])


def exact_product(one: GaussianMixtureModel, two: GaussianMixtureModel) -> tuple[GaussianMixtureModel, float]:
    """p1 p2 normalised, and log ∫ p1 p2: pairs of components are normals, of weights N(m1; m2, C1 + C2)."""
    logs, means, covariances = [], [], []
    for w1, m1, c1 in zip(one.weights, one.means, one.covariances, strict=True):
        for w2, m2, c2 in zip(two.weights, two.means, two.covariances, strict=True):
            between = GaussianMixtureModel(torch.ones(1), m2[None], (c1 + c2)[None])
            overlap = between.log_density(m1[None], torch.zeros(1, dtype=torch.float64))[0]
            logs.append(w1.log() + w2.log() + overlap)
            both = (c1.inverse() + c2.inverse()).inverse()
            covariances.append(both)
            means.append(both @ (c1.inverse() @ m1 + c2.inverse() @ m2))
    total = torch.logsumexp(torch.stack(logs), 0)
    weights = (torch.stack(logs) - total).exp()
    return GaussianMixtureModel(weights, torch.stack(means), torch.stack(covariances)), float(total)


def grid() -> Tensor:
    """Points of the plane ``(n, 2)``; all densities here are smooth on its scale and vanish at its ends."""
    line = torch.arange(-REACH, REACH + STEP / 2, STEP, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def quadrature(density: TargetLike | Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """log Z, and the probability of x > 0."""
    points = grid()
    value = density(points) if callable(density) else density.log_density(points)
    value = value.detach().to(torch.float64)
    cells = torch.exp(value - value.max())
    # trapezoidal at the dividing line: points on it belong to both sides
    right = cells[points[:, 0] > STEP / 2].sum() + cells[points[:, 0].abs() < STEP / 2].sum() / 2
    log_z = float(value.max() + cells.sum().log()) + 2 * math.log(STEP)
    return log_z, float(right / cells.sum())


def rung(model: EnergyModel, sigma: float) -> Callable[[Tensor], Tensor]:
    """A model's log density at one noise level."""
    return lambda z: model.log_density(z, torch.tensor([sigma], dtype=torch.float64))
