"""The score identity mixed direction by direction: unbiased whatever its functions, exact where it can be."""

import pytest
import torch
from checks import level, seeded
from torch import Tensor

from bgdiff.coordinates import MeanFreeCoordinates
from bgdiff.coordinates.mean_free import helmert
from bgdiff.models.pairs import noise_features
from bgdiff.objectives.mixing import PairMixing
from bgdiff.objectives.score import mixed_score

SHAPE, WIDTH = (4, 3), 0.5
DIM = (SHAPE[0] - 1) * SHAPE[1]


def random_mixing(spread: float) -> PairMixing:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        mixing = PairMixing(SHAPE, WIDTH, 0.02, 12.0, radial=6)
        for parameter in mixing.parameters():
            torch.nn.init.normal_(parameter, std=spread)
    return mixing.double().requires_grad_(False)


def noised(n: int, sigma: float, variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points of a harmonic cluster at noise σ, denoising targets, and scores of the clean points."""
    z0 = variance**0.5 * torch.randn(n, DIM, generator=seeded(2), dtype=torch.float64)
    noise = torch.randn(n, DIM, generator=seeded(3), dtype=torch.float64)
    return z0 + sigma * noise, -noise / sigma, -z0 / variance


def test_untrained_is_one_number_for_all_axes() -> None:
    mixing = PairMixing(SHAPE, WIDTH, 0.02, 12.0).double()
    z, conditional, data = noised(5, 0.4, WIDTH)
    width = torch.full((DIM,), WIDTH, dtype=torch.float64)
    sigma = level(0.4).expand(5)
    plain, weight = mixed_score(conditional, data, sigma, width)
    own, same = mixed_score(conditional, data, sigma, width, lambda v: mixing(z, sigma, v))
    torch.testing.assert_close(own.detach(), plain)
    assert torch.equal(same, weight)
    # data of that variance: the target is the score itself, without noise
    torch.testing.assert_close(plain, -z / (WIDTH + 0.4**2))


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_expectation_is_the_score_whatever_the_functions(sigma: float) -> None:
    """E[f(z) · (target - ∇log p_σ(z))] = 0 for every f; here those that the mixing itself is made of."""
    variance, n = 0.3, 10_000
    mixing, (z, conditional, data) = random_mixing(0.4), noised(n, sigma, variance)
    noise, width = level(sigma).expand(n), torch.full((DIM,), WIDTH, dtype=torch.float64)
    target, _ = mixed_score(conditional, data, noise, width, lambda v: mixing(z, noise, v))
    error = target + z / (variance + sigma**2)
    assert float(error.std()) > 0.02
    direction, distance = mixing.pairs.directions(z / (1 + sigma**2) ** 0.5)
    for f in (z, z.tanh(), *(mixing.pairs.gather(radial[..., None] * direction)
                             for radial in mixing.pairs.radial(distance).unbind(-1))):  # fmt: skip
        terms = (f * error).sum(1)
        assert abs(float(terms.mean() / (terms.std() / n**0.5))) < 4


def test_is_the_documented_matrix() -> None:
    """σ²/(σ² + c) [1 + (γ + Σ H(e_i - e_j) ⊗ (α r̂r̂ᵀ + β (1 - r̂r̂ᵀ)) (e_i - e_j)ᵀHᵀ)/(1 + σ²)], densely."""
    mixing, z = random_mixing(0.5), torch.randn(1, DIM, generator=seeded(10), dtype=torch.float64)
    sigma, n, dim = level(0.6), *SHAPE
    spread = 1 + float(sigma) ** 2
    radius, centres = mixing.pairs.width, mixing.pairs.centres
    numbers = mixing.leave(mixing.embed(noise_features(sigma, 0.02, 12.0)))[0]
    x = MeanFreeCoordinates(*SHAPE, 1.0).to_x(z)[0][0] / spread**0.5
    expected = numbers[0] * torch.eye(DIM, dtype=torch.float64)
    for i in range(n):
        for j in range(i + 1, n):
            apart = x[i] - x[j]
            r = (apart.square().sum() + 0.2**2).sqrt()
            alpha, beta = torch.exp(-0.5 * ((r - centres) / radius) ** 2) @ numbers[1:].reshape(-1, 2)
            # along is (r̂ · v) r̂ with the smoothed r̂, a little shorter than 1
            line = torch.outer(apart, apart) / r**2
            block = alpha * line + beta * (torch.eye(dim) - line)
            end = (helmert(n)[:, i] - helmert(n)[:, j])[:, None]
            expected += torch.kron(end @ end.T, block)
    unit = torch.eye(DIM, dtype=torch.float64)
    expected = float(sigma) ** 2 / (float(sigma) ** 2 + WIDTH) * (unit + expected / spread)
    found = mixing(z.expand(DIM, -1), sigma.expand(DIM), unit)
    torch.testing.assert_close(found, expected)


def test_is_linear_symmetric_and_turns_with_the_particles() -> None:
    mixing, coordinates = random_mixing(0.5), MeanFreeCoordinates(*SHAPE, 1.0)
    z, v, w = (torch.randn(20, DIM, generator=seeded(seed), dtype=torch.float64) for seed in (4, 5, 6))
    sigma = torch.logspace(-1, 1, 20, dtype=torch.float64)
    torch.testing.assert_close(
        mixing(z, sigma, 2 * v - w), 2 * mixing(z, sigma, v) - mixing(z, sigma, w), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close((w * mixing(z, sigma, v)).sum(1), (v * mixing(z, sigma, w)).sum(1))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=seeded(7), dtype=torch.float64))
    order = torch.tensor([2, 0, 3, 1])

    def changed(q: Tensor) -> Tensor:
        return coordinates.to_z(coordinates.to_x(q)[0][:, order] @ turn)[0]

    torch.testing.assert_close(mixing(changed(z), sigma, changed(v)), changed(mixing(z, sigma, v)))


def test_training_finds_the_stiff_directions() -> None:
    """Two particles that hardly stretch but turn freely: along the bond Λ → σ²/(σ² + c), across it → 0."""
    shape, sigma, bond, stiff = (2, 3), 0.2, 2.0, 0.01
    generator = seeded(8)
    coordinates = MeanFreeCoordinates(*shape, 1.0)

    def draw(n: int) -> tuple[Tensor, Tensor, Tensor]:
        axis = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1)
        length = bond + stiff**0.5 * torch.randn(n, 1, generator=generator)
        z0 = coordinates.to_z(torch.stack([0.5 * length * axis, -0.5 * length * axis], 1))[0]
        # radial density r² N(r): its score along the bond, in the latent's length r/√2
        slope = 2**0.5 * (2 / length - (length - bond) / stiff)
        noise = torch.randn(n, 3, generator=generator)
        return z0 + sigma * noise, -noise / sigma, slope * torch.nn.functional.normalize(z0, dim=1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        mixing = PairMixing(shape, 0.01, 0.02, 12.0)
    optimiser = torch.optim.Adam(mixing.parameters(), lr=0.02)
    noise = torch.full((256,), sigma)
    # the score of the blurred density is known where the bond is much longer than the noise
    for _ in range(150):
        z, conditional, data = draw(256)
        target = data + mixing(z, noise, conditional - data)
        radius = z.norm(dim=1, keepdim=True)
        known = (-(radius - bond / 2**0.5) / (stiff / 2 + sigma**2)) * z / radius
        optimiser.zero_grad()
        (target - known).square().mean().backward()
        optimiser.step()
    z, *_ = draw(256)
    along = torch.nn.functional.normalize(z, dim=1)
    across = torch.nn.functional.normalize(
        torch.linalg.cross(along, torch.randn(256, 3, generator=generator))
    )
    share = [(v * mixing(z, noise, v)).sum(1).mean().item() for v in (along, across)]
    assert abs(share[0] - sigma**2 / (sigma**2 + stiff / 2)) < 0.05
    assert abs(share[1]) < 0.2
