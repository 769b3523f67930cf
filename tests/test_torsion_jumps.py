"""Turns about bonds: they change nothing but the torsion, and sample its density exactly."""

import numpy as np
import pytest
import torch
from checks import assert_mean, seeded
from molecules import twist_difference, twist_system
from scipy.spatial.transform import Rotation

from bgdiff.data.simulator import simulator_of
from bgdiff.errors import ConfigError
from bgdiff.sampling import InTurn, LangevinMiddle, Rotor, TorsionJump, Walkers
from bgdiff.sampling.torsions import _turned
from bgdiff.systems import load_system


@pytest.fixture
def simulator(tmp_path):
    return simulator_of(twist_system(tmp_path / "twist"), [{"phi": 180}], 1.0, 1.0)


def test_a_turn_is_a_rotation_about_the_bond():
    x = torch.randn(5, 6, 3, generator=seeded(1), dtype=torch.float64)
    angle = torch.tensor([0.3, -2.0, 3.1, 0.0, 6.0], dtype=torch.float64)
    turned = _turned(x, Rotor((1, 4), (0, 5)), angle)
    for row in range(5):
        axis = (x[row, 4] - x[row, 1]).numpy()
        rotation = Rotation.from_rotvec(float(angle[row]) * axis / np.linalg.norm(axis))
        expected = rotation.apply((x[row] - x[row, 4]).numpy()) + x[row, 4].numpy()
        np.testing.assert_allclose(turned[row, [0, 5]], expected[[0, 5]], atol=1e-12)
        np.testing.assert_array_equal(turned[row, 1:5], x[row, 1:5])


def test_jumps_alone_sample_the_torsion(simulator):
    """The rest of the molecule is rigid to them, so the torsion's density is exp(-u) at each temperature."""
    start = torch.from_numpy(simulator.molecule.start(0))
    walkers = Walkers.at(simulator.target, start.repeat(8000, 1, 1))
    tau = torch.tensor([1.0, 2.0]).repeat(4000)
    move, generator = TorsionJump(simulator.target, simulator.molecule.rotors), seeded(2)
    for _ in range(60):
        acceptance = move(walkers, generator, tau)
    assert 0.1 < acceptance.mean() < 0.6
    distances = torch.cdist(walkers.x, walkers.x)
    expected = torch.cdist(start, start)
    bonded = [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)]  # bonds and angles
    for i, j in bonded:
        assert (distances[:, i, j] - expected[i, j]).abs().max() < 1e-12
    middle = (expected[0, 3] ** 2 + _cis_distance(start) ** 2) / 2
    cis = (distances[:, 0, 3] ** 2 < middle).double()
    for first, scale in enumerate((1.0, 2.0)):
        assert_mean(cis[first::2], 1 / (1 + np.exp(twist_difference(scale))))
    energy, force = simulator.target.energy_and_force(walkers.x)
    assert torch.equal(energy, walkers.energy)
    assert torch.equal(force.double(), walkers.force)


def _cis_distance(start):
    cis = _turned(start[None], Rotor((1, 2), (3,)), torch.tensor([np.pi]))[0]
    return (cis[0] - cis[3]).norm()


def test_rotors_are_the_observed_torsions():
    system = load_system("alanine_dipeptide_vacuum")
    rotors = simulator_of(system, [], 1.0, 1.0).molecule.rotors
    assert [rotor.bond for rotor in rotors] == [(6, 8), (8, 14)]
    assert rotors[1].far == (14, 15, 16, 17, 18, 19, 20, 21)
    assert 7 not in rotors[0].far
    assert {10, 14, 21} < set(rotors[0].far)


def test_moves_in_turn(simulator):
    x = torch.from_numpy(simulator.molecule.start(0)).repeat(10, 1, 1)
    dynamics = LangevinMiddle(simulator.target, simulator.speed, 0.001, 1.0, 3)
    jump = TorsionJump(simulator.target, simulator.molecule.rotors)
    apart, together = (Walkers.at(simulator.target, x) for _ in range(2))
    generator = seeded(3)
    dynamics(apart, generator)
    jump(apart, generator)
    assert InTurn([dynamics, jump])(together, seeded(3)).tolist() == [1.0] * 10
    assert torch.equal(apart.x, together.x)
    with pytest.raises(ConfigError, match="at least one bond"):
        TorsionJump(simulator.target, [])
