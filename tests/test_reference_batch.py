"""Targets and labels averaged over the sources of a point: the mean of those of the draw, less scatter."""

import math
from dataclasses import replace

import pytest
import torch
from checks import assert_mean, level, seeded, z_scores
from ladders import torus_and_plane
from objective_families import AT_TRUTH, PERTURBED, SIGMA, assert_minimum_at_truth, family
from problems import objective, problem
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.densities import wrapped
from bgdiff.ladder.levels import overlap_windows, rung_spacing
from bgdiff.ladder.wrapped import wrapped_normal_log_prob
from bgdiff.models import log_density_and_score
from bgdiff.objectives import Problem, make_objective
from bgdiff.objectives.batches import Batch, draw_batch
from bgdiff.objectives.diffclf import LOSSES
from bgdiff.objectives.noising import log_kernels
from bgdiff.objectives.reference_batch import log_rung_weights, source_weights
from bgdiff.objectives.registry import check_options
from bgdiff.objectives.score import averaged_scores, conditional_score

TRUTH = torus_and_plane()
WIDTH = torch.full((4,), 0.4, dtype=torch.float64)


def step(groups: int, n: int, seed: int, *, lowest: int = 1, scores: bool = True) -> Problem:
    """A training step on exact samples of two modes with real and periodic axes."""
    data = TRUTH.sample(groups, seeded(seed))
    values, data_score = log_density_and_score(TRUTH, data, level(0.0))
    windows, spacing = overlap_windows(SIGMA, WIDTH, 9.0, n - 1), rung_spacing(SIGMA, WIDTH)
    batch = draw_batch(
        data, data_score if scores else None, values, SIGMA, TRUTH.periodic, windows, spacing, groups, n,
        seeded(seed + 1), lowest=lowest,
    )  # fmt: skip
    return problem(TRUTH, batch, SIGMA, WIDTH, seed=seed, target=lambda z: TRUTH.log_density(z, level(0.0)))


def test_kernels_by_single_densities() -> None:
    z, clean = TRUTH.sample(7, seeded(1)), TRUTH.sample(5, seeded(2)) + 4 * math.pi * TRUTH.periodic
    sigma = torch.linspace(0.05, 3.0, 7, dtype=torch.float64)
    found = log_kernels(z, sigma, clean, TRUTH.periodic)
    for i in range(7):
        for j in range(5):
            off = z[i] - clean[j]
            real = torch.distributions.Normal(torch.zeros_like(sigma[i]), sigma[i]).log_prob(off[:2]).sum()
            angle = wrapped_normal_log_prob(off[2:], sigma[i] ** 2).sum()
            assert float(found[i, j]) == pytest.approx(float(real + angle), rel=1e-9, abs=1e-9)


def test_kernels_keep_their_precision_at_little_noise() -> None:
    """Distances of 10⁻³ between points of length 100, in single precision as in training."""
    clean = 10 * torch.randn(20, 100, generator=seeded(3))
    noise = 1e-3 * torch.randn(20, 100, generator=seeded(4))
    z = clean + noise
    periodic = torch.zeros(100, dtype=torch.bool)
    own = log_kernels(z, torch.full((20,), 1e-3), clean, periodic).diagonal()
    exact = (z.double() - clean.double()).square().sum(1)
    expected = -0.5 * exact / 1e-6 - 50 * math.log(2 * math.pi * 1e-6)
    assert torch.allclose(own, expected, atol=1e-3)


def test_sources_of_blocks() -> None:
    """Every block knows only its own groups; rows sum to one; little noise leaves no doubt."""
    whole = step(10, 2, 5)
    found = source_weights(whole, 4)
    assert [(p.start, p.stop, g.start, g.stop) for p, g, _ in found] == [
        (0, 8, 0, 4), (8, 16, 4, 8), (16, 20, 8, 10),
    ]  # fmt: skip
    assert all(torch.allclose(w.sum(1), torch.ones(len(w)).double()) for _, _, w in found)
    kernel = log_kernels(whole.points[8:16], whole.level[8:16], whole.sources[4:8], TRUTH.periodic)
    assert torch.allclose(found[1][2], kernel.exp() / kernel.exp().sum(1, keepdim=True))
    sharp = replace(whole, sigma=SIGMA * 1e-3, batch=_shrunk(whole.batch, 1e-3))
    clean = wrapped(whole.sources, TRUTH.periodic)
    same = ((clean[:, None] - clean).abs().amax(-1) < 1e-9).to(torch.float64)  # some were drawn twice
    own = (same / same.sum(1, keepdim=True)).repeat_interleave(2, 0)
    assert torch.allclose(source_weights(sharp, 10)[0][2], own)


