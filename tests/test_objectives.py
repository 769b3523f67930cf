"""Score matching: its regression target is unbiased for any mixing, noiseless for Gaussian data."""

import math

import pytest
import torch
from checks import assert_mean, level, mixture, seeded
from problems import objective, problem
from torch import Tensor, nn

from bgdiff.ladder.levels import noise_levels, overlap_windows, rung_spacing
from bgdiff.models import EnergyModel, GaussianModel, log_density_and_score
from bgdiff.objectives.batches import Batch, draw_batch
from bgdiff.objectives.diffclf import LOSSES
from bgdiff.objectives.score import conditional_score, curvature, mixed_score, weighted_score_loss

N = 100_000
TORUS = GaussianModel(
    torch.tensor([0.4, -3.0, 1.0]), torch.tensor([0.3, 1.2, 0.8]), torch.tensor([True, True, False])
)


def noised(model: EnergyModel, sigma: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clean data scores, noise, and noised points."""
    clean = model.sample(N, seeded(seed))  # type: ignore[attr-defined]
    noise = sigma * torch.randn(clean.shape, generator=seeded(seed + 1), dtype=torch.float64)
    return log_density_and_score(model, clean, level(0.0))[1], noise, clean + noise


def probes(z: Tensor) -> Tensor:
    """Test functions, periodic with 2π, ``(n, 6)``."""
    return torch.cat([torch.ones_like(z[:, :1]), z[:, :2].cos(), z[:, :2].sin(), (2 * z[:, :1]).cos()], -1)


def mixing(share: float | str, sigma: float, data_score: Tensor) -> tuple[Tensor, Tensor | None]:
    """The width that makes λ = σ²/(σ² + c) what we want, and the scores to mix in."""
    width = torch.ones_like(data_score[0])
    if share == "chosen":
        return curvature(data_score), data_score
    if share == 1:
        return width, None
    assert isinstance(share, float)
    return width * (sigma**2 * (1 / share - 1) if share else math.inf), data_score


@pytest.mark.parametrize("share", [0.0, 0.3, 1, "chosen"])
@pytest.mark.parametrize("sigma", [0.2, 1.5])
@pytest.mark.parametrize("model", [mixture(), TORUS], ids=["mixture", "torus"])
def test_target_is_unbiased(model: EnergyModel, sigma: float, share: float | str) -> None:
    """E[target φ(z)] = E[∇log p_σ(z) φ(z)] for any λ and any φ."""
    data_score, noise, z = noised(model, sigma, 10)
    width, mixed_in = mixing(share, sigma, data_score)
    sigmas = torch.full((N,), sigma, dtype=torch.float64)
    conditional = conditional_score(noise, sigmas, model.periodic)
    target, _ = mixed_score(conditional, mixed_in, sigmas, width)
    truth = log_density_and_score(model, z, level(sigma))[1]
    products = (target - truth)[:, :, None] * probes(z)[:, None]
    assert_mean(products.flatten(1), 0.0)


@pytest.mark.parametrize("sigma", [0.02, 0.5, 10.0])
def test_target_is_noiseless_for_gaussian_data(sigma: float) -> None:
    """With the width of the data, every single target is the exact score."""
    model = GaussianModel(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 2.0]))
    data_score, noise, z = noised(model, sigma, 20)
    sigmas = torch.full((N,), sigma, dtype=torch.float64)
    target, _ = mixed_score(
        conditional_score(noise, sigmas, model.periodic), data_score, sigmas, model.variance
    )
    truth = log_density_and_score(model, z, level(sigma))[1]
    assert torch.allclose(target, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.1, 0.6])
def test_chosen_mixing_is_quieter_than_either_end(sigma: float) -> None:
    """On a mixture it no longer is noiseless, but better than denoising and than target scores alone."""
    model = mixture()
    data_score, noise, z = noised(model, sigma, 30)
    truth = log_density_and_score(model, z, level(sigma))[1]
    sigmas = torch.full((N,), sigma, dtype=torch.float64)
    conditional = conditional_score(noise, sigmas, model.periodic)
    target, _ = mixed_score(conditional, data_score, sigmas, curvature(data_score))
    noise_of = [((estimate - truth) ** 2).mean() for estimate in (target, conditional, data_score)]
    assert noise_of[0] < 0.9 * min(noise_of[1:])


def test_curvature_is_the_width() -> None:
    model = GaussianModel(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 2.0]))
    z = model.sample(N, seeded(40))
    score = log_density_and_score(model, z, level(0.0))[1]
    width = curvature(score.float())
    assert width.dtype == torch.float64
    assert ((width / model.variance - 1).abs() < 4 * math.sqrt(2 / N)).all()


def test_weights() -> None:
    """σ² + c with scores, σ² without, row by row."""
    sigma = torch.tensor([0.1, 2.0], dtype=torch.float64)
    width = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    score = torch.ones(2, 3, dtype=torch.float64)
    _, weight = mixed_score(score, score, sigma, width)
    assert torch.equal(weight, sigma[:, None] ** 2 + width)
    target, weight = mixed_score(score, None, sigma, width)
    assert torch.equal(weight, (sigma**2)[:, None].expand(2, 3))
    assert target is score


def test_weighted_loss() -> None:
    score, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert float(weighted_score_loss(score, target, weight)) == pytest.approx((1 + 8 + 3) / 4)


RUNGS = 30
SIGMA = noise_levels(RUNGS, 0.1, 6.0)
WIDTH = torch.tensor([0.3, 1.2, 0.8], dtype=torch.float64)


def torus_batch(
    seed: int, *, groups: int = 500, lowest: int = 1, scores: bool = True, reach: float = 2.0
) -> Batch:
    windows = overlap_windows(SIGMA, WIDTH, reach, 2)
    z = TORUS.sample(4000, seeded(50))
    value, score = log_density_and_score(TORUS, z, level(0.0))
    return draw_batch(
        z, score if scores else None, value, SIGMA, TORUS.periodic, windows, rung_spacing(SIGMA, WIDTH),
        groups, 3, seeded(seed), lowest=lowest,
    )  # fmt: skip


def test_batches() -> None:
    """Points are noised data: clean point + displacement, wrapped, with the clean point's labels."""
    batch = torus_batch(60, lowest=0)
    assert batch.z.shape == batch.displacement.shape == (500, 3, 3)
    assert batch.rungs.shape == batch.data_log_density.shape == (500, 3)
    clean = batch.z - batch.displacement
    apart = clean - clean[:, :1]  # all points of a group come from one data point
    assert (torch.where(TORUS.periodic, torch.sin(apart / 2), apart).abs() < 1e-5).all()
    clean = clean.reshape(-1, 3)
    value, score = log_density_and_score(TORUS, clean, level(0.0))
    assert batch.data_score is not None
    assert torch.allclose(value, batch.data_log_density.flatten(), atol=1e-7)
    assert torch.allclose(score, batch.data_score.reshape(-1, 3), atol=1e-6)
    angles = batch.z[..., TORUS.periodic]
    assert ((angles >= -math.pi) & (angles < math.pi)).all()
    for rung in range(RUNGS + 1):
        noise = batch.displacement[batch.rungs == rung].flatten()
        assert len(noise)
        if rung == 0:
            assert (noise == 0).all()
        else:
            assert_mean((noise / SIGMA[rung]) ** 2, 1.0)
    assert torus_batch(61, scores=False).data_score is None
    assert int(torus_batch(62).rungs.min()) == 1
    assert torch.equal(torus_batch(63).z, torus_batch(63).z)


class Bent(nn.Module):
    """The exact ladder, and four ways to spoil it that vanish at θ = 0."""

    periodic = TORUS.periodic

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        share = 1 / (1 + sigma**2)
        bend = torch.stack(
            [z[:, 0].cos(), (z[:, 0] + z[:, 1]).sin(), z[:, 2] * share, z[:, 2] ** 2 * share], -1
        )
        return TORUS.log_density(z, sigma) + bend @ self.theta


def losses(model: Bent, batch: Batch, *names: str, offsets: Tensor | None = None) -> list[Tensor]:
    """Each objective's loss; with the target as rung 0 if the batch has points there."""
    clean = bool((batch.rungs == 0).any())
    target = (lambda z: TORUS.log_density(z, level(0.0))) if clean else None
    step = problem(model, batch, SIGMA, WIDTH, offsets=offsets, target=target)
    data = batch.z[:, 0]
    return [objective(name, model, SIGMA, WIDTH, data).loss(step) for name in names]


def loss_gradients(name: str | None, *, scores: bool, lowest: int) -> Tensor:
    """Gradients of both terms at the truth, of many small batches: ``(batches, 2 * 4 + rungs)``."""
    rows = []
    # the density ratio of forward KL has infinite variance between rungs whose widths differ by two
    reach = 0.3 if name == "forward_kl" else 2.0
    for seed in range(300):
        model, offsets = Bent(), torch.zeros(RUNGS + 1, dtype=torch.float64, requires_grad=True)
        batch = torus_batch(1000 + seed, groups=60, lowest=lowest, scores=scores, reach=reach)
        if name is None:
            (score,) = losses(model, batch, "mixed_score", offsets=offsets)
            row = [torch.autograd.grad(score, model.theta)[0]]
        else:
            score, other = losses(model, batch, "mixed_score", name, offsets=offsets)
            row = [torch.autograd.grad(score, model.theta, retain_graph=True)[0]]
            row += torch.autograd.grad(other, [model.theta, offsets])
        rows.append(torch.cat(row))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("name", "scores", "lowest"),
    [
        (None, False, 1),
        *((name, True, 1) for name in LOSSES),
        ("bi_level", True, 0),
        ("multi_level", True, 0),
    ],
)
def test_the_truth_is_stationary(name: str | None, scores: bool, lowest: int) -> None:
    """At the exact ladder no term of the loss pushes anywhere, on average: every variant is consistent."""
    gradients = loss_gradients(name, scores=scores, lowest=lowest)
    pushed = gradients.std(0) > 0
    assert pushed.sum() >= gradients.shape[1] - lowest  # rung 0 is never drawn unless it may be
    assert_mean(gradients[:, pushed], 0.0)


