"""Objectives that tie rungs to each other: their minimisers and values on ladders known in closed form."""

import math

import pytest
import torch
from checks import assert_mean, level, mixture, seeded, z_scores
from objective_families import PERIODIC, TRUTH, family
from problems import objective, problem
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.levels import noise_levels, overlap_windows, rung_spacing
from bgdiff.models import EnergyModel, GaussianModel
from bgdiff.objectives import Batch
from bgdiff.objectives.batches import draw_batch
from bgdiff.objectives.fokker_planck import fokker_planck_loss, fokker_planck_residual
from bgdiff.objectives.infonce import candidate_log_prior, info_nce, neighbour_log_prob
from bgdiff.objectives.time_score import (
    conditional_time_score,
    interpolated,
    slope_matrix,
    time_score,
    time_score_loss,
)

SIGMA = noise_levels(24, 0.15, 6.0)
WIDTH = torch.tensor([0.8, 0.5, 1.0, 1.0], dtype=torch.float64)
SHIFT = 0.4  # of the rungs' constants, which the offsets have to make up for
GAUSS = GaussianModel(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 2.0]))


def a_batch(model: EnergyModel, width: Tensor, seed: int, points: int, *, levels: int = 1) -> Batch:
    z = model.sample(points, seeded(seed))  # type: ignore[attr-defined]
    windows, spacing = overlap_windows(SIGMA, width, 2.0, max(1, levels - 1)), rung_spacing(SIGMA, width)
    unknown = torch.full((points,), math.nan, dtype=torch.float64)
    generator = seeded(seed + 1)
    return draw_batch(
        z, None, unknown, SIGMA, model.periodic, windows, spacing, points // levels, levels, generator
    )


class Shifted:
    """The rungs of ``family`` with constants as a network's have them: the truth at θ_0..θ_4 = 0 ``(6,)``."""

    periodic = PERIODIC

    def __init__(self, theta: Tensor) -> None:
        self.shift = theta[5]
        self.model = family(torch.cat([theta[:5], torch.zeros(1, dtype=theta.dtype)]))

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.model.log_density(z, sigma) + self.shift * torch.log1p(sigma**2)


def true_offsets(shift: float) -> Tensor:
    """Normalisers of those rungs with θ_5 = ``shift``; like the trainer's, 0 at the top."""
    offsets = -shift * torch.log1p(SIGMA**2)
    return offsets - offsets[-1]


class Bent:
    """Rungs that no data has: bends of log p̃ that do not diffuse; the truth at θ = 0 ``(3,)``."""

    def __init__(self, model: EnergyModel, theta: Tensor) -> None:
        self.model, self.theta, self.periodic = model, theta, model.periodic

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        share = 1 / (1 + sigma**2)
        bend = torch.stack([z[:, 0] * share, (z[:, 0] + z[:, 1]).sin() * share, z[:, -1].cos()], -1)
        return self.model.log_density(z, sigma) + bend @ self.theta


def gradients(
    name: str,
    theta: Tensor,
    *,
    bent: bool = False,
    options: dict[str, object] | None = None,
    repeats: int = 20,
) -> Tensor:
    """Gradients in θ and in the offsets, of independent batches of the truth ``(repeats, …)``."""
    rows = []
    for repeat in range(repeats):
        at = theta.clone().requires_grad_(True)
        model = Bent(TRUTH, at) if bent else Shifted(at)
        offsets = true_offsets(0.0 if bent else SHIFT).requires_grad_(True)
        batch = a_batch(TRUTH, WIDTH, 5000 + 10 * repeat, 320, levels=2)
        term = objective(name, model, SIGMA, WIDTH, batch.z[:, 0], options=options)
        step = problem(model, batch, SIGMA, WIDTH, offsets=offsets, seed=repeat)
        row = torch.autograd.grad(term.loss(step), [at, offsets], materialize_grads=True)
        rows.append(torch.cat(row))
    return torch.stack(rows)


TRUE_THETA = torch.tensor([0, 0, 0, 0, 0, SHIFT], dtype=torch.float64)
OTHER_THETA = torch.tensor([0.5, 0.7, 0.7, 0.7, 1.0, SHIFT], dtype=torch.float64)


