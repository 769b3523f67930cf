"""What several tests share: z-scores, analytic mixtures, small molecules as graphs, rigid motions."""

import math

import torch
from torch import Tensor

from bgdiff.models import GaussianMixtureModel

REAL = torch.zeros(2, dtype=torch.bool)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def z_scores(values: Tensor, truth: Tensor | float) -> Tensor:
    """How many standard errors the mean over the first axis is from ``truth``."""
    error = values.std(0) / math.sqrt(len(values))
    return (values.mean(0) - truth) / error


def assert_mean(values: Tensor, truth: Tensor | float) -> None:
    """The mean over the first axis is within four standard errors of ``truth``."""
    scores = z_scores(values, truth)
    assert scores.numel()
    assert torch.isfinite(scores).all()
    assert (scores.abs() < 4).all(), scores


def assert_standard(scores: Tensor) -> None:
    """z-scores from repeated runs have mean 0 and standard deviation 1, within four standard errors."""
    n = scores.numel()
    assert abs(float(scores.mean())) < 4 / math.sqrt(n)
    assert abs(float(scores.std()) - 1) < 4 / math.sqrt(2 * n)


def mixture() -> GaussianMixtureModel:
    """Two wells in the plane, of unequal weight and shape, overlapping a little; about unit variance."""
    weights = torch.tensor([0.3, 0.7])
    means = torch.tensor([[-1.1, 0.5], [0.9, -0.3]])
    covariances = torch.tensor([[[0.2, 0.05], [0.05, 0.5]], [[0.4, -0.1], [-0.1, 0.3]]])
    return GaussianMixtureModel(weights, means, covariances)


def level(sigma: Tensor | float) -> Tensor:
    """One noise level for a whole batch."""
    return torch.as_tensor(sigma, dtype=torch.float64).reshape(1)


def rigid_deviation(x: Tensor, y: Tensor) -> float:
    """Largest distance between atoms of x and y ``(B, N, 3)`` after the best *proper* rigid motion."""
    x, y = (points - points.mean(1, keepdim=True) for points in (x, y))
    left, _, right = torch.linalg.svd(x.mT @ y)
    handed = torch.ones(len(x), 3, dtype=x.dtype)
    handed[:, 2] = torch.sign(torch.linalg.det(left) * torch.linalg.det(right))
    rotation = left @ torch.diag_embed(handed) @ right
    return float((x @ rotation - y).norm(dim=-1).max())


WATER = (3, [(0, 1), (0, 2)], [True, False, False])
ETHANOL = (9, [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)], [True] * 3 + [False] * 6)
CYCLOHEXANE = (
    18,
    [(i, (i + 1) % 6) for i in range(6)]
    + [(i, 6 + 2 * i) for i in range(6)]
    + [(i, 7 + 2 * i) for i in range(6)],
    [True] * 6 + [False] * 12,
)
NEOPENTANE = (
    17,
    [(0, i) for i in range(1, 5)] + [(1 + i // 3, 5 + i) for i in range(12)],
    [True] * 5 + [False] * 12,
)
CHAIN = (7, [(i, i + 1) for i in range(6)], None)
NAPHTHALENE = (
    10,
    [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (4, 6), (6, 7), (7, 8), (8, 9), (9, 3)],
    None,
)

GRAPHS = {
    "water": WATER,
    "ethanol": ETHANOL,
    "cyclohexane": CYCLOHEXANE,
    "neopentane": NEOPENTANE,
    "chain": CHAIN,
    "naphthalene": NAPHTHALENE,
}
"""Number of atoms, bonds and which atoms are heavy, as for ``ZMatrix.from_bonds``."""


def geometry(n_atoms: int, batch: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random bonds, angles and torsions, far from the chart's edges."""
    generator = seeded(seed)

    def uniform(columns: int, low: float, high: float) -> Tensor:
        u = torch.rand(batch, columns, generator=generator, dtype=torch.float64)
        return low + (high - low) * u

    return (
        uniform(n_atoms - 1, 0.09, 0.16),
        uniform(n_atoms - 2, 0.6, 2.6),
        uniform(n_atoms - 3, -math.pi, math.pi),
    )
