"""Equal hydrogens of methyl groups and their like: three labels that a third of a turn exchanges.

Conformations that differ by such a turn have the same energy and the same probability, but short simulations
seldom turn every group often enough to hold all three in equal numbers. Relabelling the hydrogens of every
frame at random puts that right exactly, for it is a symmetry of the density. Exchanging only two of the three
is not: it would make the mirror image of the group, which no turn reaches.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bgdiff.random import generator_for

if TYPE_CHECKING:
    import mdtraj

    from bgdiff.data.dataset import Dataset
    from bgdiff.systems import System
    from bgdiff.targets.base import Target

__all__ = ["invariant_rotors", "relabelled", "symmetric_rotors", "turn_labels"]

_LOG = logging.getLogger(__name__)

Rotor = tuple[int, int, int]

_PROBES = 16
_TOLERANCE = 1e-6  # relative to the energy: far above rounding, far below any difference in parameters


def symmetric_rotors(topology: "mdtraj.Topology") -> list[Rotor]:
    """Atom indices of the hydrogens of every CH3, NH3+ and their like, in the order of the topology.

    These are the atoms that carry exactly three hydrogens, each bonded to nothing else, and one other atom.
    """
    neighbours: dict[int, list[int]] = {atom.index: [] for atom in topology.atoms}
    for first, second in topology.bonds:
        neighbours[first.index].append(second.index)
        neighbours[second.index].append(first.index)
    hydrogen = {a.index for a in topology.atoms if a.element is not None and a.element.symbol == "H"}
    found = []
    for bonded in neighbours.values():
        ends = sorted(i for i in bonded if i in hydrogen and len(neighbours[i]) == 1)
        if len(ends) == 3 and len(bonded) == 4:
            found.append((ends[0], ends[1], ends[2]))
    return found


def turn_labels(x: Tensor, rotors: Sequence[Rotor], turns: Tensor) -> Tensor:
    """Conformations x ``(n, N, D)`` with the labels of R rotors' atoms moved on by ``turns`` ``(n, R)``."""
    order = torch.arange(x.shape[1]).repeat(len(x), 1)
    for column, rotor in enumerate(rotors):
        atoms = torch.tensor(rotor)
        order[:, atoms] = atoms[(torch.arange(3) + turns[:, column, None]) % 3]
    return x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]).to(x.device))


def invariant_rotors(target: "Target", x: Tensor, rotors: Sequence[Rotor]) -> list[Rotor]:
    """Those rotors whose turn leaves the energy of conformations x ``(n, N, D)`` as it is."""
    x = x.to(torch.float64)
    energy = target.energy(x)
    kept = []
    for rotor in rotors:
        turned = target.energy(turn_labels(x, [rotor], torch.ones(len(x), 1, dtype=torch.int64)))
        if bool(((turned - energy).abs() <= _TOLERANCE * (1 + energy.abs())).all()):
            kept.append(rotor)
        else:
            _LOG.info("atoms %d, %d and %d are not equal to the force field: their labels are kept", *rotor)
    return kept


def relabelled(system: "System", data: "Dataset", seed: int) -> "Dataset":
    """The data set with equal hydrogens relabelled at random, frame by frame; the same object if it has none.

    A frame's new labels depend on the seed and on its row alone.
    """
    rotors = [] if system.topology is None else symmetric_rotors(system.topology)
    if rotors:
        probes = torch.linspace(0, len(data) - 1, min(_PROBES, len(data)), dtype=torch.float64).long()
        rotors = invariant_rotors(system.target, data.x[probes], rotors)
    if not rotors:
        return data
    turns = torch.randint(3, (len(data), len(rotors)), generator=generator_for(seed, "relabel"))
    return replace(data, x=turn_labels(data.x, rotors, turns))
