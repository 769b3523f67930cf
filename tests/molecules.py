"""A molecule with an exactly known answer: two atoms whose bond has two stable lengths."""

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
   equilibration_ns: 0.005, swap_ps: 0.1}
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
