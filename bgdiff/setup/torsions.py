"""Which torsions of a molecule are worth watching: those of residues, or else all rotatable bonds."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bgdiff.setup.molecule import Molecule, bond_pairs

if TYPE_CHECKING:
    from openmm import app

__all__ = ["Torsion", "molecular_torsions"]

_DOUBLE = 0.140  # nm; bonds of two carbons with three neighbours each are double below


@dataclass(frozen=True)
class Torsion:
    """A torsion that bgdiff will call ``name``."""

    name: str
    kind: str
    """``phi``, ``psi``, ``chi`` (of a side chain) or ``torsion``"""
    atoms: tuple[int, int, int, int]
    residue: int
    """Number of the amino acid, or -1"""
    note: str
    """Which residue or atoms it is about, for a comment"""
    folds: int
    """3 for a bond with staggered minima, 2 if one end is planar"""
    turnable: bool
    """Whether the bond is outside rings, so that one side can be turned"""


def molecular_torsions(molecule: Molecule) -> list[Torsion]:
    """Backbone torsions of amino acids by residue, then those of side chains; else all rotatable heavy bonds.

    φ is the torsion C-N-CA-C, ψ N-CA-C-N. They are numbered by amino acid along the chain, caps not counted;
    the number is left out where only one residue has such a torsion. A bond is rotatable if it is in no ring,
    has heavy neighbours on both sides, and is neither a double bond nor an amide's.
    """
    graph = _Graph(molecule)
    residues = [residue for residue in molecule.topology.residues() if _backbone(residue)]
    found: list[tuple[str, str, tuple[int, int, int, int], int, str]] = []
    backbone_bonds: set[frozenset[int]] = set()
    for number, residue in enumerate(residues, start=1):
        atoms = _backbone(residue)
        assert atoms is not None
        n, ca, c = atoms
        label = f"{residue.name} {residue.id}"
        backbone_bonds |= {frozenset((n, ca)), frozenset((ca, c))}
        if (before := graph.named_neighbour(n, "C", ca)) is not None:
            found.append(("phi", "phi", (before, n, ca, c), number, label))
        if (after := graph.named_neighbour(c, "N", ca)) is not None:
            found.append(("psi", "psi", (n, ca, c, after), number, label))
    if found:
        found += _side_chains(graph, residues, backbone_bonds)
    else:
        found = [
            ("torsion", "torsion", atoms, index, " ".join(graph.names[i] for i in atoms))
            for index, atoms in enumerate(map(graph.torsion_about, graph.rotatable()), start=1)
        ]
    counts: dict[str, int] = {}
    for stem, *_ in found:
        counts[stem] = counts.get(stem, 0) + 1
    return [
        Torsion(
            name=f"{stem}_{number}" if counts[stem] > 1 else stem,
            kind=kind,
            atoms=atoms,
            residue=number if kind != "torsion" else -1,
            note=note,
            folds=graph.folds(atoms[1], atoms[2]),
            turnable=not graph.in_ring(atoms[1], atoms[2]),
        )
        for stem, kind, atoms, number, note in found
    ]


def _side_chains(
    graph: "_Graph", residues: "list[app.Residue]", backbone: set[frozenset[int]]
) -> list[tuple[str, str, tuple[int, int, int, int], int, str]]:
    found = []
    owner = {atom.index: number for number, residue in enumerate(residues) for atom in residue.atoms()}
    bonds: dict[int, list[tuple[int, int]]] = {}
    for first, second in graph.rotatable():
        if frozenset((first, second)) in backbone or owner.get(first) is None:
            continue
        if owner[first] == owner.get(second):
            bonds.setdefault(owner[first], []).append((first, second))
    for number, residue in enumerate(residues):
        ca = _backbone(residue)
        assert ca is not None
        distance = graph.distances(ca[1])
        outward = [tuple(sorted(bond, key=lambda i: distance[i])) for bond in bonds.get(number, [])]
        for order, (inner, outer) in enumerate(sorted(outward, key=lambda bond: distance[bond[1]]), start=1):
            towards = ca[0] if inner == ca[1] else graph.nearest(inner, distance, outer)
            atoms = (towards, inner, outer, graph.first_neighbour(outer, inner))
            found.append((f"chi{order}", "chi", atoms, number + 1, f"{residue.name} {residue.id}"))
    return found


def _backbone(residue: "app.Residue") -> tuple[int, int, int] | None:
    """N, CA and C of an amino acid."""
    names = {atom.name: atom.index for atom in residue.atoms()}
    return (names["N"], names["CA"], names["C"]) if {"N", "CA", "C"} <= names.keys() else None


class _Graph:
    """Bonds of a molecule, with its elements, names and bond lengths."""

    def __init__(self, molecule: Molecule) -> None:
        atoms = list(molecule.topology.atoms())
        self.names = [atom.name for atom in atoms]
        self.elements = ["" if atom.element is None else atom.element.symbol for atom in atoms]
        self.positions = molecule.positions
        self.bonds = bond_pairs(molecule.topology)
        self.neighbours: list[list[int]] = [[] for _ in atoms]
        for first, second in self.bonds:
            self.neighbours[first].append(second)
            self.neighbours[second].append(first)

    def named_neighbour(self, atom: int, name: str, other_than: int) -> int | None:
        """A neighbour of that name, if there is one: caps call their carbonyl C and their nitrogen N, too."""
        return next((i for i in self.neighbours[atom] if self.names[i] == name and i != other_than), None)

    def heavy_neighbours(self, atom: int, other_than: int) -> list[int]:
        return [i for i in self.neighbours[atom] if self.elements[i] != "H" and i != other_than]

    def first_neighbour(self, atom: int, other_than: int) -> int:
        """The heavy neighbour that IUPAC names torsions by: the lower number, then the heavier element."""

        def rank(index: int) -> tuple[int, int, int]:
            digits = re.search(r"\d+$", self.names[index])
            order = "SPONC".find(self.elements[index]) % 6
            return (int(digits.group()) if digits else 0, order, index)

        return min(self.heavy_neighbours(atom, other_than), key=rank)

    def nearest(self, atom: int, distance: dict[int, int], other_than: int) -> int:
        """The heavy neighbour with the shortest way to where distances are counted from."""
        return min(self.heavy_neighbours(atom, other_than), key=lambda i: (distance[i], i))

    def torsion_about(self, bond: tuple[int, int]) -> tuple[int, int, int, int]:
        first, second = bond
        return self.first_neighbour(first, second), first, second, self.first_neighbour(second, first)

    def distances(self, start: int) -> dict[int, int]:
        """Bonds between ``start`` and every atom."""
        distance, queue = {start: 0}, [start]
        for atom in queue:
            for other in self.neighbours[atom]:
                if other not in distance:
                    distance[other] = distance[atom] + 1
                    queue.append(other)
        return distance

    def in_ring(self, first: int, second: int) -> bool:
        """Whether there is another way from one end of the bond to the other."""
        seen, queue = {first}, [first]
        for atom in queue:
            for other in self.neighbours[atom]:
                if other in seen or (atom, other) == (first, second):
                    continue
                if other == second:
                    return True
                seen.add(other)
                queue.append(other)
        return False

    def planar(self, atom: int) -> bool:
        """Carbon with three neighbours, and nitrogen that one of these makes planar."""
        count = len(self.neighbours[atom])
        if self.elements[atom] == "C":
            return count == 3
        return self.elements[atom] == "N" and count <= 3 and any(
            self.elements[i] == "C" and len(self.neighbours[i]) == 3 for i in self.neighbours[atom]
        )  # fmt: skip

    def folds(self, first: int, second: int) -> int:
        return 2 if self.planar(first) or self.planar(second) else 3

    def rotatable(self) -> list[tuple[int, int]]:
        """Bonds with heavy neighbours on both sides that turn: in no ring, not double, no amide's."""
        return [
            (first, second)
            for first, second in self.bonds
            if self.heavy_neighbours(first, second)
            and self.heavy_neighbours(second, first)
            and not (self.planar(first) and self.planar(second) and self._stiff(first, second))
            and not self.in_ring(first, second)
        ]

    def _stiff(self, first: int, second: int) -> bool:
        if self.elements[first] == self.elements[second] == "C":
            return float(np.linalg.norm(self.positions[first] - self.positions[second])) < _DOUBLE
        return True
