"""Parallel tempering of a molecule: the independent check on populations, and data that need no correction.

Nothing here knows of models or importance weights.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray

import bgdiff
from bgdiff.data.chains import Arrays
from bgdiff.data.observables import compute_observable
from bgdiff.data.simulator import Simulator, openmm_seed, simulator_of
from bgdiff.errors import DataError, SystemDefinitionError
from bgdiff.random import generator_for
from bgdiff.sampling import Ladders, Round, UnstableDynamicsError, Walkers, temper
from bgdiff.system_spec import ObservableSpec, OpenMMSpec
from bgdiff.systems import System
from bgdiff.targets.choose import Engine

__all__ = ["LadderTask", "ladder_task"]

_STEPS_PER_CHUNK = 2_500_000  # of all walkers of a group together: a few seconds on one core
_OPENMM_STEPS_PER_CHUNK = 150_000
_FRAME_SPACING_PS = 1.0  # of data: several round trips through the rungs next to the lowest


@dataclass(frozen=True)
class LadderTask:
    """Groups of independent parallel-tempering ladders, one group per start of the molecule.

    One round is ``swap_ps`` of dynamics of every walker, then exchanges. Equilibration comes first, in chunks
    that record nothing. Later chunks record, with M ladders of K rungs in the group and O observables,

    - n samples ``spacing_ps`` apart, taken before exchanges: ``energy`` ``(n, M, K)`` in kT of the lowest
      rung, ``observables`` ``(n, M, K, O)`` float32, ``walker`` ``(n, M, K)``, which conformation is at which
      rung, and with ``keep_frames`` the centred conformations of the lowest rung, ``x`` ``(n, M, N, 3)``
      float32 nm;
    - one row for every chunk: ``tried`` and ``exchanged`` ``(1, K-1)``, numbers of exchanges; ``acceptance``
      ``(1, K)``, sums over ``moves`` ``(1, 1)`` of the mean acceptance; ``trips`` ``(1, M)``, round trips.
    """

    simulator: Simulator
    observables: dict[str, ObservableSpec]
    temperatures: tuple[float, ...]
    ladders: int
    """M, in every group."""
    length_ns: float
    equilibration_ns: float
    swap_ps: float
    spacing_ps: float
    starts_deg: tuple[dict[str, float], ...]
    seed: int
    definition: str
    """Digest of potential and temperature, so that chunks of another potential are not continued."""
    keep_frames: bool = False

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
        return self._rounds_per_sample * self.swap_ps

    @property
    def _rounds_per_sample(self) -> int:
        return max(1, round(self.spacing_ps / self.swap_ps))

    @property
    def _samples_per_chunk(self) -> int:
        steps = self.simulator.steps(self.swap_ps) * self.ladders * len(self.temperatures)
        budget = _STEPS_PER_CHUNK if self.simulator.batched else _OPENMM_STEPS_PER_CHUNK
        return max(1, budget // (steps * self._rounds_per_sample))

    @property
    def _equilibration_rounds(self) -> int:
        return round(self.equilibration_ns * 1000 / self.swap_ps)

    @property
    def _n_equilibration(self) -> int:
        """Chunks of equilibration."""
        return -(-self._equilibration_rounds // (self._samples_per_chunk * self._rounds_per_sample))

    def fingerprint(self) -> dict[str, Any]:
        names = (
            "temperatures",
            "ladders",
            "length_ns",
            "equilibration_ns",
            "swap_ps",
            "spacing_ps",
            "starts_deg",
            "seed",
            "definition",
            "keep_frames",
        )
        return {
            "task": "parallel tempering",
            **{name: getattr(self, name) for name in names},
            "observables": {name: spec.model_dump() for name, spec in self.observables.items()},
            "step_fs": self.simulator.step_fs,
            "friction_per_ps": self.simulator.friction_per_ps,
            "evaluator": self.simulator.describe(),
            "versions": [bgdiff.__version__, torch.__version__, openmm.__version__],
        }

    def start(self, chain: int) -> Arrays:
        """Put the same structure on every rung of every ladder."""
        rungs = len(self.temperatures)
        structure = torch.from_numpy(self.simulator.molecule.start(chain))
        x = structure.expand(self.ladders * rungs, -1, -1).contiguous()
        velocity = self.simulator.start_velocities(x, self.seed, "ladders", chain, "start")
        scale = np.sqrt(np.tile(self.temperatures, self.ladders) / self.temperatures[0])
        ladders = Ladders.in_order(Walkers(x, x.new_empty(len(x)), x, velocity), rungs)
        return _state(ladders) | {"velocities": velocity.numpy() * scale[:, None, None]}

    def advance(self, chain: int, chunk: int, state: Arrays) -> tuple[Arrays, Arrays]:
        ladders = self._load(state)
        trips = ladders.trips.sum(1)
        number = chunk - self._n_equilibration
        each, per_chunk = self._rounds_per_sample, self._samples_per_chunk
        if number < 0:
            rounds = min(self._equilibration_rounds - chunk * per_chunk * each, per_chunk * each)
            self._temper(chain, chunk, ladders, rounds, None)
            return _state(ladders), {}
        samples = min(per_chunk, self.n_samples - number * per_chunk)
        recorder = _Recorder(self, samples)
        self._temper(chain, chunk, ladders, samples * each, recorder)
        trips = ladders.trips.sum(1) - trips
        return _state(ladders), recorder.arrays() | {"trips": trips[None].numpy()}

    def _temper(
        self, chain: int, chunk: int, ladders: Ladders, rounds: int, recorder: "_Recorder | None"
    ) -> None:
        keys = (self.seed, "ladders", chain, chunk)
        move = self.simulator.tempering_move(self.simulator.steps(self.swap_ps), openmm_seed(*keys))
        temperatures = torch.tensor(self.temperatures, dtype=torch.float64) / self.temperatures[0]
        try:
            temper(move, ladders, temperatures, rounds, generator_for(*keys), recorder)
        except UnstableDynamicsError as error:
            raise DataError(f"ladders of start {chain}: {error}; reduce replica_exchange.step_fs") from error

    def _load(self, state: Arrays) -> Ladders:
        velocity = state.get("velocities")
        walkers = Walkers.at(
            self.simulator.target,
            torch.from_numpy(state["positions"]),
            None if velocity is None else torch.from_numpy(velocity),
        )
        return Ladders(
            walkers,
            torch.from_numpy(state["at_rung"]),
            int(state["rounds"]),
            torch.from_numpy(state["heading"]),
            torch.from_numpy(state["trips"]),
        )


def ladder_task(system: System, seed: int, engine: Engine = "auto", frames: int | None = None) -> LadderTask:
    """Parallel tempering of a molecule as its ``replica_exchange`` section says.

    Args:
        frames: keep at least so many conformations of the lowest rung, in all and 1 ps apart, instead of
            simulating for ``length_ns``.

    Raises:
        SystemDefinitionError: the system is no molecule or has no such section.
    """
    settings = system.spec.replica_exchange if isinstance(system.spec, OpenMMSpec) else None
    if settings is None:
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: has no 'replica_exchange' section, which says how long to run"
        )
    simulator = simulator_of(system, settings.starts, settings.step_fs, settings.friction_per_ps, engine)
    ladders = settings.ladders if simulator.batched else 1
    length, spacing = settings.length_ns, settings.spacing_ps
    if frames is not None:
        spacing = _FRAME_SPACING_PS
        length = -(-frames // (ladders * len(settings.starts))) * spacing / 1000
    return LadderTask(
        simulator=simulator,
        observables=system.spec.observables,
        temperatures=tuple(np.geomspace(system.temperature, settings.t_max, settings.temperatures).tolist()),
        ladders=ladders,
        length_ns=length,
        equilibration_ns=settings.equilibration_ns,
        swap_ps=settings.swap_ps,
        spacing_ps=spacing,
        starts_deg=tuple(settings.starts),
        seed=seed,
        definition=system.ensemble_digest,
        keep_frames=frames is not None,
    )


class _Recorder:
    """Collects what :class:`LadderTask` says a chunk records."""

    def __init__(self, task: LadderTask, samples: int) -> None:
        self._task = task
        self._frames: list[NDArray[np.float32]] = []
        self._rounds = 0
        ladders, rungs = task.ladders, len(task.temperatures)
        self._arrays: Arrays = {
            "energy": np.empty((samples, ladders, rungs)),
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
        sample, left = divmod(self._rounds, self._task._rounds_per_sample)
        if left:
            return
        x = ladders.by_rung(ladders.walkers.x)
        arrays["energy"][sample - 1] = ladders.by_rung(ladders.walkers.energy).numpy()
        arrays["walker"][sample - 1] = ladders.at_rung.numpy()
        flat = x.flatten(0, 1).double().numpy()
        for column, spec in enumerate(self._task.observables.values()):
            values = compute_observable(spec, flat)
            arrays["observables"][sample - 1, :, :, column] = values.reshape(x.shape[:2])
        if self._task.keep_frames:
            lowest = x[:, 0]
            self._frames.append((lowest - lowest.mean(1, keepdim=True)).float().numpy())

    def arrays(self) -> Arrays:
        arrays = self._arrays | {"moves": np.array([[self._rounds]])}
        return arrays | ({"x": np.stack(self._frames)} if self._frames else {})


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
