"""Molecules with exactly known answers: a bond with two stable lengths, and a torsion with two minima."""

import itertools
from pathlib import Path

import numpy as np
import openmm
from openmm import app
from scipy.integrate import quad

from bgdiff.systems import System, load_system
from bgdiff.targets.openmm import GAS_CONSTANT

TEMPERATURE = 300.0
SHORT, LONG, BARRIER = 0.2, 0.3, 6.0  # nm, nm, kT of 300 K

YAML = """
name: switch
title: Two argon atoms whose bond has two lengths
kind: openmm
temperature: 300.0
system: system.xml
topology: topology.pdb
observables:
  r: {distance: [0, 1]}
basins:
  short: {observable: r, intervals: [[0, 0.25]]}
  long: {observable: r, intervals: [[0.25, .inf]]}
free_energy_differences:
  - {name: length, initial: short, final: long}
generate: {starts: [{}, {}, {}], length_ns: 0.004, spacing_ps: 0.002, equilibration_ps: 1.0}
replica_exchange:
  {starts: [{}, {}, {}, {}, {}, {}, {}, {}], t_max: 900.0, temperatures: 3, length_ns: 0.05,
   equilibration_ns: 0.005, swap_ps: 0.1, spacing_ps: 0.1}
"""


def switch_folder(folder: Path) -> Path:
    """Write the system to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    system = openmm.System()
    for _ in range(2):
        system.addParticle(10.0)
    middle, half = (SHORT + LONG) / 2, (LONG - SHORT) / 2
    height = BARRIER * GAS_CONSTANT * TEMPERATURE
    bond = openmm.CustomBondForce(f"{height} * (((r - {middle}) / {half})^2 - 1)^2")
    bond.addBond(0, 1)
    system.addForce(bond)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))

    topology = app.Topology()
    residue = topology.addResidue("SW", topology.addChain())
    atoms = [topology.addAtom(name, app.Element.getBySymbol("Ar"), residue) for name in ("A1", "A2")]
    topology.addBond(*atoms)
    positions = np.array([[0.0, 0.0, 0.0], [SHORT, 0.0, 0.0]])
    with open(folder / "topology.pdb", "w") as stream:
        app.PDBFile.writeFile(topology, positions * 10, stream)
    (folder / "system.yaml").write_text(YAML)
    return folder


def switch_system(folder: Path) -> System:
    return load_system(switch_folder(folder))


def switch_difference() -> float:
    """F_long - F_short by quadrature; the volume element is r²."""
    middle, half = (SHORT + LONG) / 2, (LONG - SHORT) / 2

    def density(r: float) -> float:
        return r**2 * float(np.exp(-BARRIER * (((r - middle) / half) ** 2 - 1) ** 2))

    short, long = quad(density, 0, 0.25)[0], quad(density, 0.25, 0.6)[0]
    return float(np.log(short / long))


TWIST_YAML = """
name: twist
title: Four atoms in a chain whose torsion has two minima
kind: openmm
temperature: 300.0
system: system.xml
topology: topology.pdb
observables:
  phi: {dihedral: [0, 1, 2, 3]}
basins:
  trans: {observable: phi, intervals: [[90, 270]]}
  cis: {observable: phi, intervals: [[-90, 90]]}
free_energy_differences:
  - {name: torsion, initial: trans, final: cis}
generate:
  {starts: [{phi: 180}, {phi: 0}], chains_per_start: 3, length_ns: 0.02, spacing_ps: 0.05,
   step_fs: 5.0, equilibration_ps: 2.0}
replica_exchange:
  {starts: [{phi: 180}, {phi: 0}, {phi: 180}, {phi: 0}], t_max: 900.0, temperatures: 3, ladders: 32,
   length_ns: 0.02, equilibration_ns: 0.004, swap_ps: 0.1, spacing_ps: 0.2, step_fs: 4.0}
"""

TILT, FOLD = 1.5, 3.0  # kT of 300 K: u = TILT cos φ + FOLD (1 - cos 2φ)


def twist_folder(
    folder: Path, *, bond: float = 1e5, angle: float = 400.0, tilt: float = TILT, temperature: float = 300.0
) -> Path:
    """Write a system that the batched engine covers; its torsion's density is exp(-u) exactly.

    Its name is the folder's. Force constants in kJ/mol and nm or rad; ``tilt`` in kT of 300 K.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kT = GAS_CONSTANT * TEMPERATURE
    system = openmm.System()
    bonds, angles, torsions = (
        openmm.HarmonicBondForce(),
        openmm.HarmonicAngleForce(),
        openmm.PeriodicTorsionForce(),
    )
    for index in range(4):
        system.addParticle(12.0)
        if index < 3:
            bonds.addBond(index, index + 1, 0.15, bond)
        if index < 2:
            angles.addAngle(index, index + 1, index + 2, 1.9, angle)
    torsions.addTorsion(0, 1, 2, 3, 1, 0.0, tilt * kT)
    torsions.addTorsion(0, 1, 2, 3, 2, np.pi, FOLD * kT)
    for force in (bonds, angles, torsions):
        system.addForce(force)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))

    topology = app.Topology()
    residue = topology.addResidue("TW", topology.addChain())
    atoms = [topology.addAtom(f"C{k}", app.Element.getBySymbol("C"), residue) for k in range(1, 5)]
    for first, second in itertools.pairwise(atoms):
        topology.addBond(first, second)
    positions = np.array([[0.0, 1.4, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [1.5, -1.4, 0.3]])
    with open(folder / "topology.pdb", "w") as stream:
        app.PDBFile.writeFile(topology, positions, stream)
    text = TWIST_YAML.replace("name: twist", f"name: {folder.name}")
    (folder / "system.yaml").write_text(text.replace("temperature: 300.0", f"temperature: {temperature}"))
    return folder


def twist_system(folder: Path) -> System:
    return load_system(twist_folder(folder))


def twist_difference(scale: float = 1.0, tilt: float = TILT) -> float:
    """F_cis - F_trans at ``scale`` · 300 K by quadrature; the torsion's volume element is flat."""

    def density(phi: float) -> float:
        return float(np.exp(-(tilt * np.cos(phi) + FOLD * (1 - np.cos(2 * phi))) / scale))

    cis, trans = (quad(density, lo, lo + np.pi)[0] for lo in (-np.pi / 2, np.pi / 2))
    return float(np.log(trans / cis))


def twist_log_z(
    *, bond: float = 1e5, angle: float = 400.0, tilt: float = TILT, temperature: float = 300.0
) -> float:
    """Log Z of :func:`twist_folder` by quadrature, but for the rigid motions, which are the same for all.

    Bonds, angles and torsion are independent, with the volume elements r², sin θ and 1.
    """
    beta, scale = 1 / (GAS_CONSTANT * temperature), TEMPERATURE / temperature
    one_bond = quad(lambda r: r**2 * np.exp(-beta * bond * (r - 0.15) ** 2 / 2), 0, 0.5, points=[0.15])[0]
    one_angle = quad(lambda x: np.sin(x) * np.exp(-beta * angle * (x - 1.9) ** 2 / 2), 0, np.pi)[0]
    torsion = quad(
        lambda phi: np.exp(-scale * (tilt * (1 + np.cos(phi)) + FOLD * (1 - np.cos(2 * phi)))), -np.pi, np.pi
    )[0]
    return float(3 * np.log(one_bond) + 2 * np.log(one_angle) + np.log(torsion))
