"""Parametric families of energies that contain the truth, and the gradients of objectives on them."""

import torch
from checks import seeded, z_scores
from ladders import MixedModel, torus_and_plane
from torch import Tensor

from bgdiff.ladder.densities import wrapped
from bgdiff.models import EnergyModel, GaussianModel
from bgdiff.objectives.base import Objective, Problem, Setup
from bgdiff.objectives.batches import Batch

SIGMA = torch.tensor([0.0, 0.3, 0.8, 2.0], dtype=torch.float64)
TRUTH = torus_and_plane()
PERIODIC = TRUTH.periodic


def family(theta: Tensor) -> MixedModel:
    """Two modes on real and periodic axes; the truth at θ = 0 ``(6,)``, up to rung constants at θ_5."""
    first, second = TRUTH.parts
    zero = torch.zeros_like(theta[0])
    shift = torch.stack([theta[0], zero, theta[1], zero])
    scale = torch.stack([zero, theta[2], theta[3], zero]).exp()
    model = MixedModel(
        [0.5, 0.5],
        [
            GaussianModel(first.mean + shift, first.variance, PERIODIC),
            GaussianModel(second.mean, second.variance * scale, PERIODIC),
        ],
    )
    model.shift = theta[5]  # type: ignore[assignment]
    logit = torch.log(TRUTH.weights[0] / TRUTH.weights[1]) + theta[4]
    model.weights = torch.stack([logit.sigmoid(), (-logit).sigmoid()])
    return model


class Gaussian:
    """log p̃ = -½ Σ (z - m)²/(v e^θ + σ²) on real axes, with θ ``(2,)`` = (shift of m_0, log scale of v_0)."""

    def __init__(self, mean: Tensor, variance: Tensor, theta: Tensor | None = None) -> None:
        theta = torch.zeros(2, dtype=torch.float64) if theta is None else theta
        first = torch.arange(len(mean)) == 0
        self.mean, self.variance = mean + theta[0] * first, variance * (theta[1] * first).exp()
        self.periodic = torch.zeros(len(mean), dtype=torch.bool)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return -0.5 * ((z - self.mean) ** 2 / (self.variance + sigma[:, None] ** 2)).sum(-1)


def setup(model: EnergyModel, sigma: Tensor, seed: int = 0) -> Setup:
    width = torch.ones(len(model.periodic), dtype=torch.float64)
    data = torch.zeros(1, len(width), dtype=torch.float64)
    return Setup(model, sigma, width, data, None, 100, seeded(seed))


def problem(
    model: EnergyModel, data: Tensor, sigma: Tensor, seed: int, *, create_graph: bool = True
) -> Problem:
    """A batch of the data points ``(n, d)``, each noised to a random rung of its own."""
    generator = seeded(seed)
    rungs = torch.randint(1, len(sigma), (len(data), 1), generator=generator)
    noise = torch.randn(data.shape, generator=generator, dtype=data.dtype)
    displacement = sigma[rungs].to(data) * noise
    periodic = model.periodic
    z = wrapped(data + displacement, periodic)
    unknown = torch.full((len(data), 1), torch.nan, dtype=data.dtype)
    batch = Batch(z[:, None], displacement[:, None], None, unknown, rungs)
    width = torch.ones(data.shape[1], dtype=data.dtype)
    offsets = torch.zeros(len(sigma), dtype=torch.float64)
    return Problem(
        model,
        offsets,
        sigma,
        width,
        batch,
        generator,
        create_graph=create_graph,
    )


def gradients(objective: Objective, theta: Tensor, *, repeats: int = 20, points: int = 300) -> Tensor:
    """Gradients with respect to θ from independent batches of the truth ``(repeats, len(θ))``."""
    rows = []
    for repeat in range(repeats):
        at = theta.clone().requires_grad_(True)
        data = TRUTH.sample(points, seeded(1000 + repeat))
        loss = objective.loss(problem(family(at), data, SIGMA, repeat))
        (gradient,) = torch.autograd.grad(loss, at)
        rows.append(gradient)
    return torch.stack(rows)


AT_TRUTH = torch.zeros(6, dtype=torch.float64)
PERTURBED = torch.tensor([0.5, 0.7, 0.7, 0.7, 1.0, 0.0], dtype=torch.float64)
NAMES = ("mean", "angle", "variance", "angular variance", "weight", "rung constant")


def assert_minimum_at_truth(at_truth: Tensor, perturbed: Tensor, seen: slice = slice(0, 5)) -> None:
    """The mean gradient vanishes at the truth, not at ``PERTURBED``, where every parameter's own is felt.

    The rungs' constants must be felt nowhere, on any batch.
    """
    scores = z_scores(at_truth[:, :5], 0.0)
    assert (scores.abs() < 4).all(), dict(zip(NAMES, scores.tolist(), strict=False))
    assert float(z_scores(perturbed[:, seen], 0.0).abs().max()) > 8
    for gradient in (at_truth, perturbed):
        assert float(gradient[:, 5].abs().max()) < 1e-9