def _shrunk(batch: Batch, factor: float) -> Batch:
    clean = batch.z - batch.displacement
    displacement = factor * batch.displacement
    return replace(batch, z=clean + displacement, displacement=displacement)


def test_one_block_of_one_is_the_draw_itself() -> None:
    whole = step(30, 2, 6)
    conditional, data_score = averaged_scores(whole, 1)
    assert torch.allclose(conditional, conditional_score(whole.displacement, whole.level, TRUTH.periodic))
    assert data_score is not None
    assert whole.batch.data_score is not None
    assert torch.allclose(data_score, whole.batch.data_score.flatten(0, 1))
    weights = log_rung_weights(whole, 1)
    for loss in LOSSES.values():  # even then a point may have come from its group's other rungs
        logits = torch.randn(30, 2, 2, generator=seeded(7), dtype=torch.float64)
        assert not torch.allclose(loss(logits, weights), loss(logits, None))


@pytest.mark.parametrize("size", [2, 40])
def test_averaged_scores_are_unbiased_and_scatter_less(size: int) -> None:
    """E[(target - ∇log p_σ) φ(z)] = 0 for any φ, of both estimates; points of a step are not independent."""
    means: dict[str, list[Tensor]] = {"noise": [], "forces": []}
    scatter: dict[str, list[Tensor]] = {"noise": [], "forces": []}
    plain: dict[str, list[Tensor]] = {"noise": [], "forces": []}
    for repeat in range(150):
        whole = step(40, 2, 100 + 10 * repeat)
        conditional, data_score = averaged_scores(whole, size)
        assert data_score is not None
        truth = whole.own()[1].detach()
        z = whole.points
        probe = torch.stack([z[:, 0] * 0 + 1, z[:, 0], z[:, 2].cos(), z[:, 3].sin(), z[:, 0] * z[:, 1]], -1)
        for name, target in (("noise", conditional), ("forces", data_score)):
            off = target - truth
            means[name].append((off[:, :, None] * probe[:, None]).mean(0).flatten())
            scatter[name].append(off.square().mean())
        own = conditional_score(whole.displacement, whole.level, TRUTH.periodic)
        assert whole.batch.data_score is not None
        for name, target in (("noise", own), ("forces", whole.batch.data_score.flatten(0, 1))):
            plain[name].append((target - truth).square().mean())
    for name in means:
        assert_mean(torch.stack(means[name]), 0.0)
        less = torch.stack(plain[name]) - torch.stack(scatter[name])
        assert float(z_scores(less, 0.0)) > 10
        if size == 40:
            assert float(torch.stack(scatter[name]).mean() / torch.stack(plain[name]).mean()) < 0.7


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_averaged_labels_are_unbiased_and_scatter_less(name: str, n: int) -> None:
    """A step's loss and its gradient in the offsets. (The gradient's variance may grow: each rung of a group
    has just one point, so that errors of what they tell cancel.)"""
    loss = LOSSES[name]
    pairs = []
    for repeat in range(200):
        whole = step(40, n, 20_000 + 10 * repeat)
        f = torch.tensor([0.0, 0.3, -0.2, 0.0], dtype=torch.float64, requires_grad=True)
        values = []
        for weights in (None, log_rung_weights(whole, 40)):
            value = loss(_logits(whole, f), weights)
            (gradient,) = torch.autograd.grad(value, f)
            values.append(torch.cat([value.detach().reshape(1), gradient[1:3]]))
        pairs.append(torch.stack(values))
    both = torch.stack(pairs)
    assert_mean(both[:, 1] - both[:, 0], 0.0)
    variance = both.var(0)
    assert float(variance[1, 0]) < 0.7 * float(variance[0, 0]), variance


def _logits(whole: Problem, f: Tensor) -> Tensor:
    """Of a wrong model: the modes of the truth are wider."""
    groups, n, d = whole.batch.z.shape
    z = whole.batch.z[:, :, None].expand(groups, n, n, d).reshape(-1, d)
    rungs = whole.batch.rungs[:, None].expand(groups, n, n).reshape(-1)
    values = TRUTH.log_density(z, 1.2 * SIGMA[rungs])
    return (values + f[rungs]).reshape(groups, n, n)


def test_averaged_labels_are_bayes_rule() -> None:
    """P(rung | point, its group's rungs, the data points) by enumeration of sources and rungs."""
    whole = step(6, 3, 8)
    weights = log_rung_weights(whole, 6).softmax(-1)
    for g in range(6):
        for a in range(3):
            joint = torch.zeros(3, dtype=torch.float64)
            for b in range(3):
                sigma = SIGMA[whole.batch.rungs[g, b]].reshape(1)
                for source in whole.sources:
                    joint[b] += log_kernels(whole.batch.z[g, a][None], sigma, source[None], TRUTH.periodic)[
                        0, 0
                    ].exp()
            assert torch.allclose(weights[g, a], joint / joint.sum())