@pytest.mark.parametrize("name", ["time_score", "conditional_time_score", "info_nce"])
def test_the_truth_is_the_minimum(name: str) -> None:
    """No push at the true energies and normalisers, a strong one elsewhere."""
    at_truth = gradients(name, TRUE_THETA)
    felt = at_truth.std(0) > 0
    assert felt.sum() >= 6 + len(SIGMA) - 1  # everything but the clean rung
    assert_mean(at_truth[:, felt], 0.0)
    assert float(z_scores(gradients(name, OTHER_THETA)[:, :5], 0.0).abs().max()) > 8


def test_regularisers_vanish_on_the_ladder_of_any_data() -> None:
    """They ask rungs to agree with each other, whatever the data are."""
    for theta in (TRUE_THETA, OTHER_THETA):
        exact = gradients("fokker_planck", theta, options={"probes": 4}, repeats=3)
        assert float(exact.abs().max()) < 1e-9
    model = Shifted(OTHER_THETA)
    batch = a_batch(TRUTH, WIDTH, 1, 400, levels=2)
    term = objective("rne", model, SIGMA, WIDTH, batch.z[:, 0])
    losses = [
        float(term.loss(problem(model, batch, SIGMA, WIDTH, offsets=offsets, create_graph=False)))
        for offsets in (true_offsets(SHIFT), true_offsets(SHIFT - 1))
    ]
    assert losses[0] < 0.5 * losses[1]


@pytest.mark.parametrize("name", ["rne", "fokker_planck"])
def test_rungs_that_do_not_diffuse_into_each_other_are_pushed(name: str) -> None:
    still = gradients(name, torch.zeros(3, dtype=torch.float64), bent=True)[:, :3]
    pushed = gradients(name, torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64), bent=True)[:, :3]
    assert (z_scores(still, 0.0).abs() < 4).all()
    assert (z_scores(pushed, 0.0).abs() > 8).any()


# Time scores


def rho_squared(sigma: Tensor) -> Tensor:
    """ρ² = σ²/(σ² + c) of the Gaussian ladder, ``(…, 2)``."""
    variance = sigma[..., None] ** 2
    return variance / (variance + GAUSS.variance)


@pytest.mark.parametrize("sigma", [0.2, 0.9, 3.0])
def test_conditional_time_score_is_unbiased(sigma: float) -> None:
    """E[target φ(z)] = E[∂_τ log p_σ(z) φ(z)], on real and periodic axes."""
    n = 15_000
    clean, noise = TRUTH.sample(n, seeded(1)), torch.randn(n, 4, generator=seeded(2), dtype=torch.float64)
    z, sigmas = clean + sigma * noise, torch.full((n,), sigma, dtype=torch.float64)
    target = conditional_time_score(sigma * noise, sigmas, PERIODIC)
    truth = time_score(TRUTH, z, sigmas.log(), create_graph=False)
    probes = torch.stack([torch.ones(n), z[:, 0].sin(), z[:, 1].tanh(), z[:, 2].cos(), z[:, 3].sin()], -1)
    assert_mean((target - truth)[:, None] * probes, 0.0)
    real = conditional_time_score(sigma * noise[:, :2], sigmas, PERIODIC[:2])
    assert_mean((real - real.mean()) ** 2, 4.0)  # 2 per real axis


def test_conditional_time_score_is_the_derivative_of_the_kernel() -> None:
    kernel = GaussianModel(torch.zeros(4), torch.zeros(4), PERIODIC)
    displacement = torch.randn(50, 4, generator=seeded(3), dtype=torch.float64)
    sigma = torch.linspace(0.3, 3.0, 50, dtype=torch.float64)
    step = 1e-5
    high, low = (kernel.log_density(displacement, sigma * math.exp(h)) for h in (step, -step))
    derivative = (high - low) / (2 * step)
    torch.testing.assert_close(
        conditional_time_score(displacement, sigma, PERIODIC), derivative, rtol=1e-6, atol=1e-6
    )


