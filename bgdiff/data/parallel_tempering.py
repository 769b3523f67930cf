"""Parallel tempering of a molecule: the independent check on populations, and data that need no correction.

Nothing here knows of models or importance weights.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bgdiff.data.replica_ladders import LadderTask
from bgdiff.data.simulator import simulator_of
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.sampling import TemperatureRungs
from bgdiff.system_spec import OpenMMSpec
from bgdiff.systems import System
from bgdiff.targets.base import Target
from bgdiff.targets.choose import Engine

__all__ = ["TemperingTask", "ladder_task"]

_FRAME_SPACING_PS = 1.0  # of data: several round trips through the rungs next to the lowest


@dataclass(frozen=True, kw_only=True)
class TemperingTask(LadderTask):
    """Ladders of temperatures; energies ``(n, M, K)`` are in kT of the lowest rung."""

    temperatures: tuple[float, ...]
    """K, ascending from the simulator's."""

    @property
    def n_rungs(self) -> int:
        return len(self.temperatures)

    @property
    def energy_shape(self) -> tuple[int, ...]:
        return (self.n_rungs,)

    def rungs(self, seed: int) -> TemperatureRungs:
        move = self.simulator.tempering_move(self.simulator.steps(self.swap_ps), seed)
        temperatures = torch.tensor(self.temperatures, dtype=torch.float64) / self.temperatures[0]
        return TemperatureRungs(move, temperatures)

    def density(self, rung: Tensor) -> Target:
        return self.simulator.target

    def velocity_scale(self) -> NDArray[np.float64]:
        return np.sqrt(np.array(self.temperatures) / self.temperatures[0])

    def own_settings(self) -> dict[str, Any]:
        return {"task": "parallel tempering", "temperatures": self.temperatures}


def ladder_task(
    system: System,
    seed: int,
    engine: Engine = "auto",
    frames: int | None = None,
    *,
    length_ns: float | None = None,
) -> TemperingTask:
    """Parallel tempering of a molecule as its ``replica_exchange`` section says.

    Args:
        frames: keep at least so many conformations of the lowest rung, in all and 1 ps apart, instead of
            simulating for ``length_ns``.
        length_ns: instead of the section's.

    Raises:
        SystemDefinitionError: the system is no molecule or has no such section.
        ConfigError: the system's temperature is not below ``t_max``.
    """
    settings = system.spec.replica_exchange if isinstance(system.spec, OpenMMSpec) else None
    if settings is None:
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: has no 'replica_exchange' section, which says how long to run"
        )
    if not system.temperature < settings.t_max:
        raise ConfigError(
            f"{system.path}/system.yaml: replica_exchange.t_max: must be above {system.temperature:g} K, "
            f"the lowest temperature asked for, not {settings.t_max:g} K"
        )
    simulator = simulator_of(system, settings.starts, settings.step_fs, settings.friction_per_ps, engine)
    ladders = settings.ladders if simulator.batched else 1
    length, spacing = length_ns or settings.length_ns, settings.spacing_ps
    if frames is not None:
        spacing = _FRAME_SPACING_PS
        length = -(-frames // (ladders * len(settings.starts))) * spacing / 1000
    return TemperingTask(
        simulator=simulator,
        observables={name: system.observable(name, spec) for name, spec in system.spec.observables.items()},
        temperatures=tuple(np.geomspace(system.temperature, settings.t_max, settings.temperatures).tolist()),
        ladders=ladders,
        length_ns=length,
        equilibration_ns=settings.equilibration_ns,
        swap_ps=settings.swap_ps,
        spacing_ps=spacing,
        starts_deg=tuple(settings.starts),
        seed=seed,
        definition=system.ensemble_digest,
        section="replica_exchange",
        keep_frames=frames is not None,
    )
