"""Replica exchange (parallel tempering) of a molecule with OpenMM: the independent check on populations.

Nothing here knows of models or importance weights. Replicas at geometrically spaced temperatures
exchange conformations by Metropolis' rule (Sugita & Okamoto, Chem. Phys. Lett. 314, 141, 1999), in the
deterministic even-odd order, which makes conformations travel (Syed et al., J. R. Stat. Soc. B 84,
321, 2022).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from bgdiff.data.chains import Arrays
from bgdiff.data.md import Dynamics, Molecule, openmm_seed
from bgdiff.data.observables import compute_observable
from bgdiff.errors import DataError
from bgdiff.random import derive_seed
from bgdiff.system_spec import ObservableSpec
from bgdiff.targets.openmm import GAS_CONSTANT

__all__ = ["LadderTask", "swap"]

_CHUNK_PS = 20.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LadderTask:
    """Independent replica-exchange ladders, one per start of the molecule.

    One round is ``swap_ps`` of Langevin dynamics of every replica, then exchanges. A chunk records, after
    each round and before its exchanges, ``energy`` U ``(rounds, K)`` in kJ/mol, ``observables``
    ``(rounds, K, O)``, ``walker`` ``(rounds, K)``, which conformation is at which rung, and ``accepted``
    ``(rounds, K-1)``, 1 or 0 where an exchange was tried and nan elsewhere.
    """

    molecule: Molecule
    dynamics: Dynamics
    observables: dict[str, ObservableSpec]
    temperatures: tuple[float, ...]
    length_ns: float
    equilibration_ns: float
    swap_ps: float
    starts_deg: tuple[dict[str, float], ...]
    seed: int
    definition: str
    """Digest of potential and temperature, so that chunks of another potential are not continued."""

    @property
    def n_chains(self) -> int:
        return len(self.molecule.starts)

    @property
    def n_rounds(self) -> int:
        """Rounds recorded of each ladder, without its equilibration."""
        return round(self.length_ns * 1000 / self.swap_ps)

    @property
    def n_chunks(self) -> int:
        return -(-self.n_rounds // self._rounds_per_chunk)

    @property
    def _rounds_per_chunk(self) -> int:
        return max(1, round(_CHUNK_PS / self.swap_ps))

    def fingerprint(self) -> dict[str, Any]:
        names = (
            "temperatures",
            "length_ns",
            "equilibration_ns",
            "swap_ps",
            "starts_deg",
            "seed",
            "definition",
        )
        settings = {name: getattr(self, name) for name in names}
        settings["observables"] = {name: spec.model_dump() for name, spec in self.observables.items()}
        return {"task": "replica exchange", **settings, **asdict(self.dynamics), "openmm": openmm.__version__}

    def start(self, chain: int) -> Arrays:
        """Put the same structure on every rung and equilibrate, exchanges included."""
        structure = self.molecule.start(chain)
        replicas = len(self.temperatures)
        context = self.dynamics.context(self.molecule.system, self.temperatures[0], 1)
        velocities = []
        for rung, temperature in enumerate(self.temperatures):
            context.setPositions(structure)
            context.setVelocitiesToTemperature(
                temperature, openmm_seed(self.seed, "ladder", chain, "velocities", rung)
            )
            velocities.append(_read(context)[2])
        state: Arrays = {
            "positions": np.repeat(structure[None], replicas, axis=0),
            "velocities": np.array(velocities),
            "walker": np.arange(replicas),
        }
        rounds = round(self.equilibration_ns * 1000 / self.swap_ps)
        return self._run(chain, "equilibration", 0, rounds, state)[0]

    def advance(self, chain: int, chunk: int, state: Arrays) -> tuple[Arrays, Arrays]:
        first = chunk * self._rounds_per_chunk
        rounds = min(self._rounds_per_chunk, self.n_rounds - first)
        return self._run(chain, chunk, first, rounds, state)

    def _run(
        self, chain: int, chunk: int | str, first: int, rounds: int, state: Arrays
    ) -> tuple[Arrays, Arrays]:
        rng = np.random.default_rng(derive_seed(self.seed, "ladder", chain, chunk, "swaps"))
        seed = openmm_seed(self.seed, "ladder", chain, chunk)
        context = self.dynamics.context(self.molecule.system, self.temperatures[0], seed)
        integrator = context.getIntegrator()
        temperatures = np.array(self.temperatures)
        beta = 1 / (GAS_CONSTANT * temperatures)
        positions, velocities = state["positions"].copy(), state["velocities"].copy()
        walker = state["walker"].copy()
        steps, replicas = self.dynamics.steps(self.swap_ps), len(beta)
        record: Arrays = {
            "energy": np.empty((rounds, replicas)),
            "observables": np.empty((rounds, replicas, len(self.observables))),
            "walker": np.empty((rounds, replicas), dtype=np.int64),
            "accepted": np.full((rounds, replicas - 1), np.nan),
        }
        for step in range(rounds):
            for rung in range(replicas):
                integrator.setTemperature(temperatures[rung])
                context.setPositions(positions[rung])
                context.setVelocities(velocities[rung])
                try:
                    integrator.step(steps)
                    energy, positions[rung], velocities[rung] = _read(context)
                except openmm.OpenMMException:
                    energy = np.nan
                if not np.isfinite(energy):
                    raise DataError(
                        f"ladder {chain}: the replica at {temperatures[rung]:.0f} K exploded; reduce "
                        "replica_exchange.step_fs or t_max"
                    )
                record["energy"][step, rung] = energy
            for column, spec in enumerate(self.observables.values()):
                record["observables"][step, :, column] = compute_observable(spec, positions)
            record["walker"][step] = walker
            order, record["accepted"][step] = swap(record["energy"][step], beta, (first + step) % 2, rng)
            velocities = velocities[order] * np.sqrt(temperatures / temperatures[order])[:, None, None]
            positions, walker = positions[order], walker[order]
        return {"positions": positions, "velocities": velocities, "walker": walker}, record


def swap(
    energy: Array, beta: Array, parity: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Array]:
    """Try to exchange neighbouring replicas (k, k+1) with k of the given parity.

    A pair is exchanged with probability min(1, exp((β_k - β_{k+1}) (U_k - U_{k+1}))).

    Args:
        energy: U ``(K,)`` of the replica at each rung.
        beta: 1/kT ``(K,)`` of each rung, in the reciprocal unit.
        parity: 0 for pairs (0, 1), (2, 3) …; 1 for (1, 2), (3, 4) ….
        rng: source of the uniform numbers.

    Returns:
        ``order`` ``(K,)``, the old rung of the replica that each rung now holds, and ``accepted``
        ``(K-1,)``, 1 or 0 for pairs that were tried and nan for the others.
    """
    order = np.arange(len(beta))
    accepted = np.full(len(beta) - 1, np.nan)
    for k in range(parity, len(beta) - 1, 2):
        log_ratio = (beta[k] - beta[k + 1]) * (energy[k] - energy[k + 1])
        accepted[k] = float(np.log(rng.random()) < log_ratio)
        if accepted[k]:
            order[[k, k + 1]] = order[[k + 1, k]]
    return order, accepted


def _read(context: openmm.Context) -> tuple[float, Array, Array]:
    """Return U (kJ/mol), positions (nm) and velocities (nm/ps)."""
    state = context.getState(energy=True, positions=True, velocities=True)
    return (
        state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
        state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
        state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond),
    )
