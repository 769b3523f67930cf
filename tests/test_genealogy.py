"""Genealogies: who survives, and variances that are right for resampled populations."""

import math

import pytest
import torch
from checks import assert_mean, seeded
from torch import Tensor

from bgdiff.free_energy import log_z
from bgdiff.ladder.genealogy import (
    Genealogy,
    average_error,
    effective_fraction,
    effective_number,
    family_log_weights,
    log_z_variance,
)
from bgdiff.ladder.resampling import SCHEMES, effective_size, log_mean_weight


def test_ancestors_and_survivors_of_a_small_tree() -> None:
    tree = Genealogy(4).then(torch.tensor([0, 0, 2, 3]), "rung 5").then(torch.tensor([1, 1, 2, 2]), "rung 2")
    assert tree.ancestors().tolist() == [0, 0, 2, 2]
    assert tree.ancestors(1).tolist() == [1, 1, 2, 2]
    assert tree.ancestors(2).tolist() == [0, 1, 2, 3]
    assert tree.survivors() == [2, 2]
    assert tree.stages == ("rung 5", "rung 2")
    assert len(tree) == 2
    assert Genealogy(3).survivors() == []
    assert Genealogy(3).ancestors().tolist() == [0, 1, 2]


def test_family_weights_add_up() -> None:
    log_weight = torch.tensor([0.0, 1.0, -math.inf, 900.0], dtype=torch.float64)
    family = torch.tensor([1, 1, 2, 3])
    summed = family_log_weights(log_weight, family)
    assert summed[0] == -math.inf
    assert summed[2] == -math.inf
    assert float(summed[3]) == 900.0
    small = family_log_weights(log_weight[:3], torch.tensor([1, 1, 2]))
    assert float(small[1]) == pytest.approx(math.log(1 + math.e))


def test_effective_fraction_is_bounded_by_the_genealogy() -> None:
    """Equal weights look perfect; the families know better. Never above the survivors or Kish's."""
    n = 64
    log_weight = torch.zeros(n, dtype=torch.float64)
    family = torch.arange(n) // 8
    assert effective_fraction(log_weight) == pytest.approx(1.0)
    assert effective_number(log_weight, family) == pytest.approx(8.0)
    generator = seeded(3)
    for _ in range(50):
        log_weight = 3 * torch.randn(n, generator=generator, dtype=torch.float64)
        family = torch.randint(n, (n,), generator=generator)
        value = effective_number(log_weight, family)
        assert 1 <= value <= len(family.unique()) + 1e-9
        assert value <= effective_size(log_weight) + 1e-9


def test_without_resampling_the_errors_are_those_of_independent_draws() -> None:
    log_weight = torch.randn(500, generator=seeded(4), dtype=torch.float64)
    family = torch.arange(500)
    assert math.sqrt(log_z_variance(log_weight, family)) == pytest.approx(
        log_z(log_weight).std_error, rel=1e-9
    )


STEPS, REPEATS = 4, 1500
PULL = 0.4


def feynman_kac(name: str, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A short SMC on an autoregressive chain with weights exp(PULL x - PULL²/2): every mean weight is exact.

    Returns the last positions, log weights and families.
    """
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    log_weight, tree = torch.zeros_like(x), Genealogy(size)
    for step in range(STEPS):
        log_weight = log_weight + PULL * x - PULL**2 / 2
        if step == STEPS - 1:
            break
        parents = SCHEMES[name](log_weight, generator)
        log_weight = log_mean_weight(log_weight).expand(size)
        tree, x = tree.then(parents, "step"), x[parents]
        noise = torch.randn(size, generator=generator, dtype=torch.float64)
        x = 0.8 * x + 0.6 * noise
    return x, log_weight, tree.ancestors()


def exact_log_z() -> float:
    """log E[exp(Σ (PULL x_t - PULL²/2))] of the stationary chain with correlation 0.8^|s-t|."""
    pairs = sum(0.8 ** abs(s - t) for s in range(STEPS) for t in range(STEPS))
    return PULL**2 / 2 * (pairs - STEPS)


@pytest.mark.parametrize("name", SCHEMES)
def test_variances_of_log_z(name: str) -> None:
    """Unbiased Z from every scheme; unbiased variance for multinomial, no smaller one for the others."""
    generator, truth = seeded(5), math.exp(exact_log_z())
    z, estimated, conservative = [], [], []
    for _ in range(REPEATS):
        _, log_weight, family = feynman_kac(name, 40, generator)
        value = float(log_mean_weight(log_weight).exp())
        z.append(value / truth)
        estimated.append((value / truth) ** 2 * log_z_variance(log_weight, family, STEPS - 1))
        conservative.append((value / truth) ** 2 * log_z_variance(log_weight, family))
    ratio = torch.tensor(z, dtype=torch.float64)
    assert_mean(ratio, 1.0)
    spread = (ratio - 1) ** 2
    if name == "multinomial":
        assert_mean(torch.tensor(estimated, dtype=torch.float64) - spread, 0.0)
    else:
        excess = torch.tensor(conservative, dtype=torch.float64) - spread
        assert float(excess.mean()) > 0
        assert float(excess.mean()) < 1.5 * float(spread.mean())


def test_errors_of_averages_are_calibrated() -> None:
    """z-scores of the final average have unit spread, though half of the particles are copies."""
    generator, scores, naive = seeded(6), [], []
    size = 1000
    # E[x_T exp(Σ …)]/Z for the Gaussian chain is the covariance of x_T with the exponent
    truth = PULL * sum(0.8 ** (STEPS - 1 - t) for t in range(STEPS))
    for _ in range(600):
        x, log_weight, family = feynman_kac("multinomial", size, generator)
        mean, error = average_error(log_weight, x[:, None], family)
        scores.append(float((mean - truth) / error))
        plain = average_error(log_weight, x[:, None], torch.arange(size))[1]
        naive.append(float((mean - truth) / plain))
    spread = torch.tensor(scores).std()
    assert 0.85 < spread < 1.15, spread
    assert torch.tensor(naive).std() > 1.15 * spread, "errors that ignore the families are too small"
