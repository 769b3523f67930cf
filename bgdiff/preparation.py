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
from bgdiff.errors import ConfigError
from bgdiff.progress import Progress, silent
from bgdiff.training_data import TrainingData, label

if TYPE_CHECKING:
    import mdtraj

    from bgdiff.data.dataset import Dataset
    from bgdiff.systems import System

__all__ = ["Prepared", "basin_index", "fit_coordinates", "molecular_zmatrix", "prepare"]


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
    relabelled: int = 0
    """Frames whose forces were evaluated twice, because they were drawn at another temperature."""

    @property
    def target_evaluations(self) -> int:
        return len(self.training.z) + len(self.held_out.z) + self.relabelled


def fit_coordinates(system: "System", x: Tensor, *, conditional: bool = False) -> Coordinates:
    """The system's coordinate map, fitted to conformations x ``(n, N, D)``, in order of time.

    Args:
        conditional: of internal coordinates, see :meth:`bgdiff.coordinates.InternalCoordinates.fit`.

    Raises:
        DataError: too few frames, a coordinate that does not vary, or an angle that is straight.
        SystemDefinitionError: the topology has no bonds, or several fragments.
    """
    if system.spec.coordinates == "internal":
        topology = system.topology
        assert topology is not None  # only molecules may ask for internal coordinates
        names = [f"{atom} (atom {atom.index})" for atom in topology.atoms]
        return InternalCoordinates.fit(molecular_zmatrix(topology), x, conditional=conditional, names=names)
    if system.spec.coordinates == "mean_free":
        return MeanFreeCoordinates.fit(x)
    return WhitenedCoordinates.fit(x)


def molecular_zmatrix(topology: "mdtraj.Topology") -> ZMatrix:
    """The Z-matrix of a molecule; of its rings, those through a disulfide bridge are opened there.

    Raises:
        SystemDefinitionError: the topology has no bonds, or several fragments.
    """
    atoms = list(topology.atoms)
    symbols = ["" if atom.element is None else atom.element.symbol for atom in atoms]
    bonds = [(first.index, second.index) for first, second in topology.bonds]
    return ZMatrix.from_bonds(
        len(atoms),
        bonds,
        [symbol != "H" for symbol in symbols],
        weak=[(i, j) for i, j in bonds if symbols[i] == symbols[j] == "S"],
        names=[f"{atom} (atom {atom.index})" for atom in atoms],
    )


def prepare(system: "System", data: "Dataset", config: RunConfig, *, progress: Progress = silent) -> Prepared:
    """Split, fit coordinates, label every frame with the target's energy and force.

    Frames that were drawn at another temperature get the score of *that* density, which score matching needs:
    in a mixture of densities the expectation of each frame's own score is the mixture's. Their energy is the
    system's own.

    Raises:
        ConfigError: training with the target's energy as its lowest rung (``training.with_target``) is asked
            for, but data were drawn at another temperature.
        DataError: the data set is too small or has impossible frames.
    """
    training, held_out = data.split(config.training.held_out, config.seed)
    coordinates = fit_coordinates(system, training.x, conditional=config.coordinates.conditional)
    latent = LatentTarget(system.target, coordinates)
    total = len(training.x) + len(held_out.x)

    def shifted(done: int, of: int, text: str = "") -> None:
        progress(len(training.x) + done, total, text)

    def first(done: int, of: int, text: str = "") -> None:
        progress(done, total, text)

    if data.temperature is not None and config.training.with_target:
        raise ConfigError(
            "training.with_target: needs data of the system's own temperature, as its lowest rung is the "
            "system's density; these were drawn at "
            + ", ".join(f"{kelvin:g} K" for kelvin in data.temperature.unique().tolist())
        )
    forces = config.training.forces
    labelled = [
        label(latent, part.x, basin_index(system, part.x), forces=forces, progress=report)
        for part, report in ((training, first), (held_out, shifted))
    ]
    relabelled = sum(
        _own_scores(system, coordinates, part, found)
        for part, found in zip((training, held_out), labelled, strict=True)
    )
    return Prepared(
        coordinates, latent, labelled[0], labelled[1], held_out.x, system.particle_types, relabelled
    )


def _own_scores(system: "System", coordinates: Coordinates, data: "Dataset", found: TrainingData) -> int:
    """Put the score of the density each frame was drawn from in its place; how many frames that concerned."""
    if data.temperature is None or found.score is None:
        return 0
    count = 0
    for kelvin in data.temperature.unique().tolist():
        if kelvin == system.temperature:
            continue
        rows = data.temperature == kelvin
        latent = LatentTarget(system.at_temperature(kelvin).target, coordinates)
        other = label(latent, data.x[rows], found.basin[rows])
        assert other.score is not None
        found.score[rows] = other.score
        count += len(other.score)
    return count


def basin_index(system: "System", x: Tensor) -> Tensor:
    """Index of the first basin each conformation x ``(n, N, D)`` lies in, -1 outside all; int64 ``(n,)``."""
    observables = system.observables(x)
    which = torch.full((len(x),), -1, dtype=torch.int64)
    for index, name in reversed(list(enumerate(system.spec.basins))):
        which[torch.as_tensor(system.basin(name, observables))] = index
    return which
