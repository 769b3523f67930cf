"""Atoms that a structure lacks: heavy ones by PDBFixer, hydrogens by OpenMM's Modeller."""

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.setup.molecule import Tell, listed, residue_label
from bgdiff.setup.structure import Structure

if TYPE_CHECKING:
    from openmm import app

__all__ = ["add_heavy_atoms", "add_hydrogens"]


def add_heavy_atoms(structure: Structure, tell: Tell) -> Structure:
    """Build missing heavy atoms, and residues inside chains that SEQRES names, with PDBFixer.

    Raises:
        ConfigError: PDBFixer is not installed.
        SystemDefinitionError: PDBFixer gave up.
    """
    from openmm import app, unit

    try:
        from pdbfixer import PDBFixer
    except ImportError as error:
        raise ConfigError(
            "--add-heavy-atoms needs PDBFixer, which is not installed: pip install pdbfixer (or pip "
            "install 'bgdiff[molecules]')"
        ) from error
    text = io.StringIO()
    text.writelines(_seqres(structure.sequences))
    app.PDBFile.writeFile(structure.topology, 10 * structure.positions, text, keepIds=True)
    text.seek(0)
    try:
        fixer = PDBFixer(pdbfile=text)
        fixer.findMissingResidues()
        inner = {
            (chain, place): names
            for (chain, place), names in fixer.missingResidues.items()
            if 0 < place < len(list(list(fixer.topology.chains())[chain].residues()))
        }
        fixer.missingResidues = inner
        chains = [list(chain.residues()) for chain in fixer.topology.chains()]
        built = [
            f"{' '.join(names)} after {residue_label(chains[chain][place - 1])}"
            for (chain, place), names in inner.items()
        ]
        fixer.findMissingAtoms()
        told = [
            f"{residue_label(residue)} ({', '.join(names)})"
            for residue, names in _missing_names(fixer).items()
        ]
        if not inner and not told:
            return structure
        fixer.addMissingAtoms(seed=1)
    except Exception as error:  # PDBFixer raises plain exceptions
        raise SystemDefinitionError(
            f"{structure.path}: PDBFixer could not build missing atoms ({error})"
        ) from error
    if inner:
        tell("residues built", listed(built))
    if told:
        tell("heavy atoms built", listed(told, 10))
    topology = fixer.topology
    topology.setPeriodicBoxVectors(None)
    positions = np.array(fixer.positions.value_in_unit(unit.nanometer), dtype=np.float64)
    return replace(structure, topology=topology, positions=positions, gaps=())


def add_hydrogens(structure: Structure, force_field: "app.ForceField", ph: float, tell: Tell) -> Structure:
    """Add the hydrogens that residues lack at a pH, as OpenMM's ``Modeller.addHydrogens`` does.

    The same structure always gets the same hydrogens.

    Raises:
        SystemDefinitionError: a residue fits no template of the force field, with hydrogens or without.
    """
    from openmm import Platform, app, unit

    modeller = app.Modeller(structure.topology, structure.positions * unit.nanometer)
    before = structure.topology.getNumAtoms()
    try:
        with _same_random_numbers():  # it places hydrogens at random before it relaxes them
            modeller.addHydrogens(force_field, pH=ph, platform=Platform.getPlatformByName("Reference"))
    except Exception as error:
        raise SystemDefinitionError(f"{structure.path}: hydrogens cannot be added ({error})") from error
    added = modeller.topology.getNumAtoms() - before
    if not added:
        return structure
    forms = _forms(force_field, modeller.topology)
    chosen = f"; forms chosen: {listed(forms, 10)}" if forms else ""
    tell("hydrogens added", f"{added}, for pH {ph:g}{chosen}")
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer), dtype=np.float64)
    return replace(structure, topology=modeller.topology, positions=positions)


def _forms(force_field: "app.ForceField", topology: "app.Topology") -> list[str]:
    """Residues whose protons are not those that their name says, such as ``HIS 3 of chain A as HIE``."""
    try:
        templates = force_field.getMatchingTemplates(topology)
    except ValueError:  # a residue fits none, which is told when templates are checked
        return []
    forms = (
        (residue, template.name[-3:])
        for residue, template in zip(topology.residues(), templates, strict=True)
    )
    return [f"{residue_label(residue)} as {form}" for residue, form in forms if form != residue.name]


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    state = random.getstate()
    random.seed(1)
    try:
        yield
    finally:
        random.setstate(state)


def _missing_names(fixer: Any) -> "dict[app.Residue, list[str]]":
    """Names of the heavy atoms that PDBFixer will build, by residue."""
    names = {residue: [atom.name for atom in atoms] for residue, atoms in fixer.missingAtoms.items()}
    for residue, terminals in fixer.missingTerminals.items():
        names.setdefault(residue, []).extend(terminals)
    return names


def _seqres(sequences: dict[str, list[str]]) -> Iterator[str]:
    for chain, names in sequences.items():
        for row in range(0, len(names), 13):
            residues = " ".join(f"{name:>3}" for name in names[row : row + 13])
            yield f"SEQRES {row // 13 + 1:3d} {chain or ' '} {len(names):4d}  {residues}\n"
