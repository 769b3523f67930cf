"""A molecule on its way to a system folder, and how its atoms and residues are called in messages."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openmm
    from openmm import app

__all__ = [
    "Array",
    "Molecule",
    "Tell",
    "atom_label",
    "bond_pairs",
    "listed",
    "residue_label",
    "silent",
]

Array = NDArray[np.float64]

Tell = Callable[[str, str], None]
"""Called with what was looked at and what was found, such as ``("energy", "-312.4 kJ/mol")``."""


def silent(what: str, found: str) -> None:
    """A :data:`Tell` that says nothing."""


@dataclass(frozen=True)
class Molecule:
    """Atoms, bonds, coordinates and potential of one molecule, with words for where they come from."""

    topology: "app.Topology"
    system: "openmm.System"
    positions: Array
    """``(N, 3)`` in nm"""
    force_field: str
    """For the title, such as ``amber14-all``"""
    solvent: str
    """For the title: ``vacuum``, ``implicit water (OBC2)``; empty if the input does not say"""
    origin: tuple[str, ...]
    """Lines that say which files it was made of"""


def residue_label(residue: "app.Residue") -> str:
    """Such as ``ALA 2 of chain A``."""
    chain = residue.chain.id.strip() if residue.chain.id else ""
    label = f"{residue.name} {residue.id}{(residue.insertionCode or '').strip()}"
    return f"{label} of chain {chain}" if chain else label


def atom_label(atom: "app.topology.Atom") -> str:
    """Such as ``CB of ALA 2 of chain A``."""
    return f"{atom.name} of {residue_label(atom.residue)}"


def bond_pairs(topology: "app.Topology") -> list[tuple[int, int]]:
    """Pairs of atom indices."""
    return [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]


def listed(items: Iterable[str], limit: int = 5) -> str:
    """Items with commas between them; of many, the first few and how many more there are."""
    every: Sequence[str] = list(items)
    if len(every) <= limit:
        return ", ".join(every)
    return f"{', '.join(every[:limit])} and {len(every) - limit} more"
