"""Benchmarks of objectives: their truths are true, their measures measure."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_standard, level, seeded
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.models import GaussianMixtureModel, GaussianModel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _benchmarks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize("make", ["gmm40", "two_modes"])
def test_mixtures(make: str) -> None:
    """Standardised, with the density and the score that independent code gives."""
    from benchmarks.objectives import mixtures

    mixture = getattr(mixtures, make)(3)
    mean = mixture.weight @ mixture.mean
    assert torch.allclose(mean, torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(
        mixture.variance + mixture.weight @ mixture.mean**2, torch.ones(3, dtype=torch.float64)
    )
    covariances = mixture.variance.diag().expand(len(mixture.weight), 3, 3)
    other = GaussianMixtureModel(mixture.weight, mixture.mean, covariances)
    z = (mixture.sample(40, seeded(0)) + 0.3 * torch.randn(40, 3, generator=seeded(1))).requires_grad_(True)
    sigma = torch.rand(40, generator=seeded(2), dtype=torch.float64)
    expected = other.log_density(z, sigma)
    (score,) = torch.autograd.grad(expected.sum(), z)
    assert torch.allclose(mixture.log_density(z, sigma), expected, rtol=1e-10)
    assert torch.allclose(mixture.score(z, sigma), score, rtol=1e-8, atol=1e-8)
    assert torch.allclose(mixture.log_density(z, level(0.3)), other.log_density(z, level(0.3)), rtol=1e-9)


def exact_log_density_of_x(mixture: Any, x: Tensor, time: Tensor) -> Tensor:
    """log p_t(x) of the variance-preserving process, ``(B, T)``, written out without σ."""
    alpha = torch.exp(-0.5 * (0.1 * time + 0.5 * 19.9 * time**2))[:, None, None]
    variance = alpha**2 * mixture.variance + 1 - alpha**2
    off = x[:, None, None] - alpha * mixture.mean
    each = -0.5 * (off**2 / variance + torch.log(2 * math.pi * variance)).sum(-1)
    return torch.logsumexp(mixture.weight.log() + each, -1)


def test_classification_is_that_of_the_preserving_process() -> None:
    """Logits of the ladder's densities are those of the process, level by level."""
    from benchmarks.objectives.measures import _Exact, _held_out
    from benchmarks.objectives.mixtures import gmm40
    from benchmarks.objectives.preserving import linear_vp_levels, preserving_logits

    mixture, sigma = gmm40(4), linear_vp_levels(16)
    x, label = _held_out(mixture, sigma, 3, seeded(0))
    assert len(x) == 48
    assert label.bincount().tolist() == [3] * 16
    expected = exact_log_density_of_x(mixture, x, torch.linspace(1e-3, 1, 16, dtype=torch.float64))
    found = preserving_logits(_Exact(mixture), torch.zeros(17), sigma, x)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dim", "optimum"), [(8, 4.290), (128, 3.163)])
def test_optimum_of_the_classification(dim: int, optimum: float) -> None:
    """As published for this family; means drawn anew scatter it by about 0.01."""
    from benchmarks.objectives.measures import _Exact, _held_out
    from benchmarks.objectives.mixtures import gmm40
    from benchmarks.objectives.preserving import linear_vp_levels, preserving_logits

    mixture, sigma = gmm40(dim), linear_vp_levels()
    x, label = _held_out(mixture, sigma, 10, seeded(1))
    logits = preserving_logits(_Exact(mixture), torch.zeros(129), sigma, x)
    loss = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    error = math.hypot(float(loss.std()) / math.sqrt(len(loss)), 0.01)
    assert abs(float(loss.mean()) - optimum) < 4 * error


def test_best_offsets_are_those_of_mbar() -> None:
    """MBAR's equations, iterated to their fixed point."""
    from benchmarks.objectives.measures import best_offsets

    widths, n = torch.tensor([1.0, 1.6, 2.5], dtype=torch.float64), 200
    x = (widths[:, None] * torch.randn(3, n, generator=seeded(3), dtype=torch.float64)).reshape(-1)
    energy = -0.5 * x[:, None] ** 2 / widths**2
    found = best_offsets(energy, torch.arange(3).repeat_interleave(n))
    offsets = torch.zeros(3, dtype=torch.float64)
    for _ in range(500):
        mixture = torch.logsumexp(energy + offsets, -1)
        offsets = -torch.logsumexp(energy - mixture[:, None], 0)
        offsets = offsets - offsets[-1]
    assert torch.allclose(found - found[-1], offsets, atol=1e-4)