def test_spoiling_the_ladder_raises_the_loss() -> None:
    batch = torus_batch(70, groups=2000)
    names = ("mixed_score", "denoising_score", "bi_level")
    right, spoilt = Bent(), Bent()
    with torch.no_grad():
        spoilt.theta.copy_(torch.tensor([0.5, 0.3, 0.4, -0.2]))
    for before, after in zip(losses(right, batch, *names), losses(spoilt, batch, *names), strict=True):
        assert after > before


def test_clean_points_have_no_part_in_score_matching() -> None:
    """The score term is the mean over the noisy points, computed here one by one."""
    batch = torus_batch(80, groups=120, lowest=0)
    assert (batch.rungs == 0).any()
    assert batch.data_score is not None
    model = Bent()
    mixed, denoising = losses(model, batch, "mixed_score", "denoising_score")
    totals, count = [0.0, 0.0], 0
    for g in range(120):
        for a in range(3):
            if batch.rungs[g, a] == 0:
                continue
            sigma = level(SIGMA[batch.rungs[g, a]])
            conditional = conditional_score(batch.displacement[g, a][None], sigma, TORUS.periodic)
            score = log_density_and_score(model, batch.z[g, a][None], sigma)[1]
            for index, known in enumerate((batch.data_score[g, a][None], None)):
                target, weight = mixed_score(conditional, known, sigma, WIDTH)
                totals[index] += float((weight * (score - target) ** 2).sum())
            count += 3
    assert mixed.item() == pytest.approx(totals[0] / count, rel=1e-9)
    assert denoising.item() == pytest.approx(totals[1] / count, rel=1e-9)


def test_values_at_the_points_are_shared_and_no_dearer_than_asked_for() -> None:
    """Energies without scores where no term needs scores; the same numbers once one does."""
    batch, model = torus_batch(90, groups=20), Bent()
    step = problem(model, batch, SIGMA, WIDTH)
    alone = step.own_log_density()
    assert step.own_log_density() is alone
    value, score = step.own()
    assert step.own_log_density() is value is step.own()[0]
    torch.testing.assert_close(value, alone)
    expected = log_density_and_score(model, batch.z.reshape(-1, 3), SIGMA[batch.rungs].reshape(-1))
    torch.testing.assert_close((value.detach(), score.detach()), expected)
    looked_at = problem(model, batch, SIGMA, WIDTH, create_graph=False)
    assert not looked_at.own_log_density().requires_grad
    assert not looked_at.own()[1].requires_grad
