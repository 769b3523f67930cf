"""DiffCLF: hand-written values, minimisers that are the known normalisers, agreement with MBAR."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from checks import assert_mean, level, mixture, seeded
from torch import Tensor

from bgdiff.free_energy.quiet import pymbar, quietly
from bgdiff.ladder.levels import noise_levels, overlap_windows, rung_spacing
from bgdiff.models import log_density_and_score
from bgdiff.objectives.batches import Batch, choose_rungs, draw_batch
from bgdiff.objectives.diffclf import (
    LOSSES,
    bi_level,
    classification_logits,
    forward_kl,
    jensen_shannon,
    multi_level,
)

Loss = Callable[[Tensor], Tensor]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def by_hand(name: str, logits: np.ndarray) -> float:
    """The losses from their formulas, one term at a time."""
    n = logits.shape[-1]
    terms = []
    for ell in logits:
        if name == "multi_level":
            terms += [math.log(np.exp(ell[a]).sum()) - ell[a, a] for a in range(n)]
            continue
        for a in range(n):
            for b in range(a + 1, n):
                log_r_at_a, log_r_at_b = ell[a, a] - ell[a, b], ell[b, a] - ell[b, b]  # r = p_a / p_b
                if name == "forward_kl":  # E_b[r] - E_a[log r] - 1, and the same with a and b exchanged
                    one = math.exp(log_r_at_b) - log_r_at_a - 1
                    other = math.exp(-log_r_at_a) + log_r_at_b - 1
                    terms.append((one + other) / 2)
                else:
                    value = 0.5 * softplus(-log_r_at_a) + 0.5 * softplus(log_r_at_b)
                    terms.append(2 * value if name == "jensen_shannon" else value)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_values_by_hand(name: str, n: int) -> None:
    logits = torch.randn(4, n, n, generator=seeded(n), dtype=torch.float64)
    assert float(LOSSES[name](logits)) == pytest.approx(by_hand(name, logits.numpy()), rel=1e-12)


@pytest.mark.parametrize("n", [2, 4])
def test_chance_level(n: int) -> None:
    logits = torch.randn(5, n, 1, generator=seeded(0)).expand(5, n, n)  # every rung equally likely
    assert float(bi_level(logits)) == pytest.approx(math.log(2))
    assert float(multi_level(logits)) == pytest.approx(math.log(n))
    assert float(jensen_shannon(logits)) == pytest.approx(2 * math.log(2))
    assert float(forward_kl(logits)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_only_differences_of_logits_count(name: str) -> None:
    """What is common to the rungs, such as the density of the data itself, drops out point by point."""
    logits = torch.randn(4, 3, 3, generator=seeded(1), dtype=torch.float64)
    moved = logits + 50 * torch.randn(4, 3, 1, generator=seeded(2), dtype=torch.float64)
    assert torch.allclose(LOSSES[name](logits), LOSSES[name](moved), rtol=1e-10)


@pytest.mark.parametrize("name", ["bi_level", "multi_level", "jensen_shannon"])
def test_extreme_logits_are_finite(name: str) -> None:
    """Rungs that do not overlap at all, and a target that says a point is impossible."""
    logits = torch.tensor([[[0.0, -1e30], [-math.inf, 0.0]]], requires_grad=True)
    loss = LOSSES[name](logits)
    assert float(loss.detach()) == 0.0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    assert float(LOSSES[name](torch.tensor([[[0.0, 1e4], [0.0, 0.0]]]))) > 1e3


def shifts(sigma: Tensor) -> Tensor:
    """log Z of the rungs below: many kT, and not monotonous."""
    return 4 * torch.sin(2 * sigma) - 3 * sigma


class Shifted:
    """The mixture's ladder, each rung with a normaliser of its own."""

    periodic = torch.zeros(2, dtype=torch.bool)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return mixture().log_density(z, sigma) + shifts(sigma)


SIGMA = torch.tensor([0.0, 0.2, 0.6, 1.1, 2.0, 3.0], dtype=torch.float64)
TRUTH = (shifts(SIGMA[-1]) - shifts(SIGMA))[1:]  # f_k - f_K


def group_logits(groups: int, seed: int, rungs: list[int]) -> Tensor:
    """Logits with offsets 0: each group has one independent point of each of the rungs ``(G, n, n)``."""
    n = len(rungs)
    z0 = mixture().sample(groups * n, seeded(seed))
    noise = torch.randn(groups, n, 2, generator=seeded(seed + 1), dtype=torch.float64)
    z = (z0.reshape(groups, n, 2) + SIGMA[rungs][:, None] * noise).reshape(-1, 2)
    return torch.stack([Shifted().log_density(z, level(SIGMA[b])) for b in rungs], -1).reshape(groups, n, n)


