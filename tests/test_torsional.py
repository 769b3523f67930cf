"""Reverse steps that follow the torsions: the fit finds known curvatures, exact weights scatter less."""

import math
from dataclasses import replace

import pytest
import torch
from checks import assert_mean, seeded
from ladders import ModelTarget, torus_and_plane
from torch import Tensor

import bgdiff
from bgdiff.config import make_config
from bgdiff.generator import BoltzmannGenerator
from bgdiff.ladder.kernels import reverse_step
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.paths import Ladder, measure_curvature, measure_moments
from bgdiff.ladder.torsional import fit_curvature, smooth_curvature, torsion_features
from bgdiff.models import EnergyNetwork, NetworkShape
from bgdiff.preparation import fit_coordinates

PERIODIC = torch.tensor([False, True, True])


class Wheels:
    """log p̃ = -½ z_0² (2 + cos z_1) + 3 cos z_1 + cos(2 z_2 - z_1): curvatures are known."""

    periodic = PERIODIC

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        x, first, second = z.to(torch.float64).T
        return -0.5 * x**2 * (2 + first.cos()) + 3 * first.cos() + torch.cos(2 * second - first)


def points(n: int) -> Tensor:
    generator = seeded(1)
    angle = (2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1) * math.pi
    return torch.cat([0.3 * torch.randn(n, 1, generator=generator, dtype=torch.float64), angle], 1)


def test_features_are_waves_of_the_torsions() -> None:
    z = points(5)
    features = torsion_features(z, PERIODIC)
    assert features.shape == (5, 1 + 6 * 2)
    columns = [torch.ones(5, 1).double()]
    for m in (1, 2, 3):
        columns += [torch.cos(m * z[:, 1:]), torch.sin(m * z[:, 1:])]
    torch.testing.assert_close(features, torch.cat(columns, 1))
    turned = z + torch.tensor([0.0, 2 * math.pi, -2 * math.pi], dtype=torch.float64)
    torch.testing.assert_close(torsion_features(turned, PERIODIC), features, atol=1e-12, rtol=0)


def test_the_fit_finds_the_curvature() -> None:
    z = points(20_000)
    found = torsion_features(z, PERIODIC) @ fit_curvature(Wheels(), z, torch.ones(1), seeded(2))
    x, first, second = z.T
    exact = torch.stack(
        [(3 - 0.5 * x**2) * first.cos() + torch.cos(2 * second - first), 4 * torch.cos(2 * second - first)], 1
    )
    # E[x²] = 0.09; products of waves of both torsions are beyond a sum of waves of each
    reachable = torch.stack([(3 - 0.5 * 0.09) * first.cos(), torch.zeros_like(x)], 1)
    assert (found - reachable).std(0).max() < 0.1
    assert found.mean(0).abs().max() < 1e-9  # the mean belongs to E[s²]
    assert (exact - exact.mean(0) - found).var(0)[0] < 0.2 * exact.var(0)[0]


def test_smoothing_averages_neighbours_on_the_right_scale() -> None:
    sigma = noise_levels(9, 0.1, 5.0)
    flat = torch.full((9, 4, 2), 3.0, dtype=torch.float64) / (1 + sigma[1:] ** 2)[:, None, None]
    torch.testing.assert_close(smooth_curvature(sigma, flat), flat)
    spike = torch.zeros(9, 4, 2, dtype=torch.float64)
    spike[4, 1, 0] = 1 / (1 + float(sigma[5]) ** 2)
    smoothed = smooth_curvature(sigma, spike) * (1 + sigma[1:] ** 2)[:, None, None]
    torch.testing.assert_close(
        smoothed[:, 1, 0], torch.tensor([0, 0, 1, 1, 1, 1, 1, 0, 0]).double() / 5, atol=1e-12, rtol=0
    )
    two = noise_levels(2, 0.1, 5.0)
    assert smooth_curvature(two, torch.ones(2, 4, 2).double()).shape == (2, 4, 2)


def test_local_variances_stay_near_the_mean_one() -> None:
    moment, local = torch.tensor([0.5, 0.5]), torch.tensor([[0.6, 0.4], [1.99, -30.0]])
    step = reverse_step(0.5, moment, torch.zeros(2).bool(), local)
    mean = 0.5 * 0.75
    expected = torch.tensor([[0.5 * 0.7, 0.5 * 0.8], [mean / 2, mean * 2]])
    torch.testing.assert_close(step.variance, expected)


