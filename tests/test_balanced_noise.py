"""Noise whose lengths are balanced within groups: exactly normal, and less noise in what it is for."""

import pytest
import torch
from scipy.stats import kstest

from benchmarks.objectives.noise import balanced_noise, balanced_quantiles


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_every_group_has_one_variate_in_each_part_and_its_mirror(n):
    quantile = balanced_quantiles(500, n, torch.Generator().manual_seed(n))
    in_order = quantile.sort(-1).values
    assert torch.equal((in_order * n).floor().long(), torch.arange(n).expand(500, n))
    low = n // 2
    torch.testing.assert_close(in_order[:, :low], 1 - in_order.flip(-1)[:, :low])
    for column in quantile.T:  # none has a preferred place
        assert kstest(column.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("dim", [1, 3, 50])
def test_each_point_s_noise_is_normal(dim):
    noise = balanced_noise(4000, 2, dim, torch.Generator().manual_seed(dim)).to(torch.float64)
    for point in noise.unbind(1):
        assert kstest(point.square().sum(-1).numpy(), "chi2", args=(dim,)).pvalue > 1e-3
        assert kstest(point[:, -1].numpy(), "norm").pvalue > 1e-3
        if dim > 1:  # axes do not know of each other
            z = float((point[:, 0] * point[:, 1]).mean()) * 4000**0.5
            zz = float(((point[:, 0] ** 2 - 1) * (point[:, 1] ** 2 - 1)).mean()) * 4000**0.5 / 2
            assert abs(z) < 4
            assert abs(zz) < 4


def test_what_depends_on_lengths_scatters_less():
    """Mean squared lengths of pairs scatter by 2/d if independent; mirrored, the first order is gone."""
    dim = 50
    pairs = balanced_noise(4000, 2, dim, torch.Generator().manual_seed(0)).square().mean(-1)
    assert float(pairs.mean(-1).var()) < 0.05 * (2 / dim) / 2
    assert abs(float(pairs.mean()) - 1) < 4 * (2 / dim / 8000) ** 0.5