def test_mode_weights_against_quadrature() -> None:
    """Of a tilted density in one dimension, with calibrated errors."""
    from benchmarks.objectives.measures import mode_weight_errors
    from benchmarks.objectives.mixtures import two_modes

    mixture = two_modes(1)
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)[:, None]
    scores = []
    for seed, sigma in enumerate([0.05, 0.3, 0.8, 1.5] * 6):
        at = level(sigma).double()

        def tilt(z: Tensor) -> Tensor:
            return 0.6 * torch.sin(2 * z[:, 0]) + 0.2 * z[:, 0]

        density = (mixture.log_density(grid, at) + tilt(grid)).exp()
        true = mixture.component_log_density(grid, at)
        share = torch.softmax(true, -1)
        learned = (density[:, None] * share).sum(0)
        original = true.exp().sum(0)
        expected = (learned / original).log().diff()[0]
        z = mixture.sample(500, seeded(seed))
        z = z + sigma * torch.randn(z.shape, generator=seeded(100 + seed), dtype=torch.float64)
        responsibility = torch.softmax(mixture.component_log_density(z, at), -1)
        value, std = mode_weight_errors(tilt(z), responsibility)
        scores.append((value - float(expected)) / std)
    assert_standard(torch.tensor(scores))


def test_mode_weights_of_many() -> None:
    """The root mean square of known errors, and none where there are none."""
    from benchmarks.objectives.measures import mode_weight_errors

    component = torch.arange(8).repeat(500)
    responsibility = torch.nn.functional.one_hot(component).double()
    wrong = torch.linspace(-1, 1, 8, dtype=torch.float64)
    scatter = 0.3 * torch.randn(4000, generator=seeded(4), dtype=torch.float64)
    value, std = mode_weight_errors(wrong[component] + scatter, responsibility)
    assert abs(value - float((wrong - wrong.mean()).square().mean().sqrt())) < 4 * std
    assert std < 0.02
    value, std = mode_weight_errors(scatter, responsibility)
    assert value < 0.03


def test_measures_of_a_known_model() -> None:
    """A normal density that is too narrow: ESS, Fisher divergence and excess loss as computed by hand."""
    from benchmarks.objectives.measures import classify, measure_levels
    from benchmarks.objectives.mixtures import IsotropicMixture
    from benchmarks.objectives.preserving import linear_vp_levels

    one = torch.ones(2, dtype=torch.float64)
    truth = IsotropicMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64), one)
    sigma = linear_vp_levels(4)
    model = GaussianModel(torch.zeros(2), torch.full((2,), 0.7))
    found = measure_levels(model, sigma, truth, 20_000, 0)
    for index, noise in enumerate(sigma[1:].tolist()):
        true, learned = 1 + noise**2, 0.7 + noise**2
        second = true / math.sqrt(learned * (2 * true - learned))  # E[w²] = ∫ q²/p per axis
        assert found.ess[index] == pytest.approx(1 / second**2, rel=0.03)
        expected = (1 / true - 1 / learned) ** 2 * true * (1 + noise**2)
        assert found.fisher[index] == pytest.approx(expected, rel=0.05)
    exact = GaussianModel(torch.zeros(2), one)
    known = classify(exact, torch.zeros(5), sigma, truth, 20, 0)
    assert known.loss == pytest.approx(known.chance, abs=1e-6)  # all levels are the same density of x
    assert known.excess == pytest.approx(0, abs=1e-6)
    assert known.chance == pytest.approx(math.log(4))


def test_diffclf_in_the_preserving_picture() -> None:
    """Groups are told apart as points of x, whatever the ladder does to their sizes."""
    from benchmarks.objectives.fitting import choose_levels, level_positions
    from benchmarks.objectives.preserving import linear_vp_levels, preserving
    from bgdiff.objectives.base import Problem
    from bgdiff.objectives.batches import Batch
    from bgdiff.objectives.diffclf import classification_logits

    sigma, model = linear_vp_levels(8), GaussianModel(torch.zeros(3), torch.full((3,), 0.5))
    rungs = choose_levels(level_positions(sigma, torch.full((3,), 0.5))[0], 5, 4, 0.5, seeded(0))
    assert all(len(set(row)) == 4 for row in rungs.tolist())
    assert int(rungs.min()) >= 1
    assert int(rungs.max()) <= 8
    displacement = sigma[rungs][..., None] * torch.randn(5, 4, 3, generator=seeded(1), dtype=torch.float64)
    batch = Batch(displacement + 0.2, displacement, None, torch.zeros(5, 4), rungs)
    problem = preserving(Problem(model, torch.zeros(9), sigma, torch.ones(3), batch, seeded(2)))
    own = problem.own_log_density().reshape(5, 4)
    logits = classification_logits(problem.model, problem.offsets, sigma, problem.batch, own)
    variance = (0.5 + sigma**2) / (1 + sigma**2)  # of x
    x = batch.z / (1 + sigma[rungs] ** 2).sqrt()[..., None]
    its = variance[rungs][:, None, :]
    expected = -0.5 * (x**2).sum(-1)[..., None] / its - 1.5 * torch.log(2 * math.pi * its)
    assert torch.allclose(logits, expected.to(logits.dtype), rtol=1e-6, atol=1e-6)


