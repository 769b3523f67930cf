"""From a data set to what a model is trained on: coordinates, latents, labels, a held-out part."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bgdiff.config import RunConfig
from bgdiff.coordinates import (
    Coordinates,
    InternalCoordinates,
    LatentTarget,
    MeanFreeCoordinates,
    WhitenedCoordinates,
    ZMatrix,
)
from bgdiff.progress import Progress, silent
from bgdiff.training_data import TrainingData, label

if TYPE_CHECKING:
    from bgdiff.data.dataset import Dataset
    from bgdiff.systems import System

__all__ = ["Prepared", "basin_index", "fit_coordinates", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A data set seen through coordinates that were fitted to its training part."""

    coordinates: Coordinates
    latent: LatentTarget
    training: TrainingData
    held_out: TrainingData
    x_held_out: Tensor
    """``(m, N, D)``: the conformations behind ``held_out``"""
    particle_types: Tensor | None = None
    """int64 ``(N,)``, the same number for particles that may be exchanged; None if the system does not say"""

    @property
    def target_evaluations(self) -> int:
        return len(self.training.z) + len(self.held_out.z)


def fit_coordinates(system: "System", x: Tensor) -> Coordinates:
    """The system's coordinate map, fitted to conformations x ``(n, N, D)``.

    Raises:
        DataError: too few frames, or a coordinate that does not vary.
        SystemDefinitionError: the topology has no bonds, or several fragments.
    """
    if system.spec.coordinates == "internal":
        topology = system.topology
        assert topology is not None  # only molecules may ask for internal coordinates
        bonds = [(first.index, second.index) for first, second in topology.bonds]
        heavy = [atom.element is None or atom.element.symbol != "H" for atom in topology.atoms]
        return InternalCoordinates.fit(ZMatrix.from_bonds(topology.n_atoms, bonds, heavy), x)
    if system.spec.coordinates == "mean_free":
        return MeanFreeCoordinates.fit(x)
    return WhitenedCoordinates.fit(x)


def prepare(system: "System", data: "Dataset", config: RunConfig, *, progress: Progress = silent) -> Prepared:
    """Split, fit coordinates, label every frame with the target's energy and force.

    Raises:
        DataError: the data set is too small or has impossible frames.
    """
    training, held_out = data.split(config.training.held_out, config.seed)
    coordinates = fit_coordinates(system, training.x)
    latent = LatentTarget(system.target, coordinates)
    total = len(training.x) + len(held_out.x)

    def shifted(done: int, of: int, text: str = "") -> None:
        progress(len(training.x) + done, total, text)

    def first(done: int, of: int, text: str = "") -> None:
        progress(done, total, text)

    forces = config.training.forces
    return Prepared(
        coordinates,
        latent,
        label(latent, training.x, basin_index(system, training.x), forces=forces, progress=first),
        label(latent, held_out.x, basin_index(system, held_out.x), forces=forces, progress=shifted),
        held_out.x,
        system.particle_types,
    )


def basin_index(system: "System", x: Tensor) -> Tensor:
    """Index of the first basin each conformation x ``(n, N, D)`` lies in, -1 outside all; int64 ``(n,)``."""
    observables = system.observables(x)
    which = torch.full((len(x),), -1, dtype=torch.int64)
    for index, name in reversed(list(enumerate(system.spec.basins))):
        which[torch.as_tensor(system.basin(name, observables))] = index
    return which
