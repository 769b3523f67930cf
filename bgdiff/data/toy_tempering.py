"""Replica exchange of toy densities: their equilibrium however high the barriers, and ladders for log Z."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import bgdiff
from bgdiff.data.chains import Arrays
from bgdiff.data.cluster_engine import fastest
from bgdiff.data.observables import Observable
from bgdiff.data.toy_starts import given_starts, random_starts
from bgdiff.errors import SystemDefinitionError
from bgdiff.random import generator_for
from bgdiff.sampling import Ladders, Round, TunedRungs, Walkers, exchange_replicas
from bgdiff.system_spec import OpenMMSpec
from bgdiff.systems import System
from bgdiff.targets.base import Target
from bgdiff.targets.choose import describe_target
from bgdiff.tempering_spec import LaddersSpec, ToyLaddersSpec

__all__ = ["ToyLadderTask", "ladder_task", "tempering_settings", "toy_ladder_task"]

_STEPS_PER_CHUNK = 2_000_000  # leapfrog steps of all walkers of a group together: some seconds
_CHEAP_PAIRS = 400  # more pairs of particles cost more, and chunks of them have fewer steps


@dataclass(frozen=True)
class ToyLadderTask:
    """Groups of independent ladders of densities exp(-Σ_c w_kc u_c), one group per start; a chain task.

    One round is an HMC trajectory of every walker, then exchanges. Equilibration comes first, in chunks that
    record nothing and tune the step of every rung, if that is asked for. Later chunks record, of M ladders of
    K rungs in the group, before exchanges,

    - n samples ``spacing`` rounds apart: ``energy`` ``(n, M, K, C)`` of the components, ``observables``
      ``(n, M, K, O)`` and, if ``keep`` says so, the conformations of the first rung, ``x`` ``(n, M, N, D)``
      float32 with the centroid at 0 where that is nothing that counts;
    - one row for every chunk: ``tried`` and ``exchanged`` ``(1, K-1)``, numbers of exchanges; ``acceptance``
      ``(1, K)``, sums over ``moves`` ``(1, 1)`` of the mean acceptance; ``trips`` ``(1, M)``, round trips;
      ``step`` ``(1, K)``.
    """

    components: Sequence[Target]
    weights: tuple[tuple[float, ...], ...]
    """Of the components at every rung; the first rung is the density itself."""
    observables: Mapping[str, Observable]
    settings: LaddersSpec
    starts: Sequence[Tensor | None]
    """Positions ``(N, D)``; None for a random start of every walker."""
    ball: float
    """Radius of random starts."""
    samples: int
    """Of every ladder."""
    seed: int
    definition: str
    """Digest of the density, so that chunks of another one are not continued."""
    centred: bool = False
    """The density does not know where the centroid is."""
    keep: bool = True

    @property
    def n_chains(self) -> int:
        return len(self.starts)

    @property
    def n_chunks(self) -> int:
        return self._n_equilibration + -(-self.samples // self._samples_per_chunk)

    @property
    def n_rungs(self) -> int:
        return len(self.weights)

    @property
    def _samples_per_chunk(self) -> int:
        settings = self.settings
        walkers = settings.ladders * self.n_rungs
        particles = self.components[0].event_shape[0]
        cost = max(1.0, particles * (particles - 1) / 2 / _CHEAP_PAIRS)
        steps = walkers * settings.leapfrog_steps * settings.spacing * cost
        return max(1, int(_STEPS_PER_CHUNK // steps))

    @property
    def _rounds_per_chunk(self) -> int:
        return self._samples_per_chunk * self.settings.spacing

    @property
    def _n_equilibration(self) -> int:
        return -(-self.settings.equilibration // self._rounds_per_chunk)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "task": "replica exchange of a toy density",
            "settings": self.settings.model_dump(mode="json", exclude={"interpolation", "samples"}),
            "starts": [None if start is None else start.tolist() for start in self.starts],
            "ball": self.ball,
            "weights": self.weights,
            "observables": {
                name: observable.spec.model_dump(mode="json", exclude_none=True)
                for name, observable in self.observables.items()
            },
            "samples": self.samples,
            "seed": self.seed,
            "definition": self.definition,
            "evaluator": [describe_target(component) for component in self.components],
            "versions": [bgdiff.__version__, torch.__version__],
        }

    def start(self, chain: int) -> Arrays:
        """Put every walker at the group's start, or each at a random one."""
        walkers, start, step = self.settings.ladders * self.n_rungs, self.starts[chain], self.settings.step
        if start is None:
            stream = generator_for(self.seed, "toy ladders", chain)
            x = random_starts(self.components[0], walkers, self.ball, step, stream)
        else:
            x = start.expand(walkers, -1, -1).contiguous()
        ladders = Ladders.in_order(Walkers(x, x.new_empty(walkers), x), self.n_rungs)
        return self._state(ladders, torch.full((self.n_rungs,), step, dtype=torch.float64))

    def advance(self, chain: int, chunk: int, state: Arrays) -> tuple[Arrays, Arrays]:
        stream = generator_for(self.seed, "toy ladders", chain, chunk)
        ladders, steps = self._load(state), torch.from_numpy(state["step"])
        number = chunk - self._n_equilibration
        if number < 0:
            rounds = min(self._rounds_per_chunk, self.settings.equilibration - chunk * self._rounds_per_chunk)
            steps = self._equilibrate(ladders, steps, rounds, stream)
            return self._state(ladders, steps), {}
        before = ladders.trips.sum(1)
        samples = min(self._samples_per_chunk, self.samples - number * self._samples_per_chunk)
        recorder = _Recorder(self)
        exchange_replicas(self._rungs(steps), ladders, samples * self.settings.spacing, stream, recorder)
        trips = (ladders.trips.sum(1) - before)[None].numpy()
        return self._state(ladders, steps), recorder.arrays() | {"trips": trips, "step": steps[None].numpy()}

    def _rungs(self, steps: Tensor) -> TunedRungs:
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return TunedRungs(self.components, weights, steps, self.settings.leapfrog_steps)

    def _equilibrate(self, ladders: Ladders, steps: Tensor, rounds: int, stream: torch.Generator) -> Tensor:
        """Run the ladders and return the steps, tuned by a Robbins-Monro search on their logarithms."""
        wanted = self.settings.acceptance
        if wanted is None:
            exchange_replicas(self._rungs(steps), ladders, rounds, stream)
            return steps
        seen: list[Tensor] = []

        def observe(_: Ladders, result: Round) -> None:
            seen.append(result.acceptance.mean(0))

        for _ in range(rounds):
            exchange_replicas(self._rungs(steps), ladders, 1, stream, observe)
            steps = steps * ((seen[-1] - wanted) / ladders.rounds**0.5).exp()
        return steps

    def _load(self, state: Arrays) -> Ladders:
        at_rung = torch.from_numpy(state["at_rung"])
        rung = at_rung.argsort(dim=1).flatten()
        target = self._rungs(torch.from_numpy(state["step"])).target(rung)
        return Ladders(
            Walkers.at(target, torch.from_numpy(state["positions"])),
            at_rung,
            int(state["rounds"]),
            torch.from_numpy(state["heading"]),
            torch.from_numpy(state["trips"]),
        )

    def _state(self, ladders: Ladders, steps: Tensor) -> Arrays:
        return {
            "positions": self.placed(ladders.walkers.x).numpy(),
            "at_rung": ladders.at_rung.numpy(),
            "rounds": np.array(ladders.rounds),
            "heading": ladders.heading.numpy(),
            "trips": ladders.trips.numpy(),
            "step": steps.numpy(),
        }

    def placed(self, x: Tensor) -> Tensor:
        """Conformations with the centroid at 0, if it is nothing that counts."""
        return x - x.mean(1, keepdim=True) if self.centred else x


