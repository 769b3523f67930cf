"""OpenMM: what was learned as a force, corrected samples as starting states, the generator as a move.

A :class:`~bgdiff.generator.BoltzmannGenerator` of a molecule, or a run of one, is all that is needed:

- :func:`export_run`, :func:`export_starts`: weighted samples as State files that MD starts from;
- :func:`learned_force`, :func:`learned_system`: MD in the energy that was learned, or biased by it;
- :class:`GeneratorMoves`: MD that also jumps between basins, by proposals of the generator.

Units are OpenMM's: nm, kJ/mol, ps, K.
"""

import copy
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import unit

from bgdiff.errors import ConfigError
from bgdiff.interop.generator_moves import GeneratorMoves
from bgdiff.interop.learned_energy import LearnedEnergy, one_thread
from bgdiff.interop.starting_states import choose_starts, export_run, export_starts
from bgdiff.targets.openmm import GAS_CONSTANT

if TYPE_CHECKING:
    from bgdiff.generator import BoltzmannGenerator

__all__ = [
    "LAMBDA",
    "GeneratorMoves",
    "Mode",
    "choose_starts",
    "export_run",
    "export_starts",
    "learned_force",
    "learned_system",
]

LAMBDA = "lambda_learned"
"""Name of the global parameter that scales the learned energy; ``context.setParameter`` changes it."""

Mode = Literal["replace", "add", "mix"]

# Forces that act on velocities or the box and have no energy.
_WITHOUT_ENERGY = (openmm.CMMotionRemover, openmm.AndersenThermostat)


def learned_force(generator: "BoltzmannGenerator", *, scale: float = 1.0) -> "openmm.PythonForce":
    """λ U(x) with U = -RT [log p̃_θ(z(x), σ_1) + log|det dz/dx|]: the energy of the lowest rung, in kJ/mol.

    T is the temperature the generator was trained for, and λ the global parameter :data:`LAMBDA`. U lacks
    a constant; see :class:`~bgdiff.interop.learned_energy.LearnedEnergy` for what it is and where it ends.
    ``setParticles`` makes it act on the molecule's atoms in a larger System.

    The force can be serialised with the System: the XML then holds the network, pickled. Whoever reads it
    needs bgdiff, and should trust its origin, since pickles may run any code.

    Args:
        generator: of a molecule.
        scale: initial value of λ.

    Raises:
        ConfigError: this OpenMM has no ``PythonForce``, which came with version 8.5.
        SystemDefinitionError: the system is no molecule.
    """
    if not hasattr(openmm, "PythonForce"):
        raise ConfigError(
            f"OpenMM {openmm.__version__} has no PythonForce, which a learned energy needs; it came with "
            "OpenMM 8.5: pip install 'openmm>=8.5' (starting states and GeneratorMoves do without it)"
        )
    _ = generator.system.openmm_system  # refuses what is no molecule
    compute = _Compute(LearnedEnergy.of(generator), GAS_CONSTANT * generator.system.temperature)
    force = openmm.PythonForce(compute, {LAMBDA: scale})
    force.setName("LearnedEnergy")
    return force


def learned_system(
    generator: "BoltzmannGenerator", mode: Mode = "replace", *, scale: float = 1.0, group: int = 1
) -> openmm.System:
    """A new System of the same particles whose potential contains the learned energy U_θ.

    ====================  ==========================================================================
    ``replace``           λ U_θ; the force field is gone
    ``add``               U + λ U_θ: a bias
    ``mix``               U + λ (U_θ - U): from the force field, λ = 0, to what was learned, λ = 1
    ====================  ==========================================================================

    U is the force field. What is added to it has a force group of its own, so that its energy can be read,
    and that ``MTSIntegrator`` can evaluate it more seldom: in mode ``mix`` it is a small difference, free
    of stiff vibrations as far as those were learned.

    Args:
        scale: initial value of λ, the global parameter :data:`LAMBDA`.
        group: force group of what is added, from 0 to 31.

    Raises:
        ConfigError: no such mode or group, or an OpenMM without ``PythonForce``.
        SystemDefinitionError: the system is no molecule.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"mode: must be one of {', '.join(get_args(Mode))}, not {mode!r}")
    if not 0 <= group < 32:
        raise ConfigError(f"group: OpenMM's force groups are 0 to 31, not {group}")
    learned = learned_force(generator, scale=scale)
    learned.setForceGroup(group)
    system = copy.deepcopy(generator.system.openmm_system)
    energies = [k for k, force in enumerate(system.getForces()) if not isinstance(force, _WITHOUT_ENERGY)]
    if mode == "mix":
        names = [f"force{k}" for k in energies]
        removed = openmm.CustomCVForce(f"-{LAMBDA}*({' + '.join(names)})")
        removed.addGlobalParameter(LAMBDA, scale)
        for name, k in zip(names, energies, strict=True):
            removed.addCollectiveVariable(name, copy.deepcopy(system.getForce(k)))
        removed.setForceGroup(group)
        removed.setName("MinusForceField")
        system.addForce(removed)
    if mode == "replace":
        for k in reversed(energies):
            system.removeForce(k)
    system.addForce(learned)
    return system


class _Compute:
    """What OpenMM calls for energy (kJ/mol) and forces (kJ/mol/nm); it can be pickled."""

    def __init__(self, learned: LearnedEnergy, kT: float) -> None:
        self.learned, self.kT = learned, kT

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        scale = state.getParameters()[LAMBDA]
        if scale == 0:
            return 0.0, np.zeros_like(positions)
        with one_thread():
            energy, force = self.learned.energy_and_force(torch.from_numpy(np.array(positions))[None])
        factor = scale * self.kT
        return factor * float(energy), factor * force[0].numpy()