def minimise(loss: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Offsets f ``(n,)`` with the last one 0."""
    free = torch.zeros(n - 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [free], max_iter=300, tolerance_grad=1e-11, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(torch.cat([free, free.new_zeros(1)]))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    closure()
    assert free.grad is not None
    assert float(free.grad.abs().max()) < 1e-7
    return torch.cat([free.detach(), torch.zeros(1, dtype=torch.float64)])


def fit(loss: Loss, logits: Tensor) -> Tensor:
    return minimise(lambda f: loss(logits + f), logits.shape[-1])


def mbar(logits: Tensor) -> Tensor:
    """pymbar's free energies of the same samples, with the last one 0."""
    with quietly():
        groups, n, _ = logits.shape
        u_kn = -logits.permute(2, 1, 0).reshape(n, n * groups).numpy()
        f = pymbar().MBAR(u_kn, np.full(n, groups), relative_tolerance=1e-12).f_k
    return torch.from_numpy(f - f[-1])


def test_the_multi_level_minimiser_is_mbar() -> None:
    """With every rung in every group the loss is reverse logistic regression, whose optimum MBAR solves."""
    logits = group_logits(2000, 100, [1, 2, 3, 4, 5])
    assert torch.allclose(fit(multi_level, logits), mbar(logits), atol=1e-6)


def test_the_bi_level_minimiser_of_two_rungs_is_mbar() -> None:
    logits = group_logits(2000, 110, [2, 4])
    ours = fit(bi_level, logits)
    assert torch.allclose(ours, mbar(logits), atol=1e-6)
    assert torch.allclose(ours, fit(multi_level, logits), atol=1e-7)


def test_jensen_shannon_has_the_bi_level_minimiser() -> None:
    logits = group_logits(500, 120, [1, 2, 3, 4, 5])
    assert torch.allclose(fit(jensen_shannon, logits), fit(bi_level, logits), atol=1e-6)


@pytest.mark.parametrize("name", ["bi_level", "multi_level"])
def test_minimisers_recover_known_normalisers(name: str) -> None:
    """Within their error, which repeated data sets tell; bi-level close to MBAR, sample by sample."""
    rungs = [1, 2, 3, 4, 5]
    repeats = [group_logits(600, 1000 + 10 * i, rungs) for i in range(24)]
    fits = torch.stack([fit(LOSSES[name], logits) for logits in repeats])
    assert_mean(fits[:, :-1], TRUTH[:-1])
    error = fits[:, :-1].std(0)
    assert (error < 0.3).all()
    best = torch.stack([mbar(logits) for logits in repeats[:8]])
    difference = (fits[:8] - best)[:, :-1]
    assert float((difference / error).square().mean().sqrt()) < 0.7, "most of the error is common to both"


def test_forward_kl_recovers_known_normalisers() -> None:
    """Between rungs that overlap well; the density ratio's variance must be finite for that."""
    rungs = [2, 3]
    fits = torch.stack([fit(forward_kl, group_logits(1500, 3000 + 10 * i, rungs)) for i in range(24)])
    assert_mean(fits[:, 0], TRUTH[1] - TRUTH[2])
    assert float(fits[:, 0].std()) < 0.1


LADDER = noise_levels(8, 0.15, 3.0)
LOG_Z = 2.5


def log_target(z: Tensor) -> Tensor:
    """The clean mixture with a normaliser that the classifier does not know."""
    return mixture().log_density(z, level(0.0)) + LOG_Z


def target_batch(seed: int, groups: int, n: int, *, lowest: int) -> Batch:
    z = mixture().sample(6000, seeded(seed))
    width = torch.full((2,), 0.4)
    windows, spacing = overlap_windows(LADDER, width, 1.5, n - 1), rung_spacing(LADDER, width)
    return draw_batch(
        z, None, log_target(z), LADDER, Shifted.periodic, windows, spacing, groups, n, seeded(seed + 1),
        lowest=lowest,
    )  # fmt: skip


def own_density(batch: Batch) -> Tensor:
    """What the score term hands on: log p̃ of every point at its own rung, anything at rung 0."""
    groups, n, d = batch.z.shape
    sigma = LADDER[batch.rungs].reshape(-1)
    own = log_density_and_score(Shifted(), batch.z.reshape(-1, d), sigma)[0].reshape(groups, n)
    return torch.where(batch.rungs == 0, math.nan, own)


@pytest.mark.parametrize("n", [2, 4])
def test_classification_against_the_target_learns_its_log_z(n: int) -> None:
    """f_0 - f_K = log Z_K - log Z_0: the known energy at rung 0 ties the ladder to the target."""
    truth = torch.cat([torch.tensor([LOG_Z], dtype=torch.float64), shifts(LADDER[1:])])
    truth = truth[-1] - truth
    loss = bi_level if n == 2 else multi_level
    fits = []
    for repeat in range(16):
        batch = target_batch(5000 + 10 * repeat, 3000, n, lowest=0)
        zero = torch.zeros(9, dtype=torch.float64)
        with torch.no_grad():
            logits = classification_logits(Shifted(), zero, LADDER, batch, own_density(batch), log_target)

        def objective(f: Tensor, logits: Tensor = logits, rungs: Tensor = batch.rungs) -> Tensor:
            return loss(logits + f[rungs][:, None, :])

        fits.append(minimise(objective, 9))
    fits_all = torch.stack(fits)[:, :-1]
    assert_mean(fits_all, truth[:-1])
    assert (fits_all.std(0) < 0.25).all()


@pytest.mark.parametrize("lowest", [0, 1])
@pytest.mark.parametrize("n", [2, 4])
def test_logits_by_double_loop(n: int, lowest: int) -> None:
    batch = target_batch(7000, 60, n, lowest=lowest)
    assert bool((batch.rungs == 0).any()) == (lowest == 0)
    offsets = torch.randn(9, generator=seeded(3), dtype=torch.float64)
    asked: list[Tensor] = []

    def target(z: Tensor) -> Tensor:
        asked.append(z)
        return log_target(z)

    logits = classification_logits(
        Shifted(), offsets, LADDER, batch, own_density(batch), target if lowest == 0 else None
    )
    assert logits.shape == (60, n, n)
    for g in range(60):
        for a in range(n):
            for b in range(n):
                rung, z = int(batch.rungs[g, b]), batch.z[g, a][None]
                if rung > 0:
                    expected = Shifted().log_density(z, level(LADDER[rung]))[0]
                elif a == b:
                    expected = batch.data_log_density[g, a]
                else:
                    expected = log_target(z)[0]
                assert float(logits[g, a, b]) == pytest.approx(float(expected + offsets[rung]), rel=1e-10)
    # one call of the target, for the other points of groups that hold a clean one
    n_clean = int((batch.rungs == 0).sum())
    assert [len(z) for z in asked] == ([n_clean * (n - 1)] if lowest == 0 else [])


def test_logits_of_impossible_points() -> None:
    """A noised point that the target rules out counts as surely not clean, and harms no gradient."""
    batch = target_batch(7100, 60, 3, lowest=0)
    offsets = torch.zeros(9, dtype=torch.float64, requires_grad=True)

    def target(z: Tensor) -> Tensor:
        return torch.where(z[:, 0] > 0, -math.inf, log_target(z))

    logits = classification_logits(Shifted(), offsets, LADDER, batch, own_density(batch), target)
    assert (logits == -math.inf).any()
    for loss in (bi_level, multi_level):
        value = loss(logits)
        assert torch.isfinite(value)
        (gradient,) = torch.autograd.grad(value, offsets, retain_graph=True)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("lowest", [0, 1])
@pytest.mark.parametrize("n_levels", [2, 4, 12])
def test_choice_of_rungs(n_levels: int, lowest: int, even: bool) -> None:
    """Distinct, in the window of the group's first rung, every rung and neighbour at some time."""
    sigma, width = noise_levels(12, 0.05, 6.0), torch.ones(3)
    windows = overlap_windows(sigma, width, 1.0, n_levels - 1)
    spacing = torch.ones(13) if even else rung_spacing(sigma, width)
    rungs = choose_rungs(windows, spacing, 8000, n_levels, lowest, seeded(4))
    assert rungs.shape == (8000, n_levels)
    assert rungs.dtype == torch.int64
    assert ((rungs >= lowest) & (rungs <= 12)).all()
    ordered = rungs.sort(-1).values
    assert (ordered.diff(dim=-1) > 0).all()
    first, last = windows[rungs[:, 0]].unbind(-1)
    assert ((rungs >= first[:, None]) & (rungs <= last[:, None])).all()
    # the first rung is uniform
    count = torch.bincount(rungs[:, 0], minlength=13)[lowest:].double()
    expected = 8000 / len(count)
    assert ((count - expected).abs() < 4.5 * math.sqrt(expected)).all()
    # its first partner is drawn in proportion to the spacing, and all partners alike if that is even
    k = 6
    inside = [j for j in range(13) if j != k and max(int(windows[k, 0]), lowest) <= j <= int(windows[k, 1])]
    partners = rungs[rungs[:, 0] == k][:, 1:] if even else rungs[rungs[:, 0] == k][:, 1:2]
    seen = torch.bincount(partners.flatten(), minlength=13)
    assert int(seen[inside].sum()) == int(seen.sum())
    groups = int(count[k - lowest])
    share = spacing[inside].double() / spacing[inside].double().sum()
    share = (share * partners.shape[1]).clamp_max(1)
    spread = (groups * share * (1 - share)).sqrt() + 1e-9
    assert ((seen[inside] - groups * share).abs() <= 4.5 * spread).all()
    assert torch.equal(rungs, choose_rungs(windows, spacing, 8000, n_levels, lowest, seeded(4)))