def test_levels_are_drawn_evenly_in_position() -> None:
    from benchmarks.objectives.fitting import choose_levels, level_positions
    from benchmarks.objectives.preserving import linear_vp_levels

    sigma = linear_vp_levels(32)
    position, total = level_positions(sigma, torch.full((5,), 0.0025))
    assert (float(position[0]), float(position[-1])) == (0.0, pytest.approx(1))
    assert bool((position.diff() > 0).all())
    # all of the length lies where the noise has not covered the modes' widths yet
    variance = (0.0025 + sigma[1:] ** 2) / (1 + sigma[1:] ** 2)
    length = (variance.log() - variance.log()[0]) / (variance.log()[-1] - variance.log()[0])
    assert torch.allclose(position, 0.5 * torch.linspace(0, 1, 32).double() + 0.5 * length, atol=1e-9)
    # N(0, v) of five axes is √(5/2) |Δ ln v| long
    assert total == pytest.approx(2.5**0.5 * float(variance[-1].log() - variance[0].log()))
    one = choose_levels(position, 20_000, 1, 0.5, seeded(0))[:, 0] - 1
    step = position.diff()
    share = torch.cat([step, step[-1:]]) + torch.cat([step[:1], step])
    share = share / share.sum()
    z = (one.bincount(minlength=32) / 20_000 - share) / (share / 20_000).sqrt()
    assert float(z.abs().max()) < 4
    equal, nothing = level_positions(sigma, torch.ones(5))
    assert torch.allclose(equal, torch.linspace(0, 1, 32).double())
    assert nothing == 0


def test_groups_reach_from_neighbours_to_the_whole_ladder() -> None:
    from benchmarks.objectives.fitting import choose_levels

    position = torch.linspace(0, 1, 201, dtype=torch.float64)
    rungs = choose_levels(position, 4000, 2, 0.01, seeded(1)) - 1
    distance = (position[rungs[:, 0]] - position[rungs[:, 1]]).abs()
    for r in (0.05, 0.2, 0.5):  # no farther than the reach, which is farther with probability ln r/ln 0.01
        allowed = math.log(r) / math.log(0.01)
        assert float((distance > r).double().mean()) < allowed + 4 * (allowed / 4000) ** 0.5
    assert float((distance < 0.02).double().mean()) > 0.15
    assert float(distance.max()) > 0.7


def test_an_unknown_optimiser_is_refused() -> None:
    from benchmarks.objectives.fitting import Recipe, fit
    from benchmarks.objectives.mixture_study import stream_of
    from benchmarks.objectives.mixtures import two_modes
    from benchmarks.objectives.preserving import linear_vp_levels

    truth, recipe = two_modes(2), Recipe({"mixed_score": 1.0}, steps=1, optimiser="muone")
    with pytest.raises(ConfigError, match="recipe.optimiser: 'muone' is neither"):
        fit(stream_of(truth), linear_vp_levels(8), truth.width, recipe, 0)


def test_long_steps_of_a_ladder_are_divided() -> None:
    from benchmarks.objectives.fitting import level_positions, refined_levels
    from benchmarks.objectives.preserving import linear_vp_levels

    sigma, width = linear_vp_levels(64), torch.full((40,), 0.002)
    finer, given = refined_levels(sigma, width, 0.5)
    assert torch.equal(finer[given], sigma)
    assert bool((finer.diff() > 0).all())
    assert len(finer) > len(sigma)
    assert level_positions(finer, width)[1] == pytest.approx(level_positions(sigma, width)[1])
    log_variance = ((0.002 + finer[1:] ** 2) / (1 + finer[1:] ** 2)).log()
    assert float((log_variance.diff() * 20**0.5).max()) < 1.0  # evenly in ln σ, so not quite in length
    same, at = refined_levels(sigma, torch.ones(40), 0.5)  # nothing to divide
    assert torch.equal(same, sigma)
    assert torch.equal(at, torch.arange(65))


def test_planar_sets() -> None:
    """Standardised; where there must be no points there are none."""
    from benchmarks.objectives.planar_sets import PLANAR_SETS, standardised

    for name in PLANAR_SETS:
        z = standardised(name)(20_000, seeded(5))
        assert z.shape == (20_000, 2)
        assert z.mean(0).abs().max() < 4 * 1.5 / math.sqrt(20_000)
        assert float(z.var(0).mean()) == pytest.approx(1, rel=0.05)
    squares = PLANAR_SETS["checkerboard"](5000, seeded(6)).floor().long()
    assert set(((squares[:, 0] + squares[:, 1]) % 2).tolist()) == {0}
    assert len(set(map(tuple, squares.tolist()))) == 8
    radius = PLANAR_SETS["8 Gaussians"](5000, seeded(7)).norm(dim=1)
    assert float((radius - 2).abs().max()) < 0.9


def test_sinkhorn_distance() -> None:
    """Of shifted copies: the shift, up to what regularisation blurs."""
    from benchmarks.objectives.planar_study import sinkhorn_distance

    points = np.random.default_rng(0).normal(size=(60, 2))
    assert sinkhorn_distance(points, points + np.array([1.0, 0.0]), 0.02) == pytest.approx(1.0, abs=0.05)