def ladders(n_rungs: int, shift: float = 0.0) -> tuple[Ladder, Ladder]:
    """Of the mixture on torus and plane: with variances that follow the torsions, and without."""
    model, sigma = torus_and_plane(shift), noise_levels(n_rungs, 0.05, 6.0)
    z = model.sample(8000, seeded(3))
    plain = Ladder(model, sigma, measure_moments(model, sigma, z, seeded(4)))
    return replace(plain, torsional=measure_curvature(model, sigma, z, seeded(5))), plain


def test_path_weights_scatter_less() -> None:
    following, plain = ladders(40)
    z = torus_and_plane().sample(4000, seeded(6))
    ours, theirs = (float(one.step_variances(z, seeded(7)).sum()) for one in (following, plain))
    assert ours < 0.75 * theirs


@pytest.mark.parametrize("up", [False, True])
def test_log_z_stays_unbiased(up: bool) -> None:
    following, _ = ladders(8, shift=0.4)
    target = ModelTarget(torus_and_plane())
    generator = seeded(8)
    if up:  # exact samples noised: E[1/W] = 1/Z
        z = torus_and_plane().sample(200 * 100, generator)
        log_weight = target.log_density(z) + following.walk_up(z, generator).log_ratio
        assert_mean(torch.exp(target.log_z - log_weight).reshape(200, 100).mean(1), 1.0)
    else:
        paths = following.walk_down(200 * 100, generator)
        log_weight = target.log_density(paths.z) + paths.log_ratio
        assert_mean(torch.exp(log_weight - target.log_z).reshape(200, 100).mean(1), 1.0)


def test_other_rungs_interpolate() -> None:
    following, plain = ladders(20)
    same = following.at(following.sigma)
    torch.testing.assert_close(same.torsional, following.torsional)
    torch.testing.assert_close(same.moments, following.moments)
    assert plain.at(noise_levels(7, 0.05, 6.0)).torsional is None
    coarse = following.at(torch.cat([following.sigma[:1], following.sigma[1::2]]))
    assert following.torsional is not None
    torch.testing.assert_close(coarse.torsional, following.torsional[::2])


def test_no_torsions_no_fit() -> None:
    model = EnergyNetwork(torch.zeros(2).bool(), 0.1, 5.0, NetworkShape(8, 1, 1))
    z = torch.zeros(10, 2, dtype=torch.float64)
    assert measure_curvature(model, noise_levels(3, 0.1, 5.0), z, seeded(9)) is None


def test_a_saved_generator_walks_the_same_way(tmp_path) -> None:
    system = bgdiff.load_system("alanine_dipeptide_vacuum")
    x = system.load_data().x[::80]
    coordinates = fit_coordinates(system, x)
    config = make_config("quick")
    torch.manual_seed(1)
    model = EnergyNetwork(coordinates.periodic, 0.02, 12.0, NetworkShape(16, 1, 2)).requires_grad_(False)
    torch.nn.init.normal_(model.leave.weight, std=0.1)
    sigma = noise_levels(6, 0.02, 12.0)
    z, _ = coordinates.to_z(x)
    ladder = Ladder(
        model,
        sigma,
        measure_moments(model, sigma, z, seeded(1)),
        measure_curvature(model, sigma, z, seeded(2)),
    )
    zeros = torch.zeros(7, dtype=torch.float64)
    generator = BoltzmannGenerator(system, coordinates, ladder, zeros, sigma.clone(), config)
    generator.save(tmp_path / "generator.safetensors")
    loaded = BoltzmannGenerator.load(tmp_path / "generator.safetensors", system)
    ours, theirs = generator.walk(0, 20, seed=3), loaded.walk(0, 20, seed=3)
    assert torch.equal(ours.z, theirs.z)
    assert torch.equal(ours.log_ratio, theirs.log_ratio)
    without = replace(ladder, torsional=None).walk_down(20, seeded(1)).log_ratio
    assert not torch.equal(ladder.walk_down(20, seeded(1)).log_ratio, without)