def tempering_settings(system: System) -> ToyLaddersSpec:
    """What the system says of its ladders of temperatures.

    Raises:
        SystemDefinitionError: it says nothing.
    """
    settings = None if isinstance(system.spec, OpenMMSpec) else system.spec.replica_exchange
    if settings is None:
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: has no 'replica_exchange' section, which says how to temper"
        )
    return settings


def toy_ladder_task(
    system: System, seed: int, samples: int | None = None, *, keep: bool = True
) -> ToyLadderTask:
    """Parallel tempering of a toy density as its ``replica_exchange`` section says.

    Args:
        samples: of every ladder, if not as many as the section says.
        keep: whether conformations of the lowest temperature are recorded.

    Raises:
        SystemDefinitionError: there is no such section, or a start has the wrong length or no file.
    """
    settings = tempering_settings(system)
    temperatures = np.geomspace(1.0, settings.t_max, settings.temperatures)
    return ladder_task(
        system, (system.target,), 1 / temperatures[:, None], settings, seed, samples, keep=keep
    )


def ladder_task(
    system: System,
    components: Sequence[Target],
    weights: NDArray[np.float64],
    settings: LaddersSpec,
    seed: int,
    samples: int | None = None,
    *,
    keep: bool,
    measure: bool = True,
) -> ToyLadderTask:
    """Ladders between any densities on the system's coordinates, with the starts of its own ladders.

    Args:
        weights: ``(K, C)`` of the components; the first rung is to be the system's own density.
        samples, keep: as of :func:`toy_ladder_task`.
        measure: whether observables are recorded.

    Raises:
        SystemDefinitionError: as of :func:`toy_ladder_task`.
    """
    tempering = tempering_settings(system)
    try:
        starts = given_starts(tempering.starts, system.target.event_shape, system.path)
    except ValueError as error:
        raise SystemDefinitionError(f"{system.path}/system.yaml: replica_exchange.starts: {error}") from error
    specs = system.spec.observables if measure else {}
    return ToyLadderTask(
        components=[fastest(component) for component in components],
        weights=tuple(tuple(row) for row in weights.tolist()),
        observables={name: system.observable(name, spec) for name, spec in specs.items()},
        settings=settings,
        starts=starts,
        ball=tempering.ball,
        samples=samples or settings.samples,
        seed=seed,
        definition=system.ensemble_digest,
        centred=system.spec.coordinates == "mean_free",
        keep=keep,
    )