def test_values_of_time_score_losses_for_gaussian_data() -> None:
    """1 - ρ⁴ for the conditional form, -½ρ⁴ averaged over τ for the other."""
    width = GAUSS.variance
    tau = torch.linspace(float(SIGMA[1].log()), float(SIGMA[-1].log()), 20_001, dtype=torch.float64)
    expected = -0.5 * float((rho_squared(tau.exp()) ** 2).mean())
    values, differences = [], []
    for repeat in range(25):
        batch = a_batch(GAUSS, width, 100 + 10 * repeat, 400)
        step = problem(GAUSS, batch, SIGMA, width, seed=repeat, create_graph=False)
        terms = [
            objective(name, GAUSS, SIGMA, width, batch.z[:, 0]).loss(step)
            for name in ("time_score", "conditional_time_score")
        ]
        values.append(terms[0])
        own = 1 - (rho_squared(SIGMA[batch.rungs[:, 0]]) ** 2).mean()
        differences.append(terms[1] - own)
    assert_mean(torch.stack(values), expected)
    assert_mean(torch.stack(differences), 0.0)


def test_without_boundary_terms_time_score_matching_is_wrong() -> None:
    """The loss of the score s + θτ: stationary at the truth with the ends, pushed hard without."""
    span = float((SIGMA[-1] / SIGMA[1]).log())
    pushes = []
    for repeat in range(30):
        generator = seeded(repeat)
        clean = GAUSS.sample(400, generator)
        noise = torch.randn(400, 2, generator=generator, dtype=torch.float64)
        theta = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def score(tau: Tensor, clean: Tensor = clean, noise: Tensor = noise, theta: Tensor = theta) -> Tensor:
            z = (clean + tau.detach().exp()[:, None] * noise - GAUSS.mean) ** 2
            variance = (2 * tau).exp()[:, None]
            exact = (variance / (GAUSS.variance + variance) * (z / (GAUSS.variance + variance) - 1)).sum(-1)
            return exact + theta * tau

        place = torch.rand(400, generator=generator, dtype=torch.float64)
        tau = (SIGMA[1].log() + span * place).requires_grad_(True)
        inner = score(tau)
        (slope,) = torch.autograd.grad(inner.sum(), tau, create_graph=True)
        first, last = (score(end.log().expand(400)) for end in (SIGMA[1], SIGMA[-1]))
        nothing = torch.zeros(1, dtype=torch.float64)
        losses = [
            time_score_loss(inner, slope, first, last, span, 2),
            time_score_loss(inner, slope, nothing, nothing, span, 2),
        ]
        pushes.append(torch.stack([torch.autograd.grad(x, theta, retain_graph=True)[0] for x in losses]))
    scores = z_scores(torch.stack(pushes), 0.0).abs()
    assert scores[0] < 4
    assert scores[1] > 8


def test_slopes_are_exact_for_quartics_and_close_for_normalisers() -> None:
    x = torch.tensor([0.0, 0.3, 0.5, 1.1, 1.6, 1.7, 2.5], dtype=torch.float64)
    for power in range(5):
        expected = power * x ** max(power - 1, 0)
        torch.testing.assert_close(slope_matrix(x) @ x**power, expected, rtol=1e-9, atol=1e-9)
    few = x[:3]  # the parabola, where there are no more nodes
    torch.testing.assert_close(slope_matrix(few) @ few**2, 2 * few, rtol=1e-9, atol=1e-9)
    tau = noise_levels(24, 0.05, 12.0)[1:].log()
    normaliser = -0.5 * torch.log(1 + (2 * tau).exp())  # of an axis of variance 1, less its own noise
    error = slope_matrix(tau) @ normaliser + (2 * tau).exp() / (1 + (2 * tau).exp())
    assert float(error.abs().max()) < 3e-3
    assert float(error[2:-2].abs().max()) < 3e-4


