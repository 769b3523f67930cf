"""Sliced score matching and deep energy estimator networks against score matching and closed forms."""

import pytest
import torch
from checks import mixture, seeded, z_scores
from objective_families import (
    AT_TRUTH,
    PERTURBED,
    SIGMA,
    TRUTH,
    assert_minimum_at_truth,
    family,
    gradients,
    problem,
    setup,
)

from bgdiff.errors import ConfigError
from bgdiff.models import log_density_and_score
from bgdiff.objectives.deen import DEEN, denoising_energy
from bgdiff.objectives.registry import check_options, make_objective
from bgdiff.objectives.score import conditional_score, weighted_score_loss
from bgdiff.objectives.sliced import directional_curvature, sliced_score_matching


def test_curvature_is_the_weighted_trace() -> None:
    """Averaged over directions it is Σ_i w_i ∂_i s_i, from second derivatives by brute force."""
    model, z = mixture(), mixture().sample(3, seeded(1))
    sigma = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    weight = torch.tensor([[0.5, 2.0], [1.0, 1.0], [3.0, 0.1]], dtype=torch.float64)
    score, curvature = directional_curvature(model, z, sigma, weight, 400, seeded(2), create_graph=False)
    for i in range(3):
        hessian = torch.autograd.functional.hessian(
            lambda x, i=i: model.log_density(x[None], sigma[i : i + 1])[0], z[i]
        )
        truth = (weight[i] * hessian.diagonal()).sum()
        assert abs(float(z_scores(curvature[i], truth))) < 4
    assert torch.allclose(score, log_density_and_score(model, z, sigma)[1])


def test_rademacher_directions_are_exact_for_independent_axes() -> None:
    """A diagonal Hessian has no scatter at all: the loss is Hyvärinen's, ½ s² + s' per axis."""
    sigma = torch.full((50,), 0.4, dtype=torch.float64)
    z = TRUTH.parts[0].sample(50, seeded(3))
    weight = torch.ones_like(z)
    score, curvature = directional_curvature(TRUTH.parts[0], z, sigma, weight, 1, seeded(4))
    again = directional_curvature(TRUTH.parts[0], z, sigma, weight, 3, seeded(5))[1]
    assert torch.allclose(curvature, again, atol=1e-10)
    expected = (0.5 * score.square().sum(1) + curvature[:, 0]).mean() / z.shape[1]
    assert torch.allclose(sliced_score_matching(score, curvature, weight), expected)


def test_sliced_equals_explicit_score_matching_up_to_a_constant() -> None:
    """Differences between models are those of ½ E[w (s - ∇log p)²]."""
    level = 0.5
    n, sigma = 16_000, torch.full((16_000,), level, dtype=torch.float64)
    z = TRUTH.sample(n, seeded(6), level)
    weight = torch.tensor([1.0, 0.3, 0.6, 2.0], dtype=torch.float64).expand_as(z)
    truth_score = log_density_and_score(TRUTH, z, sigma)[1]
    gaps = []
    for theta in (torch.zeros_like(PERTURBED), PERTURBED):
        model = family(theta)
        score, curvature = directional_curvature(model, z, sigma, weight, 1, seeded(7), create_graph=False)
        gap = [
            sliced_score_matching(s, c, w) - 0.5 * weighted_score_loss(s, t, w)
            for s, c, t, w in zip(
                *(x.split(400) for x in (score, curvature, truth_score, weight)), strict=True
            )
        ]
        gaps.append(torch.stack(gap))
    difference = gaps[1] - gaps[0]
    assert abs(float(z_scores(difference, 0.0))) < 4
    assert float(difference.std()) < 1  # and it is not for lack of precision


def test_sliced_minimum_at_truth() -> None:
    objective = make_objective("sliced_score", setup(TRUTH, SIGMA), {"directions": 2})
    assert_minimum_at_truth(gradients(objective, AT_TRUTH), gradients(objective, PERTURBED))


def test_deen_minimum_at_truth_on_its_rung_alone() -> None:
    objective = make_objective("deen", setup(TRUTH, SIGMA), {"noise": 0.7})
    assert isinstance(objective, DEEN)
    assert objective.rung == 2
    assert_minimum_at_truth(gradients(objective, AT_TRUTH), gradients(objective, PERTURBED))


def test_deen_is_denoising_score_matching_at_one_rung() -> None:
    """On a batch that sits on one rung, with the same noise, the two losses are the same number."""
    sigma = SIGMA[[0, 2]]
    seen = problem(TRUTH, TRUTH.sample(300, seeded(8)), sigma, 9)
    score = seen.own()[1]
    conditional = conditional_score(seen.displacement, seen.level, TRUTH.periodic)
    ours = denoising_energy(score, conditional, seen.level)
    theirs = make_objective("denoising_score", setup(TRUTH, sigma)).loss(seen)
    assert torch.allclose(ours, theirs)
    # on real axes it is the squared error of the denoiser y + σ² s, in units of σ²
    real = ~TRUTH.periodic
    denoised = seen.points + seen.level[:, None] ** 2 * score
    error = ((denoised - seen.clean)[:, real] / seen.level[:, None]) ** 2
    assert torch.allclose(denoising_energy(score[:, real], conditional[:, real], seen.level), error.mean())


def test_deen_takes_the_lowest_rung_by_default() -> None:
    objective = make_objective("deen", setup(TRUTH, SIGMA))
    assert isinstance(objective, DEEN)
    assert objective.rung == 1


@pytest.mark.parametrize(("name", "wrong"), [("deen", {"noise": 0}), ("sliced_score", {"directions": 0})])
def test_options_are_checked(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{name}.{next(iter(wrong))}"):
        check_options(name, wrong)
