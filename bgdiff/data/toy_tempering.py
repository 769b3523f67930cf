"""Parallel tempering of toy densities: data sets of their equilibrium, however high the barriers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import bgdiff
from bgdiff.data.chains import Arrays
from bgdiff.data.observables import Observable
from bgdiff.errors import SystemDefinitionError
from bgdiff.random import generator_for
from bgdiff.sampling import (
    HamiltonianMonteCarlo,
    Ladders,
    Round,
    TemperatureRungs,
    Walkers,
    exchange_replicas,
)
from bgdiff.system_spec import OpenMMSpec
from bgdiff.systems import System
from bgdiff.targets.base import Target
from bgdiff.targets.choose import describe_target
from bgdiff.tempering_spec import ToyLaddersSpec

__all__ = ["ToyLadderTask", "start_positions", "toy_ladder_task"]

_STEPS_PER_CHUNK = 2_000_000  # leapfrog steps of all walkers of a group together: some seconds


@dataclass(frozen=True)
class ToyLadderTask:
    """Groups of independent ladders of temperatures, one group per start; a chain task.

    One round is an HMC trajectory of every walker, then exchanges. Equilibration comes first, in chunks that
    record nothing. Later chunks record, of M ladders of K rungs in the group,

    - n samples ``spacing`` rounds apart, taken at the lowest rung before exchanges: ``x`` ``(n, M, N, D)``
      float32, ``energy`` ``(n, M)`` and ``observables`` ``(n, M, O)``;
    - one row for every chunk: ``tried`` and ``exchanged`` ``(1, K-1)``, numbers of exchanges; ``acceptance``
      ``(1, K)``, sums over ``moves`` ``(1, 1)`` of the mean acceptance; ``trips`` ``(1, M)``, round trips.
    """

    target: Target
    observables: dict[str, Observable]
    settings: ToyLaddersSpec
    samples: int
    """Of every ladder."""
    seed: int
    definition: str
    """Digest of the density, so that chunks of another one are not continued."""

    @property
    def n_chains(self) -> int:
        return len(self.settings.starts)

    @property
    def n_chunks(self) -> int:
        return self._n_equilibration + -(-self.samples // self._samples_per_chunk)

    @property
    def temperatures(self) -> NDArray[np.float64]:
        """K, geometric from 1 to ``t_max``."""
        return np.geomspace(1.0, self.settings.t_max, self.settings.temperatures)

    @property
    def _samples_per_chunk(self) -> int:
        settings = self.settings
        walkers = settings.ladders * settings.temperatures
        return max(1, _STEPS_PER_CHUNK // (walkers * settings.leapfrog_steps * settings.spacing))

    @property
    def _rounds_per_chunk(self) -> int:
        return self._samples_per_chunk * self.settings.spacing

    @property
    def _n_equilibration(self) -> int:
        return -(-self.settings.equilibration // self._rounds_per_chunk)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "task": "parallel tempering of a toy density",
            "settings": self.settings.model_dump(mode="json"),
            "observables": {
                name: observable.spec.model_dump(mode="json", exclude_none=True)
                for name, observable in self.observables.items()
            },
            "samples": self.samples,
            "seed": self.seed,
            "definition": self.definition,
            "evaluator": describe_target(self.target),
            "versions": [bgdiff.__version__, torch.__version__],
        }

    def start(self, chain: int) -> Arrays:
        """Put the same positions on every rung of every ladder."""
        x = start_positions([self.settings.starts[chain]], self.target.event_shape)
        walkers = self.settings.ladders * self.settings.temperatures
        x = x.expand(walkers, -1, -1).contiguous()
        return _state(Ladders.in_order(Walkers(x, x.new_empty(walkers), x), self.settings.temperatures))

    def advance(self, chain: int, chunk: int, state: Arrays) -> tuple[Arrays, Arrays]:
        ladders = self._load(state)
        before = ladders.trips.sum(1)
        number = chunk - self._n_equilibration
        recorder = None
        if number < 0:
            rounds = min(self._rounds_per_chunk, self.settings.equilibration - chunk * self._rounds_per_chunk)
        else:
            samples = min(self._samples_per_chunk, self.samples - number * self._samples_per_chunk)
            rounds = samples * self.settings.spacing
            recorder = _Recorder(self)
        speed = torch.ones((1, 1), dtype=torch.float64)
        settings = self.settings
        move = HamiltonianMonteCarlo(self.target, speed, settings.step, settings.leapfrog_steps, jitter=0.2)
        rungs = TemperatureRungs(move, torch.from_numpy(self.temperatures))
        stream = generator_for(self.seed, "toy ladders", chain, chunk)
        exchange_replicas(rungs, ladders, rounds, stream, recorder)
        if recorder is None:
            return _state(ladders), {}
        return _state(ladders), recorder.arrays() | {"trips": (ladders.trips.sum(1) - before)[None].numpy()}

    def _load(self, state: Arrays) -> Ladders:
        return Ladders(
            Walkers.at(self.target, torch.from_numpy(state["positions"])),
            torch.from_numpy(state["at_rung"]),
            int(state["rounds"]),
            torch.from_numpy(state["heading"]),
            torch.from_numpy(state["trips"]),
        )


def toy_ladder_task(system: System, seed: int, frames: int) -> ToyLadderTask:
    """Parallel tempering of a toy density as its ``replica_exchange`` section says.

    Args:
        frames: of the lowest temperature, at least, in all ladders together.

    Raises:
        SystemDefinitionError: there is no such section, or a start has the wrong length.
    """
    settings = None if isinstance(system.spec, OpenMMSpec) else system.spec.replica_exchange
    if settings is None:
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: has no 'replica_exchange' section, which says how to temper"
        )
    try:
        start_positions(settings.starts, system.target.event_shape)
    except ValueError as error:
        raise SystemDefinitionError(f"{system.path}/system.yaml: replica_exchange.starts: {error}") from error
    return ToyLadderTask(
        target=system.target,
        observables={name: system.observable(name, spec) for name, spec in system.spec.observables.items()},
        settings=settings,
        samples=-(-frames // (settings.ladders * len(settings.starts))),
        seed=seed,
        definition=system.ensemble_digest,
    )


def start_positions(starts: list[list[float]], shape: tuple[int, int]) -> torch.Tensor:
    """Positions ``(S, N, D)`` of starts that list all coordinates, or those of one particle for all.

    Raises:
        ValueError: a start has another number of coordinates.
    """
    particles, dimensions = shape
    rows = []
    for start in starts:
        if len(start) not in (dimensions, particles * dimensions):
            choice = " or ".join(str(n) for n in sorted({dimensions, particles * dimensions}))
            raise ValueError(f"each start needs {choice} numbers, not {len(start)}")
        rows.append(torch.tensor(start, dtype=torch.float64).reshape(-1, dimensions).expand(shape))
    return torch.stack(rows)


class _Recorder:
    """Collects what :class:`ToyLadderTask` says a chunk records."""

    def __init__(self, task: ToyLadderTask) -> None:
        self._task = task
        self._samples: list[tuple[NDArray[Any], ...]] = []
        self._rounds = 0
        rungs = task.settings.temperatures
        self._tried, self._exchanged = np.zeros((1, rungs - 1)), np.zeros((1, rungs - 1))
        self._acceptance = np.zeros((1, rungs))

    def __call__(self, ladders: Ladders, result: Round) -> None:
        exchanged = result.exchanged.numpy()
        self._tried += np.isfinite(exchanged).sum(axis=0)
        self._exchanged += np.nansum(exchanged, axis=0)
        self._acceptance += result.acceptance.mean(0).numpy()
        self._rounds += 1
        if self._rounds % self._task.settings.spacing == 0:
            x = ladders.by_rung(ladders.walkers.x)[:, 0].numpy()
            values = np.stack([observable(x) for observable in self._task.observables.values()], axis=1)
            self._samples.append((x.astype(np.float32), result.energy[:, 0].numpy().copy(), values))

    def arrays(self) -> Arrays:
        x, energy, observables = (np.stack(column) for column in zip(*self._samples, strict=True))
        return {
            "x": x,
            "energy": energy,
            "observables": observables,
            "tried": self._tried,
            "exchanged": self._exchanged,
            "acceptance": self._acceptance,
            "moves": np.array([[self._rounds]]),
        }


def _state(ladders: Ladders) -> Arrays:
    return {
        "positions": ladders.walkers.x.numpy(),
        "at_rung": ladders.at_rung.numpy(),
        "rounds": np.array(ladders.rounds),
        "heading": ladders.heading.numpy(),
        "trips": ladders.trips.numpy(),
    }
