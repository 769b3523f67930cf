"""Whether coordinates and bonds belong to one molecule: lengths, contacts, fragments, handedness."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bgdiff.errors import SystemDefinitionError
from bgdiff.setup.molecule import Array, atom_label, bond_pairs, listed, residue_label

if TYPE_CHECKING:
    from openmm import app

__all__ = ["check_bonds", "check_one_molecule", "fragments", "handedness", "stereocentres", "unusual_forms"]

_ZERO, _SHORTEST, _LONGEST = 0.02, 0.05, 0.30  # nm; bonds are 0.074 (H2) to 0.27 (I2)


def check_bonds(path: Path, topology: "app.Topology", positions: Array) -> None:
    """Refuse bonds that are impossibly short or long, and atoms on top of one another.

    Args:
        positions: ``(N, 3)`` in nm.

    Raises:
        SystemDefinitionError: it names the atoms, or the residues of a chain break.
    """
    from scipy.spatial import cKDTree

    if not np.isfinite(positions).all():
        atom = list(topology.atoms())[int(np.argmax(~np.isfinite(positions).all(1)))]
        raise SystemDefinitionError(f"{path}: {atom_label(atom)} has a coordinate that is no finite number")
    bonds = list(topology.bonds())
    pairs = np.array(bond_pairs(topology), dtype=int).reshape(-1, 2)
    lengths = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    if len(bonds) > 2 and (np.median(lengths) > 2 * _LONGEST or np.median(lengths) < _SHORTEST):
        raise SystemDefinitionError(
            f"{path}: bonds are {10 * np.median(lengths):.2g} Å long (median), as if coordinates were in "
            "another unit; PDB and mmCIF files are in Å, .gro files in nm"
        )
    atoms = list(topology.atoms())
    close = sorted(cKDTree(positions).query_pairs(_ZERO))
    if close:
        names = listed(f"{atom_label(atoms[i])} and {atom_label(atoms[j])}" for i, j in close)
        raise SystemDefinitionError(
            f"{path}: {len(close)} pair{'s' if len(close) > 1 else ''} of atoms at the same place (bonds of "
            f"length zero, or atoms written twice): {names}; mend their coordinates"
        )
    for bond, length in zip(bonds, lengths, strict=True):
        if length < _SHORTEST:
            raise SystemDefinitionError(
                f"{path}: the bond of {atom_label(bond.atom1)} with {atom_label(bond.atom2)} is "
                f"{10 * length:.2f} Å long; mend their coordinates"
            )
    for bond, length in zip(bonds, lengths, strict=True):
        first, second = bond.atom1.residue, bond.atom2.residue
        if length <= _LONGEST:
            continue
        if first is second:
            raise SystemDefinitionError(
                f"{path}: {atom_label(bond.atom1)} and {atom_label(bond.atom2)} are bonded but "
                f"{10 * length:.1f} Å apart; mend their coordinates (molecules that a periodic box has cut "
                "must be made whole first)"
            )
        raise SystemDefinitionError(
            f"{path}: the chain is broken between {residue_label(first)} and {residue_label(second)}: "
            f"{bond.atom1.name} and {bond.atom2.name} are {10 * length:.1f} Å apart, as if residues between "
            "them were missing; build these with another program, or take one side of the gap as the "
            "molecule"
        )


def check_one_molecule(path: Path, topology: "app.Topology") -> None:
    """Refuse what bonds do not hold together.

    Raises:
        SystemDefinitionError: it names the pieces.
    """
    pieces = fragments(topology.getNumAtoms(), bond_pairs(topology))
    if len(pieces) < 2:
        return
    atoms = list(topology.atoms())
    loose = [piece[0] for piece in pieces if len(piece) == 1]
    if len(loose) > 0 and len(loose) >= len(pieces) - 1:
        residues = listed(dict.fromkeys(residue_label(atoms[index].residue) for index in loose))
        raise SystemDefinitionError(
            f"{path}: {len(loose)} atom{'s have' if len(loose) > 1 else ' has'} no bond, the first is "
            f"{atom_label(atoms[loose[0]])} (in {residues}); write their bonds as CONECT records, or remove "
            "what is not part of the molecule"
        )
    names = listed((_extent(topology, piece) for piece in sorted(pieces, key=len, reverse=True)), 6)
    chains = {atoms[piece[0]].residue.chain.id for piece in pieces}
    remedy = "keep one chain with --keep-only, " if len(chains) > 1 else ""
    raise SystemDefinitionError(
        f"{path}: holds {len(pieces)} molecules that no bond joins: {names}; a system is one molecule: "
        f"{remedy}remove the others, or write missing bonds as CONECT records"
    )


def fragments(n_atoms: int, bonds: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Atoms of each connected piece, in ascending order."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = np.array(bonds, dtype=int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_atoms, n_atoms))
    count, labels = connected_components(graph, directed=False)
    return [np.flatnonzero(labels == label).tolist() for label in range(count)]


def stereocentres(topology: "app.Topology") -> list[tuple[int, tuple[int, int, int]]]:
    """Atoms with four different neighbours, and three of these in a fixed order.

    Neighbours are different if the graph of bonds and elements tells them apart (colours refined until they
    are stable, as by Weisfeiler and Leman).
    """
    atoms = list(topology.atoms())
    neighbours: list[list[int]] = [[] for _ in atoms]
    for first, second in bond_pairs(topology):
        neighbours[first].append(second)
        neighbours[second].append(first)
    colours = [0 if atom.element is None else atom.element.atomic_number for atom in atoms]
    count = len(set(colours))
    while True:
        signs = [(colours[i], *sorted(colours[j] for j in neighbours[i])) for i in range(len(atoms))]
        order = {sign: number for number, sign in enumerate(sorted(set(signs)))}
        colours = [order[sign] for sign in signs]
        if len(order) == count:
            break
        count = len(order)
    centres = []
    for index, around in enumerate(neighbours):
        if len(around) == 4 and len({colours[j] for j in around}) == 4:
            a, b, c = sorted(around, key=lambda j: colours[j])[-3:]
            centres.append((index, (a, b, c)))
    return centres


def handedness(positions: Array, centres: Sequence[tuple[int, tuple[int, int, int]]]) -> Array:
    """Sign of the volume spanned by the bonds from each centre to its three neighbours ``(n,)``."""
    volumes = [
        np.linalg.det(positions[list(neighbours)] - positions[centre]) for centre, neighbours in centres
    ]
    return np.sign(np.array(volumes, dtype=np.float64))


def unusual_forms(topology: "app.Topology", positions: Array) -> list[str]:
    """Amino acids of the D form, and cis peptide bonds; runs keep what the structure has."""
    found = []
    for residue in topology.residues():
        at = {atom.name: atom.index for atom in residue.atoms()}
        if {"N", "C", "CA", "CB"} <= at.keys():
            corner = positions[[at["N"], at["C"], at["CB"]]] - positions[at["CA"]]
            if np.linalg.det(corner) < 0:
                found.append(f"D form of {residue_label(residue)}")
    for bond in topology.bonds():
        carbon, nitrogen = sorted((bond.atom1, bond.atom2), key=lambda atom: atom.name)
        if (carbon.name, nitrogen.name) != ("C", "N") or carbon.residue is nitrogen.residue:
            continue
        before = next((atom for atom in carbon.residue.atoms() if atom.name in ("CA", "CH3")), None)
        after = next((atom for atom in nitrogen.residue.atoms() if atom.name in ("CA", "CH3", "C")), None)
        if before is None or after is None:
            continue
        a, b, c, d = positions[[before.index, carbon.index, nitrogen.index, after.index]]
        if np.cross(b - a, c - b) @ np.cross(c - b, d - c) > 0:
            found.append(
                f"cis bond between {residue_label(carbon.residue)} and {residue_label(nitrogen.residue)}"
            )
    return found


def _extent(topology: "app.Topology", piece: Sequence[int]) -> str:
    """Such as ``ACE 1 of chain A to NME 4 of chain A (32 atoms)``."""
    atoms = list(topology.atoms())
    first, last = residue_label(atoms[piece[0]].residue), residue_label(atoms[piece[-1]].residue)
    count = f"{len(piece)} atom{'s' if len(piece) > 1 else ''}"
    return f"{first} ({count})" if first == last else f"{first} to {last} ({count})"
