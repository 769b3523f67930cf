"""Reading a structure: a PDB or mmCIF file becomes atoms and coordinates, or a message that says why not."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bgdiff.errors import SystemDefinitionError
from bgdiff.setup.cif import check_first_location, read_cif_records
from bgdiff.setup.molecule import Array, Tell, listed, residue_label
from bgdiff.setup.records import choose_locations, missing_residues, read_records

if TYPE_CHECKING:
    from openmm import app

__all__ = ["WATER", "Structure", "check_complete", "is_cif", "read_structure", "select", "solvent_of"]

WATER = frozenset(
    ["DOD", "H2O", "HOH", "OPC", "SOL", "SPC", "SPCE", "T3P", "T4P", "TIP", "TIP3", "TIP4", "TIP3P", "WAT"]
)
"""Residue names of water in structure files and force fields"""
_REAL_BOX = 0.5  # nm; shorter cells stand for none, as the 1 Å of NMR and model structures


@dataclass(frozen=True)
class Structure:
    """Atoms and coordinates as a file gives them, with all its chains."""

    path: Path
    topology: "app.Topology"
    positions: Array
    """``(N, 3)`` in nm"""
    sequences: dict[str, list[str]]
    """Residue names by chain, as SEQRES lists them; empty if it does not"""
    gaps: tuple[tuple[str, str], ...] = ()
    """Chains that lack residues inside, and which and where"""
    ends: tuple[tuple[str, str], ...] = ()
    """The same of chain ends, where it does no harm"""


def is_cif(path: Path) -> bool:
    """Whether the name is that of an mmCIF file."""
    return path.suffix.lower() in (".cif", ".mmcif", ".pdbx")


def solvent_of(topology: "app.Topology") -> "list[app.Residue]":
    """Waters, and residues of a single atom without bonds, such as ions."""
    bonded = {atom.residue.index for bond in topology.bonds() for atom in (bond.atom1, bond.atom2)}
    return [
        residue
        for residue in topology.residues()
        if residue.name.upper() in WATER or (residue.index not in bonded and len(list(residue.atoms())) == 1)
    ]


def read_structure(path: Path | str, tell: Tell) -> Structure:
    """Read a PDB or mmCIF file: its first model, one location of each atom, without its unit cell.

    Whatever is left out is told.

    Raises:
        SystemDefinitionError: the file is missing, empty, damaged, or has atoms twice.
    """
    from openmm import app, unit

    path = Path(path)
    ends: list[tuple[str, str]] = []
    sequences: dict[str, list[str]] = {}
    if is_cif(path):
        records, inside = read_cif_records(path)
        chosen = check_first_location(path, records)
    else:
        records, chosen = choose_locations(read_records(path))
        inside, ends = missing_residues(records, WATER)
        sequences = records.sequences
    if records.models > 1:
        tell("models", f"{records.models} in the file; the first is taken")
    if chosen:
        tell("alternate locations", f"taken in {listed(chosen, 10)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is checked here
            file = (app.PDBxFile if is_cif(path) else app.PDBFile)(io.StringIO(records.text))
    except Exception as error:  # the readers raise whatever goes wrong inside them
        raise SystemDefinitionError(f"{path}: cannot be read by OpenMM ({error})") from error
    topology = file.topology
    positions = np.array(file.getPositions(asNumpy=True).value_in_unit(unit.nanometer), dtype=np.float64)
    _check_elements(path, topology)
    _leave_box(topology, tell)
    return Structure(path, topology, positions, sequences, tuple(inside), tuple(ends))


def select(structure: Structure, *, keep_only: Sequence[str], remove_solvent: bool, tell: Tell) -> Structure:
    """Keep some chains (all if none is named), and leave out water and ions if that is asked for.

    Raises:
        SystemDefinitionError: there is no such chain, or there are water or ions that nobody asked to remove.
    """
    from openmm import app, unit

    topology = structure.topology
    residues = list(topology.residues())
    chains = list(dict.fromkeys(chain.id for chain in topology.chains()))
    if unknown := [chain for chain in keep_only if chain not in chains]:
        raise SystemDefinitionError(
            f"{structure.path}: has no chain {', '.join(unknown)}; its chains are {', '.join(chains)}"
        )
    leave = [residue for residue in residues if keep_only and residue.chain.id not in keep_only]
    kept = [residue for residue in residues if residue not in set(leave)]
    every = set(solvent_of(topology))
    solvent = [residue for residue in kept if residue in every]
    if solvent and len(solvent) < len(kept):
        found = _kinds(solvent)
        if not remove_solvent:
            raise SystemDefinitionError(
                f"{structure.path}: holds {found} besides the molecule; bgdiff takes one molecule without "
                "solvent: leave them out with --remove-solvent (and stand for water with --implicit)"
            )
        tell("left out", found)
        leave += solvent
    names = {residue.chain.id for residue in set(kept) - set(solvent)}
    gaps, ends = (
        tuple(item for item in found if item[0] in names) for found in (structure.gaps, structure.ends)
    )
    if ends:
        places = listed(where for _, where in ends)
        tell("sequence", f"residues of SEQRES without atoms at chain ends are left out: {places}")
    structure = replace(structure, gaps=gaps)
    if not leave:
        return structure
    if gone := [residue for residue in leave if residue not in every]:
        tell("left out", f"{len(gone)} residues of chain {', '.join(sorted({r.chain.id for r in gone}))}")
    modeller = app.Modeller(topology, structure.positions * unit.nanometer)
    modeller.delete(leave)
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer), dtype=np.float64)
    if not len(positions):
        raise SystemDefinitionError(f"{structure.path}: nothing is left of it")
    sequences = {chain: names_of for chain, names_of in structure.sequences.items() if chain in names}
    return replace(structure, topology=modeller.topology, positions=positions, sequences=sequences)


def _kinds(residues: "Sequence[app.Residue]") -> str:
    """Such as ``214 waters, 3 ions (NA 3)``."""
    water = [residue for residue in residues if residue.name.upper() in WATER]
    others = [residue for residue in residues if residue.name.upper() not in WATER]
    names = {
        name: sum(residue.name == name for residue in others) for name in sorted({r.name for r in others})
    }
    parts = []
    if water:
        parts.append(f"{len(water)} water{'s' if len(water) > 1 else ''}")
    if others:
        listing = ", ".join(f"{name} {count}" for name, count in names.items())
        where = f", the first is {residue_label(others[0])}"
        parts.append(f"{len(others)} ion{'s' if len(others) > 1 else ''} or single atoms ({listing}{where})")
    return " and ".join(parts)


def _check_elements(path: Path, topology: "app.Topology") -> None:
    unknown = [atom for atom in topology.atoms() if atom.element is None]
    if unknown:
        names = listed(f"{atom.name} of {residue_label(atom.residue)}" for atom in unknown)
        raise SystemDefinitionError(
            f"{path}: the element of {len(unknown)} atom{'s' if len(unknown) > 1 else ''} is unknown: "
            f"{names}; write it in columns 77 and 78 (in mmCIF: type_symbol). Extra particles, such as "
            "virtual sites, have no place here"
        )


def _leave_box(topology: "app.Topology", tell: Tell) -> None:
    """The molecule is alone in space: forget the unit cell."""
    from openmm import unit

    lengths = topology.getUnitCellDimensions()
    topology.setPeriodicBoxVectors(None)
    if lengths is not None and min(sizes := lengths.value_in_unit(unit.nanometer)) > _REAL_BOX:
        box = " × ".join(f"{size:.2f}" for size in sizes)
        tell("unit cell", f"{box} nm in the file is left out: the molecule is alone in space")


def check_complete(structure: Structure) -> None:
    """Refuse a structure whose chains lack residues.

    Raises:
        SystemDefinitionError: it names the residues and their neighbours.
    """
    if structure.gaps:
        raise SystemDefinitionError(
            f"{structure.path}: residues are missing inside a chain: "
            f"{listed(where for _, where in structure.gaps)}; build them "
            "with --add-heavy-atoms (PDBFixer, from SEQRES) or another program, or take one side of the "
            "gap as the molecule"
        )
