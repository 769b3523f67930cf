"""Plain molecular dynamics: independent Langevin chains of a molecule."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
import torch
from torch import Tensor

import bgdiff
from bgdiff.data.chains import Arrays
from bgdiff.data.simulator import Simulator, openmm_seed
from bgdiff.errors import DataError
from bgdiff.random import generator_for
from bgdiff.sampling import UnstableDynamicsError, Walkers

__all__ = ["MDTask"]

_FRAMES_PER_CHUNK = 500
_STEPS_PER_CHUNK = 10_000_000  # of all walkers of a batch together: about ten seconds on one core
_BATCH = 1024  # walkers; more would not be faster, and fewer chunks could run side by side
_EXPLODED = 1000.0  # nm


@dataclass(frozen=True)
class MDTask:
    """Chains of plain MD, ``chains_per_start`` from each start of the molecule.

    A chain of the task is a batch of walkers, which the batched engine advances together; OpenMM gets batches
    of one. Equilibration comes first, in chunks that record nothing; then a chunk records centred frames
    ``x`` ``(n, walkers, N, 3)`` float32 nm.
    """

    simulator: Simulator
    length_ns: float
    spacing_ps: float
    equilibration_ps: float
    chains_per_start: int
    starts: tuple[dict[str, Any], ...]
    """What tells the starts apart: torsions in degrees, or places in files."""
    seed: int
    definition: str
    """Digest of potential and temperature, so that chunks of another potential are not continued."""

    @property
    def n_chains(self) -> int:
        return -(-self._n_walkers // self._batch)

    @property
    def n_frames(self) -> int:
        """Frames of each walker."""
        return round(self.length_ns * 1000 / self.spacing_ps)

    @property
    def n_chunks(self) -> int:
        return self._n_equilibration + -(-self.n_frames // self._frames_per_chunk)

    @property
    def _n_walkers(self) -> int:
        return len(self.starts) * self.chains_per_start

    @property
    def _batch(self) -> int:
        return _BATCH if self.simulator.batched else 1

    def _walkers(self, chain: int) -> range:
        """Numbers of the walkers of a batch; walker w has start ``w // chains_per_start``."""
        return range(chain * self._batch, min((chain + 1) * self._batch, self._n_walkers))

    @property
    def _frames_per_chunk(self) -> int:
        steps = self.simulator.steps(self.spacing_ps) * min(self._batch, self._n_walkers)
        return max(1, min(_FRAMES_PER_CHUNK, _STEPS_PER_CHUNK // steps))

    @property
    def _equilibration_steps(self) -> int:
        return self.simulator.steps(self.equilibration_ps)

    @property
    def _n_equilibration(self) -> int:
        """Chunks of equilibration."""
        per_chunk = self._frames_per_chunk * self.simulator.steps(self.spacing_ps)
        return -(-self._equilibration_steps // per_chunk) if self.simulator.batched else 1

    def fingerprint(self) -> dict[str, Any]:
        names = (
            "length_ns",
            "spacing_ps",
            "equilibration_ps",
            "chains_per_start",
            "starts",
            "seed",
            "definition",
        )
        return {
            "task": "md",
            **{name: getattr(self, name) for name in names},
            "temperature": self.simulator.temperature,
            "step_fs": self.simulator.step_fs,
            "friction_per_ps": self.simulator.friction_per_ps,
            "evaluator": self.simulator.describe(),
            "versions": [bgdiff.__version__, torch.__version__, openmm.__version__],
        }

    def start(self, chain: int) -> Arrays:
        starts = {walker: walker // self.chains_per_start for walker in self._walkers(chain)}
        structures = {start: self.simulator.molecule.start(start) for start in sorted(set(starts.values()))}
        x = torch.from_numpy(np.stack([structures[start] for start in starts.values()]))
        velocity = self.simulator.start_velocities(x, self.seed, "md", chain, "start")
        return {"positions": x.numpy(), "velocities": velocity.numpy()}

    def advance(self, chain: int, chunk: int, state: Arrays) -> tuple[Arrays, Arrays]:
        simulator = self.simulator
        walkers = Walkers.at(
            simulator.target, torch.from_numpy(state["positions"]), torch.from_numpy(state["velocities"])
        )
        number = chunk - self._n_equilibration
        if number < 0:
            return self._equilibrate(chain, chunk, walkers), {}
        frames = min(self._frames_per_chunk, self.n_frames - number * self._frames_per_chunk)
        move = simulator.langevin(
            simulator.steps(self.spacing_ps), openmm_seed(self.seed, "md", chain, number)
        )
        generator = generator_for(self.seed, "md", chain, number)
        record = np.empty((frames, *walkers.x.shape), dtype=np.float32)
        for frame in range(frames):
            record[frame] = self._advance(move, walkers, generator, chain).numpy()
        return _state(walkers), {"x": record}

    def _equilibrate(self, chain: int, chunk: int, walkers: Walkers) -> Arrays:
        parts = self._n_equilibration
        steps = self._equilibration_steps * (chunk + 1) // parts - self._equilibration_steps * chunk // parts
        # OpenMM's seed is the one of the start, so that data sets made before this split are reproduced.
        move = self.simulator.langevin(steps, openmm_seed(self.seed, "md", chain, "start"))
        generator = generator_for(self.seed, "md", chain, "equilibration", chunk)
        self._advance(move, walkers, generator, chain)
        return _state(walkers)

    def _advance(self, move: Any, walkers: Walkers, generator: torch.Generator, chain: int) -> Tensor:
        """Move, and return the centred positions ``(B, N, 3)`` nm."""
        reason = f"an atom is more than {_EXPLODED:g} nm from the centre"
        try:
            move(walkers, generator)
            centred: Tensor = walkers.x - walkers.x.mean(1, keepdim=True)
            if (centred.abs() < _EXPLODED).all():
                return centred
        except UnstableDynamicsError as error:
            reason = str(error)
        first = self._walkers(chain).start
        raise DataError(f"chains from {first}: the simulation exploded ({reason}); reduce generate.step_fs")


def _state(walkers: Walkers) -> Arrays:
    assert walkers.velocity is not None
    return {"positions": walkers.x.numpy(), "velocities": walkers.velocity.numpy()}