def test_interpolation_is_exact_for_cubics_with_continuous_slopes() -> None:
    x = torch.tensor([0.0, 0.3, 0.5, 1.1], dtype=torch.float64)
    tau = torch.linspace(0.0, 1.1, 40, dtype=torch.float64).requires_grad_(True)
    value = interpolated(tau, x, x**3 - x, 3 * x**2 - 1)
    (slope,) = torch.autograd.grad(value.sum(), tau)
    torch.testing.assert_close(value, tau**3 - tau)
    torch.testing.assert_close(slope, 3 * tau.detach() ** 2 - 1)


# InfoNCE


def test_candidates_are_weighed_by_how_they_were_drawn() -> None:
    start, jump = neighbour_log_prob(SIGMA, WIDTH, 1.5)
    assert float(start.exp().sum()) == pytest.approx(1)
    assert float(start[0]) == -math.inf
    torch.testing.assert_close(jump.exp().sum(1), torch.ones(25, dtype=torch.float64))
    assert (jump.diagonal() == -math.inf).all()
    rungs = torch.tensor([[3, 5, 4], [7, 2, 2]])
    prior = candidate_log_prior(rungs, start, jump)
    for row in range(2):
        for s in range(3):
            own = int(rungs[row, s])
            expected = float(start[own]) + sum(
                float(jump[own, int(rungs[row, r])]) for r in range(3) if r != s
            )
            assert float(prior[row, s]) == pytest.approx(expected)
    assert prior[1].isfinite().tolist() == [True, False, False]  # a negative is never drawn twice from itself
    logits = torch.tensor([[1.0, 0.3, -0.2]], dtype=torch.float64)
    weight = (logits + prior[:1]).exp()
    assert float(info_nce(logits, prior[:1])) == pytest.approx(-math.log(float(weight[0, 0] / weight.sum())))


def test_the_published_loss_tilts_the_energies() -> None:
    """Without the candidates' own probabilities the loss is least at energies that are too flat.

    With them the truth is stationary for any number of negatives; with a single one, either way.
    """
    for negatives, corrected in ((1, True), (4, True), (4, False)):
        pushes = []
        for repeat in range(12):
            tilt = torch.zeros((), dtype=torch.float64, requires_grad=True)
            model = Tilted(tilt)
            batch = a_batch(GAUSS, GAUSS.variance, 50 + 10 * repeat, 10_000)
            options = {"corrected": corrected, "negatives": negatives}
            term = objective("info_nce", model, SIGMA, GAUSS.variance, batch.z[:, 0], options=options)
            loss = term.loss(problem(model, batch, SIGMA, GAUSS.variance, seed=repeat))
            pushes.append(torch.autograd.grad(loss, tilt)[0])
        score = float(z_scores(torch.stack(pushes), 0.0))
        if corrected:
            assert abs(score) < 4
        else:
            assert score > 8


class Tilted:
    """(1 + θ) times the energies of the Gaussian ladder."""

    periodic = GAUSS.periodic

    def __init__(self, theta: Tensor) -> None:
        self.theta = theta

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return (1 + self.theta) * GAUSS.log_density(z, sigma)


# Regularisers


def test_rne_is_exact_for_gaussian_data_of_the_given_widths() -> None:
    batch = a_batch(GAUSS, GAUSS.variance, 7, 300, levels=2)
    term = objective("rne", GAUSS, SIGMA, GAUSS.variance, batch.z[:, 0])
    for step in (0.0, 0.1):  # offsets that rise by so much per rung, where the truth has them level
        offsets = step * torch.arange(len(SIGMA), dtype=torch.float64)
        seen = problem(GAUSS, batch, SIGMA, GAUSS.variance, offsets=offsets, create_graph=False)
        assert float(term.loss(seen)) == pytest.approx(step**2, rel=1e-6, abs=1e-20)


