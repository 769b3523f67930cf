"""Differences between two systems: perturbation of weighted samples against closed forms; refusals."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_standard
from torch import Tensor

from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.free_energies.estimates import Found
from bgdiff.free_energies.samples import SampleSet
from bgdiff.free_energies.systems import DIRECT, DirectSides, check_comparable, two_ladders
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.judgement import Candidate
from bgdiff.progress import silent
from bgdiff.systems import load_system

STIFFNESS = 1.0, 2.5
EXACT = 0.5 * math.log(STIFFNESS[1] / STIFFNESS[0])


class Oscillator:
    """u = ½ k x², with a wall that makes it infinite beyond ``wall``."""

    def __init__(self, stiffness: float, wall: float = math.inf) -> None:
        self.stiffness, self.wall, self.event_shape = stiffness, wall, (1, 1)

    def energy(self, x: Tensor) -> Tensor:
        energy = 0.5 * self.stiffness * x.flatten(1).square().sum(1)
        return torch.where(x.flatten(1).abs().amax(1) < self.wall, energy, torch.inf)


class Drawn:
    """Conformations as a sample set gives them."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = torch.from_numpy(x[:, None])

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.x.split(300)


class Plain:
    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, :, None], z[:, 0]


def drawn(stiffness: float, n: int, generator: np.random.Generator, width: float = 1.3) -> SampleSet:
    """Samples of a wider Gaussian with their weights for the oscillator."""
    x = width / math.sqrt(stiffness) * generator.standard_normal(n)
    weight = -0.5 * stiffness * x**2 + 0.5 * (math.sqrt(stiffness) * x / width) ** 2
    return SampleSet("walks down", weight, Drawn(x), Plain())  # type: ignore[arg-type]


def sides(generator: np.random.Generator, n: int = 400, wall: float = math.inf) -> Found:
    systems: list[Any] = [SimpleNamespace(target=Oscillator(k)) for k in STIFFNESS]
    systems[1].target.wall = wall
    found = Found()
    samples = [drawn(k, n, generator) for k in STIFFNESS]
    DirectSides(*samples, *systems, silent).add(found)
    return found


def test_errors_of_direct_estimates_are_true() -> None:
    """200 repetitions: z-scores of mean 0 and standard deviation 1, forward, reverse and Bennett."""
    generator = np.random.default_rng(0)
    scores = np.array(
        [[one.estimate.z_score(EXACT) for one in sides(generator).candidates] for _ in range(200)]
    )
    assert scores.shape == (200, 3)
    for column in scores.T:
        assert_standard(torch.from_numpy(column))


def test_bennett_has_the_smallest_error_and_an_overlap() -> None:
    forward, reverse, both = (one.estimate for one in sides(np.random.default_rng(1), 4000).candidates)
    assert both.std_error <= min(forward.std_error, reverse.std_error) * 1.02
    assert both.overlap is not None
    assert 0.5 < both.overlap < 1
    assert abs(float(both.diagnostics["disagreement_z"])) < 4


def test_conformations_that_are_impossible_in_the_other_system() -> None:
    """With a wall at x = 1, F_b rises by -ln P(|x| < 1) of b; samples of a beyond it have weight zero."""
    generator = np.random.default_rng(2)
    systems: list[Any] = [
        SimpleNamespace(target=Oscillator(1.0)),
        SimpleNamespace(target=Oscillator(1.0, 1.0)),
    ]
    first = drawn(1.0, 4000, generator)
    second = drawn(1.0, 4000, generator)
    inside = np.abs(second.parts.x[:, 0].numpy()) < 1  # type: ignore[attr-defined]
    second = SampleSet(
        "walks down", np.where(inside, second.log_weight, -np.inf), second.parts, second.coordinates
    )
    found = Found()
    DirectSides(first, second, *systems, silent).add(found)
    exact = -math.log(math.erf(1 / math.sqrt(2)))
    forward, reverse, both = (one.estimate for one in found.candidates)
    assert abs(forward.z_score(exact)) < 4
    assert abs(both.z_score(exact)) < 4
    # seen from b alone the two are the same: nothing tells of what b lacks
    assert reverse.value == pytest.approx(0.0, abs=1e-12)


def test_systems_without_overlap_are_refused() -> None:
    systems: list[Any] = [
        SimpleNamespace(target=Oscillator(1.0)),
        SimpleNamespace(target=Oscillator(1.0, 0.0)),
    ]
    generator = np.random.default_rng(3)
    found = Found()
    DirectSides(*(drawn(1.0, 100, generator) for _ in range(2)), *systems, silent).add(found)
    assert found.candidates == []
    assert "no sample of the initial system has a finite energy" in found.missing["direct FEP forward"]
    assert DIRECT in found.missing


def test_two_ladders() -> None:
    def of(value: float, error: float, z: float) -> Candidate:
        facts = {"forward": value + 0.02, "reverse": value - 0.01, "disagreement_z": z}
        return Candidate("path BAR", Estimate(value, error, "path BAR", 100.0, 0.5, facts), {"up": 3}, True)

    found = two_ladders(Found([of(5.0, 0.3, 2.0)]), Found([of(2.0, 0.4, 1.0)], {"TI": "no"}))
    (both,) = found.candidates
    assert both.name == "two ladders, path BAR"
    assert both.estimate.value == 3.0  # F_final - F_initial = log Z_initial - log Z_final
    assert both.estimate.std_error == pytest.approx(0.5)
    assert both.samples == {"initial: up": 3, "final: up": 3}
    assert both.estimate.diagnostics["disagreement_z"] == pytest.approx(0.0)
    found = two_ladders(Found([of(5.0, 0.3, 2.0)]), Found([], {"path BAR": "no walks"}))
    assert found.missing == {"two ladders, path BAR": "no walks"}


def test_what_cannot_be_compared_is_refused() -> None:
    vacuum, well = load_system("alanine_dipeptide_vacuum"), load_system("double_well")
    check_comparable(vacuum, load_system("alanine_dipeptide_obc1"))
    with pytest.raises(ConfigError, match="22×3 and 1×2"):
        check_comparable(vacuum, well)
    other = load_system("alanine_dipeptide_obc1")
    atom = other.topology.atom(5)  # type: ignore[union-attr]
    atom.name = "XX"
    with pytest.raises(SystemDefinitionError, match=r"atom 5 \(counted from 0\)"):
        check_comparable(vacuum, other)