def test_clean_points_keep_their_label() -> None:
    """Rung 0 is told by the target alone: no noised point can be clean, and no clean one noised."""
    whole = step(40, 3, 9, lowest=0)
    clean = whole.batch.rungs == 0
    assert bool(clean.any())
    weights = log_rung_weights(whole, 40).softmax(-1)
    own = torch.eye(3, dtype=torch.float64)
    for g, a in clean.nonzero().tolist():
        assert torch.equal(weights[g, a], own[a])
        assert float(weights[g, :, a].sum()) == 1
    # where the target forbids a geometry, nothing becomes undefined
    logits = torch.randn(40, 3, 3, generator=seeded(1), dtype=torch.float64)
    forbidden = clean[:, None, :] & ~torch.eye(3, dtype=torch.bool)
    logits = logits.masked_fill(forbidden, -torch.inf).requires_grad_(True)
    for name in ("bi_level", "multi_level", "jensen_shannon"):
        value = LOSSES[name](logits, log_rung_weights(whole, 40))
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["mixed_score", "denoising_score", "bi_level", "multi_level"])
def test_averaged_objectives_have_their_minimum_at_the_truth(name: str) -> None:
    gradients = []
    for theta in (AT_TRUTH, PERTURBED):
        rows = []
        for repeat in range(40):
            at = theta.clone().requires_grad_(True)
            whole = replace(step(80, 2, 50_000 + 10 * repeat), model=family(at))
            term = objective(name, TRUTH, SIGMA, WIDTH, whole.sources, options={"reference_batch": 50})
            # the family's rungs are known up to constants, which the offsets take up
            constant = torch.sin(3 * SIGMA) * at[5]
            whole = replace(whole, offsets=-constant)
            (row,) = torch.autograd.grad(term.loss(whole), at)
            rows.append(row)
        gradients.append(torch.stack(rows))
    assert_minimum_at_truth(*gradients)


def test_forces_do_not_matter_to_denoising() -> None:
    with_forces, without = step(20, 2, 11), step(20, 2, 11, scores=False)
    values = [
        make_objective("denoising_score", _setup(p), {"reference_batch": 20}).loss(p)
        for p in (with_forces, without)
    ]
    assert torch.equal(*values)
    mixed = [
        make_objective("mixed_score", _setup(p), {"reference_batch": 20}).loss(p)
        for p in (with_forces, without)
    ]
    assert not torch.equal(*mixed)


def _setup(whole: Problem):  # type: ignore[no-untyped-def]
    from bgdiff.objectives import Setup

    return Setup(TRUTH, SIGMA, WIDTH, whole.sources, None, 40, seeded(0))


def test_a_block_holds_at_least_one_data_point() -> None:
    with pytest.raises(ConfigError, match="reference_batch"):
        check_options("bi_level", {"reference_batch": 0})
    assert check_options("mixed_score", {"reference_batch": 64}) == {"reference_batch": 64}


def test_labels_in_the_preserving_picture() -> None:
    """Of x = z/√(1+σ²): the same as from the densities of x at each rung."""
    from benchmarks.objectives.mixtures import two_modes
    from benchmarks.objectives.preserving import linear_vp_levels, preserving

    truth, sigma = two_modes(3), linear_vp_levels(8)
    clean = truth.sample(12, seeded(1))
    rungs = torch.stack([torch.randperm(8, generator=seeded(i))[:2] + 1 for i in range(12)])
    displacement = sigma[rungs][..., None] * torch.randn(12, 2, 3, generator=seeded(2), dtype=torch.float64)
    batch = Batch(clean[:, None] + displacement, displacement, None, torch.zeros(12, 2), rungs)
    model = TRUTH.parts[0]
    real = type(model)(torch.zeros(3), torch.ones(3), torch.zeros(3, dtype=torch.bool))
    seen = preserving(Problem(real, torch.zeros(9), sigma, torch.ones(3), batch, seeded(3)))
    assert torch.allclose(seen.sources, clean)
    weights = log_rung_weights(seen, 12)
    x, size = seen.batch.z, (1 + sigma[rungs] ** 2).sqrt()
    for g in range(12):
        for a in range(2):
            for b in range(2):
                its = torch.distributions.Normal(clean / size[g, b], sigma[rungs[g, b]] / size[g, b])
                expected = its.log_prob(x[g, a]).sum(1).logsumexp(0)
                assert float(weights[g, a, b]) == pytest.approx(float(expected), abs=1e-8)
