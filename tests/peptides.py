"""Capped and zwitterionic peptides of any sequence, built from the residue templates of a force field alone.

Coordinates come from the bond graph: a projection of its distances to three dimensions, relaxed by OpenMM
with bonds, angles, torsions, a soft repulsion and the L form of every Cα, and at last with the whole force
field. They have ordinary energies, but are no minima.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

# fmt: off
AMINO_ACIDS = (  # the neutral forms of histidine and cysteine, the charged ones of the others
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIE", "ILE",
    "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL",
)
# fmt: on
OTHER_FORMS = ("ASH", "GLH", "HID", "HIP", "LYN")
FORCE_FIELDS = {
    "ff14SB": "amber14/protein.ff14SB.xml",
    "ff19SB": "amber19/protein.ff19SB.xml",
    "ff99SBildn": "amber99sbildn.xml",
    "ff96": "amber96.xml",
}
SOLVENTS = {
    "vacuum": (),
    "HCT": ("implicit/hct.xml",),
    "OBC1": ("implicit/obc1.xml",),
    "OBC2": ("implicit/obc2.xml",),
    "GBn": ("implicit/gbn.xml",),
    "GBn2": ("implicit/gbn2.xml",),
}
_TEMPLATES = Path(app.__file__).parent / "data" / FORCE_FIELDS["ff14SB"]


def peptide(*residues: str, capped: bool = True) -> app.Topology:
    """ACE-residues-NME, or the zwitterion; names as in Amber (HIE, HID, HIP)."""
    templates = _templates()
    if capped:
        names = ["ACE", *residues, "NME"]
    else:
        names = [f"N{residues[0]}", *residues[1:-1], f"C{residues[-1]}"]
    topology = app.Topology()
    chain = topology.addChain()
    carbon = None
    for name in names:
        elements, bonds = templates[name]
        residue = topology.addResidue(name[-3:], chain)
        atoms = {atom: topology.addAtom(atom, element, residue) for atom, element in elements.items()}
        for first, second in bonds:
            topology.addBond(atoms[first], atoms[second])
        if carbon is not None:
            topology.addBond(carbon, atoms["N"])
        carbon = atoms.get("C")
    return topology


def peptide_system(
    topology: app.Topology, force_field: str, solvent: str, **options: object
) -> openmm.System:
    """The System of a peptide, without cutoff or constraints."""
    files = (FORCE_FIELDS[force_field], *SOLVENTS[solvent])
    return _force_field(files).createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, **options
    )


def obc_force_system(topology: app.Topology, force_field: str = "amber96") -> openmm.System:
    """The System of a force field whose OBC2 is a GBSAOBCForce: amber96, amber99, amber03 or amber10."""
    return _force_field((f"{force_field}.xml", f"{force_field}_obc.xml")).createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False
    )


def find_force(system: openmm.System, name: str) -> openmm.Force:
    """The first force of that class; it lives no longer than ``system``."""
    return next(force for force in system.getForces() if type(force).__name__ == name)


def peptide_structure(topology: app.Topology, seed: int = 0) -> NDArray[np.float64]:
    """Relaxed coordinates ``(N, 3)`` in nm."""
    bonds = np.array([(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()])
    n_atoms = topology.getNumAtoms()
    graph = csr_matrix((np.ones(len(bonds)), bonds.T), shape=(n_atoms, n_atoms))
    distance = 0.12 * shortest_path(graph, directed=False)
    centre = np.eye(n_atoms) - 1 / n_atoms
    values, vectors = np.linalg.eigh(-0.5 * centre @ distance**2 @ centre)
    projection = vectors[:, -3:] * np.sqrt(values[-3:])

    system = peptide_system(topology, "ff14SB", "vacuum")
    shape = _shape_only(topology, system)
    generator = np.random.default_rng(seed)
    for _ in range(20):  # now and then a Cα stays caught in the D form
        x = projection + generator.normal(scale=0.03, size=projection.shape)
        x = _relax(system, _relax(shape, x, 300), 60)
        if all(_volume(x[list(corner)]) < 0 for corner in _corners(topology, "CB")):
            return x
    raise AssertionError(f"no L form found for {[residue.name for residue in topology.residues()]}")


@cache
def _templates() -> dict[str, tuple[dict[str, app.Element], list[tuple[str, str]]]]:
    root = ElementTree.parse(_TEMPLATES).getroot()
    elements = {kind.get("name"): app.Element.getBySymbol(kind.get("element")) for kind in root.iter("Type")}
    return {
        residue.get("name"): (
            {atom.get("name"): elements[atom.get("type")] for atom in residue.iter("Atom")},
            [(bond.get("atomName1"), bond.get("atomName2")) for bond in residue.iter("Bond")],
        )
        for residue in root.find("Residues")
    }


@cache
def _force_field(files: tuple[str, ...]) -> app.ForceField:
    return app.ForceField(*files)


def _shape_only(topology: app.Topology, system: openmm.System) -> openmm.System:
    """Bonds, angles and torsions of ``system``, with a soft repulsion and every Cα held in the L form."""
    shape = openmm.System()
    for index in range(system.getNumParticles()):
        shape.addParticle(system.getParticleMass(index))
    for force in system.getForces():
        if isinstance(
            force, openmm.HarmonicBondForce | openmm.HarmonicAngleForce | openmm.PeriodicTorsionForce
        ):
            shape.addForce(openmm.XmlSerializer.clone(force))

    repulsion = openmm.CustomNonbondedForce("2000*step(0.2-r)*(r-0.2)^2")
    for _ in range(system.getNumParticles()):
        repulsion.addParticle([])
    bonds = [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]
    repulsion.createExclusionsFromBonds(bonds, 2)
    shape.addForce(repulsion)

    # In an L residue the improper torsions N-C-CB-CA and N-C-HA-CA are about -33 and 33 degrees.
    handedness = openmm.CustomTorsionForce("1000*(theta-sign*0.57)^2")
    handedness.addPerTorsionParameter("sign")
    for name, sign in (("CB", -1), ("HA", 1)):
        for corner in _corners(topology, name):
            handedness.addTorsion(*corner, [sign])
    shape.addForce(handedness)
    return shape


def _corners(topology: app.Topology, name: str) -> Iterator[tuple[int, ...]]:
    """N, C, the atom of that name, and CA, of every residue with a side chain."""
    for residue in topology.residues():
        atoms = {atom.name: atom.index for atom in residue.atoms()}
        if "CB" in atoms:
            yield atoms["N"], atoms["C"], atoms[name], atoms["CA"]


def _volume(x: NDArray[np.float64]) -> float:
    """Signed volume spanned by four points; its sign is that of their torsion."""
    return float(np.linalg.det(np.diff(x, axis=0)))


def _relax(system: openmm.System, x: NDArray[np.float64], iterations: int) -> NDArray[np.float64]:
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    openmm.LocalEnergyMinimizer.minimize(context, 1.0, iterations)
    return context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
