"""Ladders of potentials from one system to another of the same atoms: alchemical replica exchange.

Nothing here knows of models or importance weights.
"""

from dataclasses import dataclass, replace
from typing import Any

import openmm
import torch
from torch import Tensor

from bgdiff.data.replica_ladders import LadderTask
from bgdiff.data.simulator import simulator_of
from bgdiff.errors import SystemDefinitionError
from bgdiff.same_atoms import check_same_atoms
from bgdiff.sampling import HamiltonianRungs, Move
from bgdiff.system_spec import OpenMMSpec, TransformationSpec
from bgdiff.systems import System
from bgdiff.targets.base import Target
from bgdiff.targets.choose import Engine
from bgdiff.targets.mixed import MixedTarget

__all__ = ["AlchemicalTask", "alchemical_task", "find_transformation"]


@dataclass(frozen=True, kw_only=True)
class AlchemicalTask(LadderTask):
    """Ladders with reduced energies u_λ = (1-λ) u_a + λ u_b; ``energy`` ``(n, M, K, 2)`` holds u_a and u_b.

    Each is in kT of its own system's temperature. The moves are Metropolised (HMC and turns about bonds),
    exact for every λ, so their kinetic temperature, the first system's, does not matter.
    """

    other: Target
    """u_b; u_a is the simulator's."""
    other_xml: str
    """The second system's potential, for OpenMM."""
    other_temperature: float
    """K."""
    lambdas: tuple[float, ...]
    """K, from 0 to 1."""

    @property
    def n_rungs(self) -> int:
        return len(self.lambdas)

    @property
    def energy_shape(self) -> tuple[int, ...]:
        return self.n_rungs, 2

    @property
    def weights(self) -> Tensor:
        """Of u_a and u_b at every rung, ``(K, 2)``."""
        to = torch.tensor(self.lambdas, dtype=torch.float64)
        return torch.stack([1 - to, to], dim=1)

    @property
    def ends(self) -> tuple[Target, Target]:
        return self.simulator.target, self.other

    def potentials(self) -> list[tuple[openmm.System, float]]:
        """OpenMM's potential and the temperature (K) of both ends."""
        other = openmm.XmlSerializer.deserialize(self.other_xml)
        return [
            (self.simulator.molecule.system, self.simulator.temperature),
            (other, self.other_temperature),
        ]

    def rungs(self, seed: int) -> HamiltonianRungs:
        steps = self.simulator.steps(self.swap_ps)

        def make_move(target: Target) -> Move:
            return replace(self.simulator, target=target).tempering_move(steps, seed)

        return HamiltonianRungs(self.ends, self.weights, make_move)

    def density(self, rung: Tensor) -> Target:
        return MixedTarget(self.ends, self.weights[rung])

    def own_settings(self) -> dict[str, Any]:
        return {"task": "alchemical replica exchange", "lambdas": self.lambdas}


def find_transformation(system: System, other: System) -> TransformationSpec:
    """How the system's ``system.yaml`` says to go to ``other``, at its temperature.

    Without such an entry, the settings of ``replica_exchange`` serve, with the default number of λ.

    Raises:
        SystemDefinitionError: the file says neither.
    """
    if not isinstance(system.spec, OpenMMSpec):
        raise SystemDefinitionError(f"system {system.name} is not a molecule: it has no atoms to share")
    if (way := system.transformation_to(other)) is not None:
        return way
    settings = system.spec.replica_exchange
    if settings is None:
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: has neither an entry of 'transformations' to {other.name} at "
            f"{other.temperature:g} K nor a 'replica_exchange' section, which say how long to run"
        )
    common = settings.model_dump(exclude={"t_max", "temperatures"})
    return TransformationSpec(to=other.name, temperature=other.temperature, **common)


def alchemical_task(
    system: System,
    other: System,
    settings: TransformationSpec,
    seed: int,
    engine: Engine = "auto",
) -> AlchemicalTask:
    """Ladders from ``system`` to ``other`` as settings say, each system at its temperature.

    Raises:
        SystemDefinitionError: their atoms differ; one of them is no molecule.
        UnsupportedSystem: ``engine`` insists on an engine that does not cover one of them.
    """
    check_same_atoms(system, other)
    how = settings.step_fs, settings.friction_per_ps, engine
    simulator = simulator_of(system, settings.starts, *how)
    end = simulator_of(other, [], *how)
    return AlchemicalTask(
        simulator=simulator,
        other=end.target,
        other_xml=end.molecule.system_xml,
        other_temperature=other.temperature,
        lambdas=tuple(settings.lambdas),
        observables={name: system.observable(name, spec) for name, spec in system.spec.observables.items()},
        ladders=settings.ladders if simulator.batched else 1,
        length_ns=settings.length_ns,
        equilibration_ns=settings.equilibration_ns,
        swap_ps=settings.swap_ps,
        spacing_ps=settings.spacing_ps,
        starts_deg=tuple(settings.starts),
        seed=seed,
        definition=f"{system.ensemble_digest} {other.ensemble_digest}",
        section="transformations",
        keep_last=True,
    )
