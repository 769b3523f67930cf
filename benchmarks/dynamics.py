"""What needs no model: molecular dynamics and parallel tempering on the batched engine, from one start."""

import time
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from benchmarks.outcomes import Outcome, basins, from_chains, within
from bgdiff.data.ladder_analysis import mbar_log_weights
from bgdiff.data.md import MDTask
from bgdiff.data.parallel_tempering import ladder_task
from bgdiff.data.simulator import Simulator, simulator_of
from bgdiff.free_energy.estimate import EmptyBasinError, Estimate
from bgdiff.free_energy.importance import free_energy_difference
from bgdiff.system_spec import OpenMMSpec
from bgdiff.systems import System
from bgdiff.targets.base import Target

__all__ = ["data_steps", "md_seconds_per_step", "molecular_dynamics", "parallel_tempering"]

_FOREVER_NS = 1e9
_MOST_STATES = 2_000_000  # that MBAR is given: more are too correlated to add anything


def molecular_dynamics(
    system: System, seed: int, seconds: float, *, burn_in: float, walkers: int = 64, spacing_ps: float = 1.0
) -> Outcome:
    """Langevin dynamics of independent walkers, all from the first start of ``generate``.

    What comes first is left out as burn-in, so there is no other equilibration.
    """
    started = time.process_time()
    counted, task = _md(system, seed, walkers, spacing_ps)
    state, frames, chunk = task.start(0), [], 0
    while not frames or time.process_time() - started < seconds:
        state, record = task.advance(0, chunk, state)
        chunk += 1
        if record:
            frames.append(_observables(system, record["x"]))
    spent = time.process_time() - started
    draws = {name: np.concatenate([part[name] for part in frames]) for name in frames[0]}
    kept = {name: values[int(burn_in * len(values)) :].reshape(-1) for name, values in draws.items()}
    return from_chains("MD", system, kept, walkers, counted.evaluations, spent)


def parallel_tempering(
    system: System,
    seed: int,
    seconds: float,
    *,
    burn_in: float,
    spacing_ps: float = 0.5,
) -> Outcome:
    """Ladders of temperatures as ``replica_exchange`` says, all from its first start.

    As for dynamics, burn-in is all the equilibration there is. ΔF comes from all temperatures by MBAR, its
    error from the independent ladders; what the draws are worth is judged at the lowest temperature.
    """
    started = time.process_time()
    task = ladder_task(system, seed)
    counted = _Counted(task.simulator.target)
    task = replace(
        task,
        simulator=replace(task.simulator, target=counted),
        length_ns=_FOREVER_NS,
        equilibration_ns=0.0,
        spacing_ps=spacing_ps,
    )
    _check_start(system, task.simulator)
    state, records, chunk = task.start(0), [], 0
    while not records or time.process_time() - started < seconds:
        state, record = task.advance(0, chunk, state)
        chunk += 1
        if record:
            records.append((record["energy"], record["observables"]))
    spent = time.process_time() - started
    energy, values = (np.concatenate(column) for column in zip(*records, strict=True))
    energy, values = (array[int(burn_in * len(array)) :] for array in (energy, values))
    names = list(task.observables)
    lowest = {
        name: values[:, :, 0, column].astype(np.float64).reshape(-1) for column, name in enumerate(names)
    }
    stride = -(-energy.size // _MOST_STATES)
    difference = _by_mbar(system, names, task.temperatures, energy[::stride], values[::stride])
    return from_chains(
        "parallel tempering",
        system,
        lowest,
        task.ladders,
        counted.evaluations,
        spent,
        difference=difference,
    )


def data_steps(system: System) -> int:
    """Steps of molecular dynamics that the shipped data set took, its equilibration included."""
    assert isinstance(system.spec, OpenMMSpec)
    settings = system.spec.generate
    assert settings is not None
    each = (settings.length_ns * 1e6 + settings.equilibration_ps * 1e3) / settings.step_fs
    return round(each * settings.chains_per_start * len(settings.starts))


def md_seconds_per_step(system: System, seed: int, seconds: float) -> float:
    """CPU time of one step of one walker, among as many as the shipped data set has."""
    assert isinstance(system.spec, OpenMMSpec)
    settings = system.spec.generate
    assert settings is not None
    counted, task = _md(system, seed, settings.chains_per_start * len(settings.starts), 0.02)
    state = task.start(0)
    started, before = time.process_time(), counted.evaluations
    for chunk in within(seconds):
        state, _ = task.advance(0, chunk, state)
    return (time.process_time() - started) / (counted.evaluations - before)


def _md(system: System, seed: int, walkers: int, spacing_ps: float) -> tuple["_Counted", MDTask]:
    assert isinstance(system.spec, OpenMMSpec)
    settings = system.spec.generate
    assert settings is not None
    start = settings.starts[0]
    simulator = simulator_of(system, [start], settings.step_fs, settings.friction_per_ps)
    _check_start(system, simulator)
    counted = _Counted(simulator.target)
    return counted, MDTask(
        replace(simulator, target=counted),
        _FOREVER_NS,
        spacing_ps,
        0.0,
        walkers,
        (start,),
        seed,
        system.ensemble_digest,
    )


def _check_start(system: System, simulator: Simulator) -> None:
    """The start must lie in the initial basin: finding the other one is what is compared."""
    initial, _ = basins(system, system.observables(simulator.molecule.start(0)[None]))
    assert initial.all()


def _observables(system: System, x: np.ndarray) -> dict[str, np.ndarray]:
    """Of frames ``(n, W, N, 3)``, each ``(n, W)``."""
    found = system.observables(x.reshape(-1, *x.shape[2:]))
    return {name: values.reshape(x.shape[:2]) for name, values in found.items()}


def _by_mbar(
    system: System,
    names: list[str],
    temperatures: tuple[float, ...],
    energy: np.ndarray,
    values: np.ndarray,
) -> Estimate | None:
    """ΔF from energies ``(n, M, K)`` and observables ``(n, M, K, O)``; ladders are what is independent."""
    beta = temperatures[0] / np.array(temperatures)
    log_weight = mbar_log_weights(energy.reshape(-1, len(beta)), beta).reshape(-1)
    columns = {name: values[..., index].astype(np.float64).reshape(-1) for index, name in enumerate(names)}
    ladder = np.broadcast_to(np.arange(energy.shape[1])[:, None], energy.shape).reshape(-1)
    try:
        return free_energy_difference(log_weight, *basins(system, columns), family=ladder)
    except EmptyBasinError:
        return None


@dataclass
class _Counted:
    """A target that counts its evaluations."""

    target: Target
    evaluations: int = 0

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.target.event_shape

    def energy(self, x: Tensor) -> Tensor:
        self.evaluations += len(x)
        return self.target.energy(x)

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.evaluations += len(x)
        return self.target.energy_and_force(x)
