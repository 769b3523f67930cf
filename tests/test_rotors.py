"""Equal hydrogens: found by their bonds, checked by their energy, relabelled at random."""

from dataclasses import replace

import mdtraj
import numpy as np
import pytest
import torch
from checks import seeded

from bgdiff.data.observables import dihedral
from bgdiff.data.rotors import invariant_rotors, relabelled, symmetric_rotors, turn_labels
from bgdiff.systems import load_system


def _group(name: str, centre: str, arms: list[str]) -> mdtraj.Topology:
    """An atom with arms, the last of which is a carbon where it has four."""
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    middle = topology.add_atom(name, mdtraj.element.get_by_symbol(centre), residue)
    for index, symbol in enumerate(arms):
        arm = topology.add_atom(f"{symbol}{index}", mdtraj.element.get_by_symbol(symbol), residue)
        topology.add_bond(middle, arm)
    return topology


@pytest.mark.parametrize(
    ("centre", "arms", "found"),
    [
        ("C", ["H", "H", "H", "C"], [(1, 2, 3)]),
        ("C", ["H", "C", "H", "H"], [(1, 3, 4)]),
        ("N", ["H", "H", "H", "C"], [(1, 2, 3)]),
        ("C", ["H", "H", "C", "C"], []),  # exchanging two makes the mirror image
        ("C", ["H", "H", "H", "H"], []),  # methane: nothing to turn against
        ("N", ["H", "H", "C"], []),
        ("C", ["H", "H", "H"], []),
    ],
)
def test_what_counts_as_a_rotor(centre: str, arms: list[str], found: list[tuple[int, ...]]) -> None:
    assert symmetric_rotors(_group("X", centre, arms)) == found


def test_turning_labels_is_a_rotation_of_them() -> None:
    x = torch.arange(2 * 5 * 3, dtype=torch.float64).reshape(2, 5, 3)
    turned = turn_labels(x, [(1, 3, 4)], torch.tensor([[1], [2]]))
    assert torch.equal(turned[0], x[0, [0, 3, 2, 4, 1]])
    assert torch.equal(turned[1], x[1, [0, 4, 2, 1, 3]])
    assert torch.equal(turn_labels(x, [(1, 3, 4)], torch.zeros(2, 1, dtype=torch.int64)), x)


@pytest.mark.parametrize("name", ["alanine_dipeptide_vacuum", "alanine_dipeptide_obc1"])
def test_energies_stay_and_rotamers_become_equal(name: str) -> None:
    system = load_system(name)
    data = system.load_data()
    new = relabelled(system, data, seed=3)
    assert symmetric_rotors(system.topology) == [(0, 2, 3), (11, 12, 13), (19, 20, 21)]
    rows = torch.arange(0, len(data), 997)
    torch.testing.assert_close(
        system.target.energy(new.x[rows]), system.target.energy(data.x[rows]), rtol=0, atol=1e-9
    )
    assert torch.equal(new.chain, data.chain)
    heavy = [1, 4, 5, 6, 8, 10, 14, 15, 16, 18]
    assert torch.equal(new.x[:, heavy], data.x[:, heavy])
    # which third of a turn the first hydrogen of the side chain is in
    angle = np.mod(np.degrees(dihedral(new.x.numpy(), [6, 8, 10, 11])), 360) // 120
    counts = np.bincount(angle.astype(int), minlength=3)
    expected = len(data) / 3
    assert (((counts - expected) / np.sqrt(expected * 2 / 3)) ** 2 < 16).all()

    # handedness of the group is kept: an exchange of two labels would turn it around
    def volume(x: torch.Tensor) -> torch.Tensor:
        arms = x[:, [11, 12, 13]] - x[:, [10]]
        return torch.linalg.det(arms)

    assert torch.equal(volume(new.x) > 0, volume(data.x) > 0)
    assert torch.equal(relabelled(system, data, seed=3).x, new.x)
    assert not torch.equal(relabelled(system, data, seed=4).x, new.x)


def test_a_force_field_that_tells_them_apart_keeps_their_labels() -> None:
    class Marked:
        event_shape = (5, 3)

        def energy(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 1].square().sum(-1) + x[:, 2:4].square().sum((-1, -2))

    class Marking(Marked):
        def energy(self, x: torch.Tensor) -> torch.Tensor:
            return super().energy(x) + 1e-3 * x[:, 1].square().sum(-1)

    x = torch.randn(8, 5, 3, generator=seeded(1), dtype=torch.float64)
    assert invariant_rotors(Marked(), x, [(1, 2, 3)]) == [(1, 2, 3)]  # type: ignore[arg-type]
    assert invariant_rotors(Marking(), x, [(1, 2, 3)]) == []  # type: ignore[arg-type]


def test_what_has_no_rotor_is_left_alone() -> None:
    system = load_system("double_well")
    data = system.load_data()
    assert relabelled(system, data, seed=0) is data
    assert relabelled(system, replace(data, n_dropped=1), seed=0).n_dropped == 1
