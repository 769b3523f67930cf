"""Handedness of tetrahedral centres and peptide bonds, against the structure in the topology file.

Four atoms about a centre are labelled, so that every such centre has one of two arrangements, mirror images
of one another, which no thermal motion exchanges. Where all four are different groups, the other arrangement
is another stereoisomer. Where two are equal atoms such as the hydrogens of a CH2, it is the same molecule
with exchanged labels: conventions of names differ in which is which.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.data.inspection_geometry import bonds_of
from bgdiff.data.observables import dihedral
from bgdiff.data.screening import Defect

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = [
    "Centre",
    "PeptideBond",
    "centres_of",
    "cis_frames",
    "mirrored",
    "peptide_bonds",
    "relabel",
    "wrong_handed",
]

Array = NDArray[np.float64]

_PROBES = 16
_TOLERANCE = 1e-6  # of energies, relative


@dataclass(frozen=True)
class Centre:
    """An atom with four neighbours.

    Attributes:
        atom: its index.
        neighbours: indices, in increasing order.
        name: for people.
        equal: two neighbours that are equal atoms bonded to nothing else, if there are such.
        stereogenic: whether all four groups differ.
    """

    atom: int
    neighbours: tuple[int, int, int, int]
    name: str
    equal: tuple[int, int] | None
    stereogenic: bool


@dataclass(frozen=True)
class PeptideBond:
    """A bond C-N between residues, with the atoms of its torsion ω."""

    atoms: tuple[int, int, int, int]
    name: str


def centres_of(topology: Any) -> list[Centre]:
    """Every atom with four neighbours."""
    neighbours = _neighbours(topology)
    kinds = _kinds(topology, neighbours)
    centres = []
    for atom, around in enumerate(neighbours):
        if len(around) != 4:
            continue
        four = (around[0], around[1], around[2], around[3])
        ends = [
            (one, two)
            for place, one in enumerate(four)
            for two in four[place + 1 :]
            if kinds[one] == kinds[two] and len(neighbours[one]) == len(neighbours[two]) == 1
        ]
        different = len({kinds[one] for one in four}) == 4
        centres.append(Centre(atom, four, str(topology.atom(atom)), ends[0] if ends else None, different))
    return centres


def mirrored(system: "System", x: Array, centres: list[Centre]) -> NDArray[np.bool_]:
    """Which centres of conformations ``(n, N, 3)`` are mirror images of the topology file's: ``(n, C)``."""
    usual = _volumes(system.structure[None], centres)
    return np.asarray(_volumes(x, centres) * usual < 0)


def relabel(system: "System", x: Array, centres: list[Centre]) -> tuple[Array, dict[str, int]]:
    """Exchange the labels of equal atoms where that makes an arrangement the topology file's.

    It is done only where the energy is the same with exchanged labels, which then is a symmetry of the
    density: relabelled frames are frames of the same density.

    Returns:
        Conformations ``(n, N, 3)``, and how many frames were relabelled by name of the centre.
    """
    x = x.copy()
    counts: dict[str, int] = {}
    wrong = mirrored(system, x, centres)
    for column, centre in enumerate(centres):
        rows = np.flatnonzero(wrong[:, column])
        if centre.equal is None or not len(rows) or not _symmetric(system, x[rows], centre.equal):
            continue
        one, two = centre.equal
        x[rows, one], x[rows, two] = x[rows, two], x[rows, one]
        counts[centre.name] = len(rows)
    return x, counts


def wrong_handed(system: "System", x: Array, centres: list[Centre]) -> list[Defect]:
    """Frames with a mirror image of a centre of the topology file; each under its first such centre."""
    wrong = mirrored(system, x, centres)
    defects, seen = [], np.zeros(len(x), dtype=bool)
    for column, centre in enumerate(centres):
        frames = np.flatnonzero(wrong[:, column] & ~seen)
        seen |= wrong[:, column]
        if len(frames):
            kind = "the wrong chirality" if centre.stereogenic else "exchanged groups"
            defects.append(Defect(frames, f"{kind} at {centre.name}"))
    return defects


def peptide_bonds(topology: Any) -> list[PeptideBond]:
    """Bonds between a carbonyl's carbon and the nitrogen of another residue, found by their neighbours."""
    neighbours = _neighbours(topology)
    found = []
    for bond in topology.bonds:
        pair = sorted(bond, key=_symbol)
        if [_symbol(atom) for atom in pair] != ["C", "N"] or pair[0].residue is pair[1].residue:
            continue
        carbon, nitrogen = pair
        around = [topology.atom(index) for index in neighbours[carbon.index]]
        if "O" not in map(_symbol, around):
            continue
        before = [atom for atom in around if atom is not nitrogen and _symbol(atom) != "O"]
        after = [
            atom
            for atom in map(topology.atom, neighbours[nitrogen.index])
            if atom is not carbon and _symbol(atom) == "C"
        ]
        after.sort(key=lambda atom: atom.name != "CA")  # proline's ring offers two
        if before and after:
            atoms = (before[0].index, carbon.index, nitrogen.index, after[0].index)
            found.append(PeptideBond(atoms, f"{carbon.residue}-{nitrogen.residue}"))
    return found


def cis_frames(x: Array, bond: PeptideBond) -> NDArray[np.bool_]:
    """In which conformations ``(n, N, 3)`` the peptide bond is cis: |ω| < 90°."""
    return np.asarray(np.abs(dihedral(x, bond.atoms)) < np.pi / 2)


def _volumes(x: Array, centres: list[Centre]) -> NDArray[np.float64]:
    """Signed volumes ``(n, C)`` of the tetrahedra about the centres."""
    corners = np.array([centre.neighbours for centre in centres], dtype=np.int64).reshape(-1, 4)
    edges = x[:, corners[:, :3]] - x[:, corners[:, 3:]]
    return np.asarray(np.linalg.det(edges))


def _symmetric(system: "System", x: Array, pair: tuple[int, int]) -> bool:
    """Whether exchanging two atoms leaves energies as they are."""
    some = x[np.linspace(0, len(x) - 1, min(len(x), _PROBES)).astype(int)]
    other = some.copy()
    other[:, pair] = some[:, pair[::-1]]
    before, after = (system.target.energy(torch.from_numpy(part)) for part in (some, other))
    return bool(((after - before).abs() <= _TOLERANCE * (1 + before.abs())).all())


def _neighbours(topology: Any) -> list[list[int]]:
    neighbours: list[list[int]] = [[] for _ in range(topology.n_atoms)]
    for first, second in bonds_of(topology):
        neighbours[first].append(second)
        neighbours[second].append(first)
    return [sorted(around) for around in neighbours]


def _kinds(topology: Any, neighbours: list[list[int]]) -> list[int]:
    """Atoms of one number have the same surroundings, however far one looks (Weisfeiler and Leman, 1968)."""
    kinds: list[Any] = [_symbol(atom) for atom in topology.atoms]
    count = 0
    while len(set(kinds)) > count:
        count = len(set(kinds))
        signatures = [
            (kinds[atom], tuple(sorted(kinds[other] for other in around)))
            for atom, around in enumerate(neighbours)
        ]
        number = {signature: place for place, signature in enumerate(sorted(set(signatures)))}
        kinds = [number[signature] for signature in signatures]
    return kinds


def _symbol(atom: Any) -> str:
    return "?" if atom.element is None else str(atom.element.symbol)
