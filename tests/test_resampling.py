"""Resampling: unbiased copies, the noise each scheme may add, and edge cases."""

import math

import pytest
import torch
from checks import assert_mean, seeded

from bgdiff.errors import CorrectionError
from bgdiff.ladder.failures import check_energies, check_weights
from bgdiff.ladder.resampling import SCHEMES, effective_size, log_mean_weight, shares

LOG_WEIGHT = torch.tensor([0.3, -1.0, 2.0, -math.inf, 0.0, 1.1, -4.0, math.nan], dtype=torch.float64)


def copies(name: str, log_weight: torch.Tensor, repeats: int) -> torch.Tensor:
    """How often each particle lives on, ``(repeats, N)``."""
    generator, n = seeded(1), len(log_weight)
    rows = [torch.bincount(SCHEMES[name](log_weight, generator), minlength=n) for _ in range(repeats)]
    return torch.stack(rows).double()


@pytest.mark.parametrize("name", SCHEMES)
def test_copies_are_unbiased(name: str) -> None:
    counted = copies(name, LOG_WEIGHT, 4000)
    expected = 8 * shares(LOG_WEIGHT)
    assert (counted.sum(1) == 8).all()
    alive = expected > 0
    assert (counted[:, ~alive] == 0).all()
    varies = alive & (counted.var(0) > 0)
    assert varies.sum() >= 5
    assert_mean(counted[:, varies], expected[varies])
    assert torch.equal(counted.mean(0)[alive & ~varies], expected[alive & ~varies].round())


def test_systematic_copies_differ_from_their_mean_by_less_than_one() -> None:
    expected = 8 * shares(LOG_WEIGHT)
    assert ((copies("systematic", LOG_WEIGHT, 500) - expected).abs() < 1).all()
    assert (copies("residual", LOG_WEIGHT, 500) >= expected.floor()).all()
    assert ((copies("stratified", LOG_WEIGHT, 500) - expected).abs() < 2).all()


def test_noise_falls_in_the_known_order() -> None:
    """Douc, Cappé & Moulines: residual and stratified resampling never add more noise than multinomial."""
    log_weight = torch.randn(200, generator=seeded(2), dtype=torch.float64)
    f = torch.sort(torch.randn(200, generator=seeded(3), dtype=torch.float64)).values
    spread = {name: float((copies(name, log_weight, 600) @ f).var()) for name in SCHEMES}
    assert spread["residual"] < 0.9 * spread["multinomial"]
    assert spread["stratified"] < 0.5 * spread["multinomial"]
    assert spread["systematic"] < 0.5 * spread["multinomial"]


@pytest.mark.parametrize("name", ["systematic", "residual", "stratified"])
def test_equal_weights_are_left_alone(name: str) -> None:
    for n in (1, 3, 7, 49, 1000):
        log_weight = torch.full((n,), -1234.5, dtype=torch.float64)
        rows = SCHEMES[name](log_weight, seeded(n))
        assert torch.equal(rows.sort().values, rows)
        if name != "residual" or (n * shares(log_weight) >= 1).all():
            assert torch.equal(rows, torch.arange(n)), n


@pytest.mark.parametrize("name", SCHEMES)
def test_the_only_particle_with_a_weight_takes_all(name: str) -> None:
    log_weight = torch.full((50,), -math.inf, dtype=torch.float64)
    log_weight[17] = -1e5
    assert (SCHEMES[name](log_weight, seeded(0)) == 17).all()


def test_sizes_and_means_are_those_of_the_weights() -> None:
    assert effective_size(torch.full((9,), 1e4)) == pytest.approx(9)
    weight = torch.where(torch.isfinite(LOG_WEIGHT), LOG_WEIGHT, -math.inf).exp()
    assert effective_size(LOG_WEIGHT) == pytest.approx(float(weight.sum() ** 2 / weight.square().sum()))
    assert float(log_mean_weight(LOG_WEIGHT)) == pytest.approx(math.log(weight.sum() / 8))
    assert float(log_mean_weight(LOG_WEIGHT - 1e6)) == pytest.approx(math.log(weight.sum() / 8) - 1e6)


def test_collapsed_weights_are_refused_with_the_rung_named() -> None:
    with pytest.raises(CorrectionError, match=r"rung 7.*all 4 particles have weight zero.*more rungs"):
        check_weights(torch.full((4,), -math.inf), "rung 7")
    one = torch.full((10,), -10.0, dtype=torch.float64)
    one[3] = 0.0
    with pytest.raises(CorrectionError, match=r"rung 2: one of 10 particles carries 100\.0 %"):
        check_weights(one, "rung 2")
    check_weights(one[:5], "rung 2")  # five particles do not tell
    check_weights(torch.zeros(10), "rung 2")


def test_bad_energies_are_counted_and_refused_when_they_are_the_rule() -> None:
    energies = torch.tensor([0.0, math.nan, 1.0, -math.inf])
    assert check_energies(energies, "rung 3", "model") == 2
    with pytest.raises(CorrectionError, match=r"rung 3: the model's energy is nan for 2 of 3.*train again"):
        check_energies(energies[1:], "rung 3", "model")
    with pytest.raises(CorrectionError, match=r"the target's energy is infinite for 1 of 1.*geometries"):
        check_energies(energies[3:], "rung 0", "target")
