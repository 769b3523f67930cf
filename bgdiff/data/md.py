"""Plain molecular dynamics with OpenMM: independent Langevin chains of a molecule."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from bgdiff.data.chains import Arrays
from bgdiff.data.starts import start_structure
from bgdiff.errors import DataError
from bgdiff.random import derive_seed

__all__ = ["Dynamics", "MDTask", "Molecule", "openmm_seed"]

_FRAMES_PER_CHUNK = 500
_EXPLODED = 1000.0  # nm


@dataclass(frozen=True)
class Molecule:
    """What a simulation needs of a system, in a form that pickles."""

    system_xml: str
    structure: NDArray[np.float64]
    """``(N, 3)`` nm."""
    bonds: tuple[tuple[int, int], ...]
    starts: tuple[dict[tuple[int, ...], float], ...]
    """Torsions (rad, by atom indices) of each start."""

    @cached_property
    def system(self) -> openmm.System:
        return openmm.XmlSerializer.deserialize(self.system_xml)

    def start(self, index: int) -> NDArray[np.float64]:
        """Return the minimised structure ``(N, 3)`` with the torsions of start ``index``."""
        return start_structure(self.system, self.structure, self.bonds, self.starts[index])


@dataclass(frozen=True)
class Dynamics:
    """Langevin dynamics with OpenMM's middle scheme (Zhang et al., J. Phys. Chem. A 123, 6056, 2019).

    The scheme's configurational error at 1 fs without constraints is negligible: it is exact for harmonic
    motion. Runs in double precision on the Reference platform.
    """

    step_fs: float
    friction_per_ps: float

    def context(self, system: openmm.System, temperature: float, seed: int) -> openmm.Context:
        """Return a context whose random numbers follow from ``seed`` alone."""
        integrator = openmm.LangevinMiddleIntegrator(temperature, self.friction_per_ps, self.step_fs / 1000)
        integrator.setRandomNumberSeed(seed)
        return openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))

    def steps(self, picoseconds: float) -> int:
        return round(picoseconds * 1000 / self.step_fs)


def openmm_seed(seed: int, *keys: int | str) -> int:
    """Return a seed in the range OpenMM takes; never 0, which means "a random one"."""
    return derive_seed(seed, *keys) % (2**31 - 1) + 1


@dataclass(frozen=True)
class MDTask:
    """One chain of plain MD per start of the molecule; records centred frames ``(n, N, 3)`` float32 nm."""

    molecule: Molecule
    dynamics: Dynamics
    temperature: float
    length_ns: float
    spacing_ps: float
    equilibration_ps: float
    starts_deg: tuple[dict[str, float], ...]
    seed: int
    definition: str
    """Digest of potential and temperature, so that chunks of another potential are not continued."""

    @property
    def n_chains(self) -> int:
        return len(self.molecule.starts)

    @property
    def n_frames(self) -> int:
        """Frames of each chain."""
        return round(self.length_ns * 1000 / self.spacing_ps)

    @property
    def n_chunks(self) -> int:
        return -(-self.n_frames // _FRAMES_PER_CHUNK)

    def fingerprint(self) -> dict[str, Any]:
        settings = {
            key: getattr(self, key)
            for key in (
                "temperature",
                "length_ns",
                "spacing_ps",
                "equilibration_ps",
                "starts_deg",
                "seed",
                "definition",
            )
        }
        return {"task": "md", **settings, **asdict(self.dynamics), "openmm": openmm.__version__}

    def start(self, chain: int) -> Arrays:
        seed = openmm_seed(self.seed, "md", chain, "start")
        context = self.dynamics.context(self.molecule.system, self.temperature, seed)
        context.setPositions(self.molecule.start(chain))
        context.setVelocitiesToTemperature(self.temperature, seed)
        _step(context, self.dynamics.steps(self.equilibration_ps), chain)
        return read_state(context)

    def advance(self, chain: int, chunk: int, state: Arrays) -> tuple[Arrays, Arrays]:
        seed = openmm_seed(self.seed, "md", chain, chunk)
        context = self.dynamics.context(self.molecule.system, self.temperature, seed)
        context.setPositions(state["positions"])
        context.setVelocities(state["velocities"])
        steps = self.dynamics.steps(self.spacing_ps)
        frames = min(_FRAMES_PER_CHUNK, self.n_frames - chunk * _FRAMES_PER_CHUNK)
        record = np.empty((frames, *state["positions"].shape), dtype=np.float32)
        for frame in range(frames):
            record[frame] = _step(context, steps, chain)
        return read_state(context), {"x": record}


def _step(context: openmm.Context, steps: int, chain: int) -> NDArray[np.float64]:
    """Integrate and return the centred positions ``(N, 3)`` nm."""
    reason = f"an atom is more than {_EXPLODED:g} nm from the centre"
    try:
        context.getIntegrator().step(steps)
        x = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        centred: NDArray[np.float64] = x - x.mean(axis=0)
        if (np.abs(centred) < _EXPLODED).all():
            return centred
    except openmm.OpenMMException as error:
        reason = str(error)
    raise DataError(f"chain {chain}: the simulation exploded ({reason}); reduce generate.step_fs")


def read_state(context: openmm.Context) -> Arrays:
    """Return positions (nm) and velocities (nm/ps) in full precision."""
    state = context.getState(positions=True, velocities=True)
    return {
        "positions": np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)),
        "velocities": np.array(
            state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
        ),
    }
