"""The virial identity on densities that are known exactly, and on the data that come with systems."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_standard, seeded
from torch import Tensor

from bgdiff.analysis.virial import (
    average_over_blocks,
    degrees_of_freedom,
    feels_centroid,
    virial,
    virial_terms,
)
from bgdiff.errors import DataError
from bgdiff.systems import load_system


class Springs:
    """u = ½ Σ k_i x_i² of coordinates in a field, or of those about the centroid with one k."""

    def __init__(self, particles: int, dimensions: int, stiffness: Tensor | float, *, free: bool) -> None:
        self.event_shape = (particles, dimensions)
        self.stiffness, self.free = torch.as_tensor(stiffness, dtype=torch.float64), free

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.free:
            x = x - x.mean(1, keepdim=True)
        return 0.5 * (self.stiffness * x**2).sum((1, 2)), -self.stiffness * x

    def draw(self, n: int, seed: int) -> Tensor:
        return torch.randn(n, *self.event_shape, generator=seeded(seed), dtype=torch.float64) / (
            self.stiffness.sqrt()
        )


def springs(particles: int, dimensions: int, stiffness: Tensor | float, *, free: bool) -> Any:
    spec = SimpleNamespace(coordinates="mean_free" if free else "identity")
    return SimpleNamespace(target=Springs(particles, dimensions, stiffness, free=free), spec=spec)


def test_a_cluster_of_springs_counts_all_but_the_centroid() -> None:
    system = springs(5, 3, 7.0, free=True)
    found = virial(system, system.target.draw(4000, 1) + 3.0)  # wherever the centroid is
    assert (found.expected, found.n) == (12, 4000)
    assert abs(found.z_score) < 4
    # x·∇u is chi-squared with 12 degrees of freedom: variance 24
    assert found.std_error == pytest.approx((24 / 4000) ** 0.5, rel=0.5)


def test_an_external_field_counts_every_coordinate() -> None:
    system = springs(2, 2, torch.tensor([[1.0, 4.0], [0.2, 30.0]]), free=False)
    found = virial(system, system.target.draw(4000, 2))
    assert found.expected == 4
    assert abs(found.z_score) < 4


class Bond:
    """Two atoms in space, u = ½ k (r - r0)²."""

    event_shape = (2, 3)

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        apart = x[:, 0] - x[:, 1]
        r = apart.norm(dim=1, keepdim=True)
        pull = -40 * (r - 1) * apart / r
        return 20 * (r[:, 0] - 1) ** 2, torch.stack([pull, -pull], 1)


def test_orientation_counts_even_where_it_is_fixed() -> None:
    """A diatomic molecule has 3N-3 = 3, though its one internal coordinate is drawn from r² exp(-u)."""
    r = torch.linspace(1e-3, 3, 30_001, dtype=torch.float64)
    share = (r**2 * torch.exp(-20 * (r - 1) ** 2)).cumsum(0)
    drawn = r[torch.searchsorted(share / share[-1], torch.rand(4000, generator=seeded(9)).double())]
    x = torch.zeros(4000, 2, 3, dtype=torch.float64)
    x[:, 1, 0] = drawn  # all along one axis
    found = virial(SimpleNamespace(target=Bond(), spec=SimpleNamespace(coordinates="internal")), x)  # type: ignore[arg-type]
    assert found.expected == 3
    assert abs(found.z_score) < 4
    assert found.std_error < 0.2


def test_z_scores_are_standard() -> None:
    system = springs(3, 2, 2.0, free=True)
    scores = [virial(system, system.target.draw(500, seed)).z_score for seed in range(200)]
    # errors from twenty blocks: Student's t of 19 degrees of freedom, sd √(19/17)
    assert_standard(torch.tensor(scores) / (19 / 17) ** 0.5)


def test_weights_correct_another_temperature() -> None:
    system = springs(4, 2, 1.0, free=True)
    x = 1.2 * system.target.draw(5000, 3)
    energy, _ = system.target.energy_and_force(x)
    log_weight = -energy + energy / 1.2**2
    assert abs(virial(system, x, log_weight=log_weight.numpy()).z_score) < 4
    assert virial(system, x).z_score > 20  # that samples and forces do not belong together is found


def test_copies_are_not_new_samples() -> None:
    system = springs(4, 2, 1.0, free=True)
    x = system.target.draw(1000, 4)
    once = virial(system, x, log_weight=np.zeros(1000))
    family = np.repeat(np.arange(1000) * 7, 4)
    copied = virial(system, x.repeat_interleave(4, 0), log_weight=np.zeros(4000), family=family)
    assert copied.value == pytest.approx(once.value)
    assert copied.std_error == pytest.approx(once.std_error, rel=1e-3)
    assert once.method != copied.method


def test_errors_of_simulations_that_remember() -> None:
    """Few and many chains of unequal lengths, an autoregression each: z-scores have spread 1."""
    random = np.random.default_rng(6)
    scores = []
    for repeat in range(200):
        lengths = [400, 700] if repeat % 2 else [60] * 15 + [90] * 15
        parts = []
        for length in lengths:
            noise = random.standard_normal(length + 50)
            for t in range(1, length + 50):
                noise[t] += 0.7 * noise[t - 1]
            parts.append(noise[50:])
        labels = np.repeat(np.arange(len(lengths)), lengths)
        found = average_over_blocks(np.concatenate(parts), labels)
        scores.append(found.value / found.std_error)
    assert np.std(scores) == pytest.approx(1.0, abs=0.25)
    assert np.abs(np.mean(scores)) < 4 / 200**0.5


def test_a_block_is_never_of_two_simulations() -> None:
    found = average_over_blocks(np.repeat([1.0, 5.0, 1.0], [3, 7, 2]), np.repeat([0, 1, 0], [3, 7, 2]))
    assert found.value == pytest.approx((5 * 1 + 7 * 5) / 12)
    assert found.n_eff == 12  # shorter than the blocks wanted: each frame by itself


@pytest.mark.parametrize(
    ("name", "expected"),
    [("alanine_dipeptide_vacuum", 63), ("many_well_32", 32), ("double_well", 2), ("dw4", 6), ("lj13", 36)],
)
def test_shipped_data_obey_it(name: str, expected: int) -> None:
    system = load_system(name)
    data = system.load_data()
    rows = torch.linspace(0, len(data) - 1, 3000).long()
    found = virial(system, data.x[rows], chain=data.chain[rows].numpy())
    assert found.expected == expected == degrees_of_freedom(system)
    assert feels_centroid(system) == name.endswith(("well", "well_32"))
    assert abs(found.z_score) < 4


@pytest.mark.parametrize(("name", "expected"), [("dw4", 6), ("lj13", 36), ("lj38", 111), ("lj55", 162)])
def test_clusters_have_their_number(name: str, expected: int) -> None:
    assert degrees_of_freedom(load_system(name)) == expected


def test_terms_do_not_depend_on_place_and_orientation() -> None:
    target = load_system("lj13").target
    x = 1.5 * torch.randn(5, 13, 3, generator=seeded(7), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=seeded(8), dtype=torch.float64))[0]
    np.testing.assert_allclose(virial_terms(target, x), virial_terms(target, x @ turn - 4.0), rtol=1e-7)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.energy(leaf).sum(), leaf)
    np.testing.assert_allclose(virial_terms(target, x, chunk=2), (x * gradient).sum((1, 2)), rtol=1e-9)


def test_nothing_to_average_is_refused() -> None:
    system = springs(2, 2, 1.0, free=False)
    with pytest.raises(DataError, match="do not belong"):
        virial(system, torch.zeros(0, 2, 2, dtype=torch.float64))
    with pytest.raises(DataError, match="do not belong"):
        virial(system, torch.zeros(3, 2, 2, dtype=torch.float64), chain=[0, 0])