def test_rne_at_the_truth_is_the_error_of_the_normal_step() -> None:
    """½ D² E[Σ_ij (H_ij + δ_ij/(c_i + σ²))²] on a mixture, with the Hessian by differentiation."""
    model, width = mixture(), torch.tensor([1.0, 0.6], dtype=torch.float64)
    sigma = torch.tensor([0.0, 0.4, 0.402], dtype=torch.float64)
    variance = float(sigma[2] ** 2 - sigma[1] ** 2)
    n = 20_000
    clean = model.sample(n, seeded(1))
    noise = 0.4 * torch.randn(clean.shape, generator=seeded(2), dtype=torch.float64)
    rungs = torch.ones(n, 1, dtype=torch.int64)
    unknown = torch.full((n, 1), math.nan, dtype=torch.float64)
    batch = Batch((clean + noise)[:, None], noise[:, None], None, unknown, rungs)
    step = problem(model, batch, sigma, width, create_graph=False)
    found = float(objective("rne", model, sigma, width, clean).loss(step))
    z = (clean + noise).requires_grad_(True)
    (score,) = torch.autograd.grad(model.log_density(z, level(0.4)).sum(), z, create_graph=True)
    hessian = torch.stack(
        [torch.autograd.grad(score[:, i].sum(), z, retain_graph=True)[0] for i in (0, 1)], 1
    )
    wrong = hessian + torch.diag(1 / (width + 0.4**2))
    expected = 0.5 * variance**2 * float((wrong**2).sum((1, 2)).mean())
    assert found == pytest.approx(expected, rel=0.05)  # 4 standard errors of the mean of a χ²-like variable


def test_fokker_planck_residual_is_one_number_per_rung() -> None:
    """The change of the rungs' constants is all that is left of it."""
    model = Shifted(TRUE_THETA)
    z = TRUTH.sample(20, seeded(4))
    for sigma in (0.2, 1.0, 4.0):
        residual, same = fokker_planck_residual(model, z, level(sigma).expand(20), 4, seeded(5))
        assert torch.equal(residual, same)
        expected = 2 * SHIFT / (1 + sigma**2) * sigma**2 / (1 + sigma**2)
        torch.testing.assert_close(residual, torch.full_like(residual, expected), rtol=1e-6, atol=1e-8)


def test_fokker_planck_loss_with_random_directions_is_unbiased() -> None:
    normal = GaussianModel(torch.zeros(4), torch.tensor([0.3, 0.5, 1.0, 2.0]))
    model = Bent(normal, torch.tensor([0.4, 0.4, 0.4], dtype=torch.float64))
    z = normal.sample(8, seeded(6))

    def losses(probes: int, repeats: int) -> Tensor:
        pair = fokker_planck_residual(
            model, z.repeat(repeats, 1), level(0.5).expand(8 * repeats), probes, seeded(1), create_graph=False
        )
        rows = zip(*(estimate.reshape(repeats, 1, 8) for estimate in pair), strict=True)
        return torch.stack([fokker_planck_loss(first, second, 4) for first, second in rows])

    exact = losses(4, 1)[0]
    residual = fokker_planck_residual(model, z, level(0.5).expand(8), 4, seeded(0), create_graph=False)[0]
    assert float(exact) == pytest.approx(float(residual.var()) / 8)
    for probes in (2, 3):
        values = losses(probes, 500)
        assert values.std() > 0
        assert_mean(values, exact)


def test_fokker_planck_needs_two_points() -> None:
    batch = a_batch(TRUTH, WIDTH, 8, 2, levels=2)
    term = objective("fokker_planck", TRUTH, SIGMA, WIDTH, batch.z[:, 0])
    with pytest.raises(ConfigError, match=r"training\.batch_size"):
        term.loss(problem(TRUTH, batch, SIGMA, WIDTH))


def test_energies_are_left_as_they_are_where_nothing_is_trained() -> None:
    """Held-out losses are numbers without a graph, equal to those of training on the same step."""
    batch = a_batch(TRUTH, WIDTH, 9, 64, levels=2)
    for name in ("time_score", "conditional_time_score", "info_nce", "rne", "fokker_planck"):
        theta = TRUE_THETA.clone().requires_grad_(True)
        term = objective(name, TRUTH, SIGMA, WIDTH, batch.z[:, 0])
        values = [
            float(term.loss(problem(Shifted(theta), batch, SIGMA, WIDTH, create_graph=graph)).detach())
            for graph in (True, False)
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-9)