class _Recorder:
    """Collects what :class:`ToyLadderTask` says a chunk records."""

    def __init__(self, task: ToyLadderTask) -> None:
        self._task = task
        self._samples: list[dict[str, NDArray[Any]]] = []
        self._rounds = 0
        self._tried, self._exchanged = np.zeros((1, task.n_rungs - 1)), np.zeros((1, task.n_rungs - 1))
        self._acceptance = np.zeros((1, task.n_rungs))

    def __call__(self, ladders: Ladders, result: Round) -> None:
        exchanged = result.exchanged.numpy()
        self._tried += np.isfinite(exchanged).sum(axis=0)
        self._exchanged += np.nansum(exchanged, axis=0)
        self._acceptance += result.acceptance.mean(0).numpy()
        self._rounds += 1
        if self._rounds % self._task.settings.spacing == 0:
            x = self._task.placed(ladders.by_rung(ladders.walkers.x).flatten(0, 1)).numpy()
            shape = result.energy.shape[:2]
            sample = {"energy": result.energy.numpy().copy()}
            if self._task.observables:
                values = [observable(x) for observable in self._task.observables.values()]
                sample["observables"] = np.stack(values, axis=1).reshape(*shape, -1)
            if self._task.keep:
                sample["x"] = x.reshape(*shape, *x.shape[1:])[:, 0].astype(np.float32)
            self._samples.append(sample)

    def arrays(self) -> Arrays:
        return {key: np.stack([sample[key] for sample in self._samples]) for key in self._samples[0]} | {
            "tried": self._tried,
            "exchanged": self._exchanged,
            "acceptance": self._acceptance,
            "moves": np.array([[self._rounds]]),
        }
