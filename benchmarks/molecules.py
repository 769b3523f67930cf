"""Molecules of the force-field benchmark, with conformations from short dynamics; nothing is downloaded."""

from dataclasses import dataclass

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from bgdiff.random import derive_seed
from bgdiff.systems import load_system
from tests.peptides import peptide, peptide_structure, peptide_system

__all__ = ["MOLECULES", "BenchmarkMolecule", "conformations", "make_molecule"]

_CHIGNOLIN = ("GLY", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "GLY")
_BUILT = {
    "alanine dipeptide OBC1": (("ALA",), True, "ff96"),
    "tetra-alanine OBC1": (("ALA",) * 4, True, "ff14SB"),
    "chignolin OBC1": (_CHIGNOLIN, False, "ff14SB"),
}
_VACUUM = "alanine dipeptide vacuum"
MOLECULES = (_VACUUM, *_BUILT)

_TEMPERATURES = (300.0, 500.0)
_EQUILIBRATION, _SPACING = 1000, 20  # steps of 1 fs


@dataclass(frozen=True)
class BenchmarkMolecule:
    """A force field with a structure ``(N, 3)`` in nm to start from."""

    name: str
    system: openmm.System
    structure: NDArray[np.float64]

    @property
    def n_atoms(self) -> int:
        return self.system.getNumParticles()


def make_molecule(name: str) -> BenchmarkMolecule:
    """One of :data:`MOLECULES`. Chignolin has its sequence, GYDPETGTWG, but not its fold."""
    if name == _VACUUM:
        shipped = load_system("alanine_dipeptide_vacuum")
        return BenchmarkMolecule(name, shipped.openmm_system, shipped.structure)
    residues, capped, force_field = _BUILT[name]
    topology = peptide(*residues, capped=capped)
    system = peptide_system(topology, force_field, "OBC1")
    return BenchmarkMolecule(name, system, peptide_structure(topology))


def conformations(molecule: BenchmarkMolecule, frames: int, batch: int, seed: int) -> NDArray[np.float64]:
    """Conformations ``(batch, N, 3)`` in nm: ``frames`` of Langevin dynamics at 300 and 500 K.

    If ``batch`` is larger they are repeated with every coordinate moved by 1e-4 nm, so that none is the same.
    """
    kept = [
        _dynamics(molecule, temperature, -(-frames // len(_TEMPERATURES)), derive_seed(seed, "dynamics", k))
        for k, temperature in enumerate(_TEMPERATURES)
    ]
    x = np.stack(kept, axis=1).reshape(-1, molecule.n_atoms, 3)  # both temperatures in every part of a batch
    x = x[np.arange(batch) % len(x)]
    moved = x[frames:] if batch > frames else x[:0]
    moved += np.random.default_rng(seed).normal(scale=1e-4, size=moved.shape)
    return x


def _dynamics(molecule: BenchmarkMolecule, temperature: float, frames: int, seed: int) -> NDArray[np.float64]:
    integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0, 0.001)
    integrator.setRandomNumberSeed(seed % (2**31 - 1) + 1)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(molecule.system, integrator, platform, {"Threads": "1"})
    context.setPositions(molecule.structure)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=200)
    context.setVelocitiesToTemperature(temperature, seed % (2**31 - 1) + 1)
    integrator.step(_EQUILIBRATION)
    x = np.empty((frames, molecule.n_atoms, 3))
    for frame in range(frames):
        integrator.step(_SPACING)
        state = context.getState(positions=True)
        x[frame] = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return x
