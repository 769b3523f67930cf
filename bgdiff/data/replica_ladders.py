"""Replica exchange of a molecule in independent groups of ladders, chunk by chunk, as a resumable task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from torch import Tensor

import bgdiff
from bgdiff.data.chains import Arrays
from bgdiff.data.observables import Observable
from bgdiff.data.simulator import Simulator, openmm_seed
from bgdiff.errors import DataError
from bgdiff.random import generator_for
from bgdiff.sampling import Ladders, Round, Rungs, UnstableDynamicsError, Walkers, exchange_replicas
from bgdiff.targets.base import Target

__all__ = ["LadderTask"]

_STEPS_PER_CHUNK = 2_500_000  # of all walkers of a group together: a few seconds on one core
_OPENMM_STEPS_PER_CHUNK = 150_000


@dataclass(frozen=True, kw_only=True)
class LadderTask(ABC):
    """Groups of independent replica-exchange ladders of K rungs, one group per start of the molecule.

    Subclasses say what the rungs are: temperatures or potentials. One round is ``swap_ps`` of dynamics of
    every walker, then exchanges. Equilibration comes first, in chunks that record nothing. Later chunks
    record, with M ladders in the group and O observables,

    - n samples ``spacing_ps`` apart, taken before exchanges: ``energy`` ``(n, M, K)`` in kT or, of several
      components, ``(n, M, K, C)``, ``observables`` ``(n, M, K, O)`` float32, ``walker`` ``(n, M, K)``, which
      conformation is at which rung, and with ``keep_frames`` the centred conformations of the lowest rung,
      ``x`` ``(n, M, N, 3)`` float32 nm;
    - one row for every chunk: ``tried`` and ``exchanged`` ``(1, K-1)``, numbers of exchanges; ``acceptance``
      ``(1, K)``, sums over ``moves`` ``(1, 1)`` of the mean acceptance; ``trips`` ``(1, M)``, round trips;
      with ``keep_last`` the centred conformations of its last sample, ``last`` ``(1, M, K, N, 3)`` float32.
    """

    simulator: Simulator
    observables: Mapping[str, Observable]
    ladders: int
    """M, in every group."""
    length_ns: float
    equilibration_ns: float
    swap_ps: float
    spacing_ps: float
    starts_deg: tuple[dict[str, float], ...]
    seed: int
    definition: str
    """Digest of the densities, so that chunks of others are not continued."""
    section: str
    """Section of ``system.yaml`` that the settings come from, for messages."""
    keep_frames: bool = False
    keep_last: bool = False

    @property
    @abstractmethod
    def n_rungs(self) -> int:
        """K."""

    @property
    @abstractmethod
    def energy_shape(self) -> tuple[int, ...]:
        """Shape of the energies of one ladder: ``(K,)`` or ``(K, C)``."""

    @abstractmethod
    def rungs(self, seed: int) -> Rungs:
        """The densities and the moves of one chunk; ``seed`` is OpenMM's."""

    @abstractmethod
    def density(self, rung: Tensor) -> Target:
        """What walkers at rungs ``(B,)`` keep their energy and force of."""

    @abstractmethod
    def own_settings(self) -> dict[str, Any]:
        """What the chains depend on besides the fields of this class, as JSON."""

    def velocity_scale(self) -> NDArray[np.float64]:
        """Of thermal velocities at each rung ``(K,)``, relative to those of the simulator's temperature."""
        return np.ones(self.n_rungs)

    @property
    def n_chains(self) -> int:
        return len(self.starts_deg)

    @property
    def n_chunks(self) -> int:
        return self._n_equilibration + -(-self.n_samples // self._samples_per_chunk)

    @property
    def n_samples(self) -> int:
        """Samples recorded of every ladder."""
        return max(1, round(self.length_ns * 1000 / self.sample_ps))

    @property
    def sample_ps(self) -> float:
        """Time between samples: ``spacing_ps`` as a whole number of rounds."""
        return self.rounds_per_sample * self.swap_ps

    @property
    def rounds_per_sample(self) -> int:
        return max(1, round(self.spacing_ps / self.swap_ps))

    @property
    def total_ns(self) -> float:
        """Simulated time of all walkers of all groups, without equilibration."""
        return self.n_samples * self.sample_ps / 1000 * self.ladders * self.n_chains * self.n_rungs

    @property
    def _samples_per_chunk(self) -> int:
        steps = self.simulator.steps(self.swap_ps) * self.ladders * self.n_rungs
        budget = _STEPS_PER_CHUNK if self.simulator.batched else _OPENMM_STEPS_PER_CHUNK
        return max(1, budget // (steps * self.rounds_per_sample))

    @property
    def _equilibration_rounds(self) -> int:
        return round(self.equilibration_ns * 1000 / self.swap_ps)

    @property
    def _n_equilibration(self) -> int:
        """Chunks of equilibration."""
        return -(-self._equilibration_rounds // (self._samples_per_chunk * self.rounds_per_sample))

    def fingerprint(self) -> dict[str, Any]:
        names = (
            "ladders",
            "length_ns",
            "equilibration_ns",
            "swap_ps",
            "spacing_ps",
            "starts_deg",
            "seed",
            "definition",
            "keep_frames",
            "keep_last",
        )
        return {
            **{name: getattr(self, name) for name in names},
            **self.own_settings(),
            "observables": {
                name: observable.spec.model_dump(exclude_none=True)
                for name, observable in self.observables.items()
            },
            "step_fs": self.simulator.step_fs,
            "friction_per_ps": self.simulator.friction_per_ps,
            "evaluator": self.simulator.describe(),
            "versions": [bgdiff.__version__, torch.__version__, openmm.__version__],
        }

    def start(self, chain: int) -> Arrays:
        """Put the same structure on every rung of every ladder."""
        structure = torch.from_numpy(self.simulator.molecule.start(chain))
        x = structure.expand(self.ladders * self.n_rungs, -1, -1).contiguous()
        velocity = self.simulator.start_velocities(x, self.seed, "ladders", chain, "start")
        scale = np.tile(self.velocity_scale(), self.ladders)
        ladders = Ladders.in_order(Walkers(x, x.new_empty(len(x)), x, velocity), self.n_rungs)
        return _state(ladders) | {"velocities": velocity.numpy() * scale[:, None, None]}

    def advance(self, chain: int, chunk: int, state: Arrays) -> tuple[Arrays, Arrays]:
        ladders = self._load(state)
        trips = ladders.trips.sum(1)
        number = chunk - self._n_equilibration
        each, per_chunk = self.rounds_per_sample, self._samples_per_chunk
        if number < 0:
            rounds = min(self._equilibration_rounds - chunk * per_chunk * each, per_chunk * each)
            self._exchange(chain, chunk, ladders, rounds, None)
            return _state(ladders), {}
        samples = min(per_chunk, self.n_samples - number * per_chunk)
        recorder = _Recorder(self, samples)
        self._exchange(chain, chunk, ladders, samples * each, recorder)
        trips = ladders.trips.sum(1) - trips
        return _state(ladders), recorder.arrays() | {"trips": trips[None].numpy()}

    def _exchange(
        self, chain: int, chunk: int, ladders: Ladders, rounds: int, recorder: "_Recorder | None"
    ) -> None:
        keys = (self.seed, "ladders", chain, chunk)
        try:
            exchange_replicas(self.rungs(openmm_seed(*keys)), ladders, rounds, generator_for(*keys), recorder)
        except UnstableDynamicsError as error:
            raise DataError(f"ladders of start {chain}: {error}; reduce {self.section}.step_fs") from error

    def _load(self, state: Arrays) -> Ladders:
        at_rung = torch.from_numpy(state["at_rung"])
        velocity = state.get("velocities")
        walkers = Walkers.at(
            self.density(at_rung.argsort(dim=1).flatten()),
            torch.from_numpy(state["positions"]),
            None if velocity is None else torch.from_numpy(velocity),
        )
        return Ladders(
            walkers,
            at_rung,
            int(state["rounds"]),
            torch.from_numpy(state["heading"]),
            torch.from_numpy(state["trips"]),
        )


class _Recorder:
    """Collects what :class:`LadderTask` says a chunk records."""

    def __init__(self, task: LadderTask, samples: int) -> None:
        self._task = task
        self._frames: list[NDArray[np.float32]] = []
        self._rounds = 0
        ladders, rungs = task.ladders, task.n_rungs
        self._arrays: Arrays = {
            "energy": np.empty((samples, ladders, *task.energy_shape)),
            "observables": np.empty((samples, ladders, rungs, len(task.observables)), dtype=np.float32),
            "walker": np.empty((samples, ladders, rungs), dtype=np.int16),
            "tried": np.zeros((1, rungs - 1)),
            "exchanged": np.zeros((1, rungs - 1)),
            "acceptance": np.zeros((1, rungs)),
        }

    def __call__(self, ladders: Ladders, result: Round) -> None:
        arrays, exchanged = self._arrays, result.exchanged.numpy()
        arrays["tried"] += np.isfinite(exchanged).sum(axis=0)
        arrays["exchanged"] += np.nansum(exchanged, axis=0)
        arrays["acceptance"] += result.acceptance.mean(0).numpy()
        self._rounds += 1
        sample, left = divmod(self._rounds, self._task.rounds_per_sample)
        if left:
            return
        x = ladders.by_rung(ladders.walkers.x)
        arrays["energy"][sample - 1] = result.energy.numpy()
        arrays["walker"][sample - 1] = ladders.at_rung.numpy()
        flat = x.flatten(0, 1).double().numpy()
        for column, observable in enumerate(self._task.observables.values()):
            values = observable(flat)
            arrays["observables"][sample - 1, :, :, column] = values.reshape(x.shape[:2])
        if self._task.keep_frames:
            self._frames.append(_centred(x[:, 0]))
        if self._task.keep_last and sample == len(arrays["energy"]):
            arrays["last"] = _centred(x)[None]

    def arrays(self) -> Arrays:
        arrays = self._arrays | {"moves": np.array([[self._rounds]])}
        return arrays | ({"x": np.stack(self._frames)} if self._frames else {})


def _centred(x: Tensor) -> NDArray[np.float32]:
    return (x - x.mean(-2, keepdim=True)).float().numpy()


def _state(ladders: Ladders) -> Arrays:
    walkers = ladders.walkers
    state: Arrays = {
        "positions": walkers.x.numpy(),
        "at_rung": ladders.at_rung.numpy(),
        "rounds": np.array(ladders.rounds),
        "heading": ladders.heading.numpy(),
        "trips": ladders.trips.numpy(),
    }
    return state if walkers.velocity is None else state | {"velocities": walkers.velocity.numpy()}
