"""Which frames of a trajectory are samples of the system: faulty ones are named, and dropped if few."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.data.inspection_geometry import bonds_of, constrained_bonds
from bgdiff.data.inspection_stereo import (
    PeptideBond,
    centres_of,
    cis_frames,
    peptide_bonds,
    relabel,
    wrong_handed,
)
from bgdiff.data.output import system_argument
from bgdiff.data.screening import TOLERATED, Defect, screen
from bgdiff.errors import DataError

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Findings", "Sieve", "energy_limit"]

Array = NDArray[np.float64]

_OUTLIER = 10.0  # robust standard deviations of the energy that no thermal motion reaches


@dataclass(frozen=True)
class Findings:
    """What was seen in the frames of a trajectory; frames are counted from 0 in the file.

    Attributes:
        dropped: faults, each with its frames.
        relabelled: in how many frames equal atoms were exchanged, by centre.
        stereocentres: names of those that agree with the topology file.
        cis: in how many frames a peptide bond is cis, by residues.
    """

    dropped: tuple[tuple[str, list[int]], ...] = ()
    relabelled: dict[str, int] = field(default_factory=dict)
    stereocentres: tuple[str, ...] = ()
    cis: dict[str, int] = field(default_factory=dict)

    @property
    def n_dropped(self) -> int:
        return sum(len(frames) for _, frames in self.dropped)


class Sieve:
    """Frames of a trajectory, of which faulty ones are taken out.

    Args:
        path: of the trajectory, for messages.
        x: conformations ``(n, N, D)``.
        frame: their numbers in the file, ``(n,)``.
        boxed: whether the file has a periodic box.
    """

    def __init__(self, path: Path, x: Array, frame: NDArray[np.int64], *, boxed: bool) -> None:
        self.x, self.frame = x, frame
        self._path, self._boxed, self._n = path, boxed, len(x)
        self._dropped: list[tuple[str, list[int]]] = []
        self._relabelled: dict[str, int] = {}
        self._stereocentres: tuple[str, ...] = ()
        self._bonds: list[PeptideBond] = []

    @property
    def findings(self) -> Findings:
        """What was seen so far; cis bonds are counted in the frames that are left."""
        cis = {bond.name: int(cis_frames(self.x, bond).sum()) for bond in self._bonds}
        return Findings(tuple(self._dropped), self._relabelled, self._stereocentres, cis)

    def inspect(self, system: "System", temperature: float) -> None:
        """Take out frames that are broken, of the wrong chirality or of an impossible energy.

        Labels of equal atoms are put right.

        Args:
            temperature: K, of the simulation.

        Raises:
            DataError: more than 1 % of the frames are faulty, or bonds were constrained.
        """
        self._drop(screen(system, torch.from_numpy(self.x)))
        if system.topology is None:
            return
        _check_constraints(system, self._path, self.x, temperature)
        centres = centres_of(system.topology)
        self.x, self._relabelled = relabel(system, self.x, centres)
        self._drop(wrong_handed(system, self.x, centres))
        self._stereocentres = tuple(centre.name for centre in centres if centre.stereogenic)
        self._bonds = peptide_bonds(system.topology)

    def skip(self, burn_in: int) -> None:
        """Leave out the first frames."""
        self.x, self.frame = self.x[burn_in:], self.frame[burn_in:]

    def take_outliers(self, energy: Array) -> None:
        """Take out frames whose energy ``(n,)``, in kT, is far above the others'.

        Raises:
            DataError: more than 1 % of the frames are faulty, with those taken out before.
        """
        limit = energy_limit(energy)
        frames = np.flatnonzero(energy > limit)
        if len(frames):
            example = f"{energy[frames[0]] - np.median(energy):.3g} kT above the median"
            self._drop([Defect(frames, "an energy far from the others'", example)])

    def _drop(self, defects: Sequence[Defect]) -> None:
        good = np.ones(len(self.x), dtype=bool)
        for defect in defects:
            told = defect.fault + (f" ({defect.example})" if defect.example else "")
            self._dropped.append((told, self.frame[defect.frames].tolist()))
            good[defect.frames] = False
        count = sum(len(frames) for _, frames in self._dropped)
        if count > TOLERATED * self._n:
            faults = [f"{len(frames)} with {fault}, {_shown(frames)}" for fault, frames in self._dropped]
            raise DataError(
                f"{self._path}: {count} of {self._n} frames are faulty: {'; '.join(faults)}. "
                f"At most {TOLERATED:.0%} may be. {_remedy(self._dropped, self._boxed)}"
            )
        self.x, self.frame = self.x[good], self.frame[good]


def energy_limit(energy: Array) -> float:
    """Ten standard deviations, robustly estimated, above the median: no thermal motion reaches that."""
    if not len(energy):
        return np.inf
    centre = float(np.median(energy))
    spread = 1.4826 * float(np.median(np.abs(energy - centre)))
    return centre + _OUTLIER * spread if spread > 0 else np.inf


def _check_constraints(system: "System", path: Path, x: Array, temperature: float) -> None:
    rigid = constrained_bonds(system, x, temperature)
    if not rigid:
        return
    assert system.topology is not None
    first, second = (system.topology.atom(index) for index in rigid[0])
    raise DataError(
        f"{path}: {len(rigid)} of {len(bonds_of(system.topology))} bonds do not vary, such as {first} to "
        f"{second}: they were constrained in the simulation, but are free in the system, so these frames are "
        "not of its density. Simulate without constraints, or let bgdiff go on from these frames: "
        f"bgdiff data generate {system_argument(system)} --start {path}"
    )


def _shown(frames: Sequence[int]) -> str:
    some = ", ".join(map(str, frames[:5])) + (", …" if len(frames) > 5 else "")
    return f"frame{'s' if len(frames) > 1 else ''} {some}"


def _remedy(defects: Sequence[tuple[str, list[int]]], boxed: bool) -> str:
    """What to do about the commonest fault."""
    fault = max(defects, key=lambda item: len(item[1]))[0]
    if fault.startswith("a broken bond"):
        if boxed:
            return "The molecule is not whole, and the file's box does not explain it: is it the right one?"
        return (
            "If periodic images broke the molecule: the file has no box to mend it with, so write whole "
            "molecules (gmx trjconv -pbc whole, cpptraj autoimage), or use a format that keeps the box"
        )
    if fault.startswith(("the wrong chirality", "exchanged groups")):
        return (
            "Either the trajectory or the system's topology file is of another stereoisomer, or atoms have "
            "other labels: compare the structures"
        )
    if fault.startswith("coordinates"):
        return "The simulation failed, or the file is damaged"
    return "Is the beginning no equilibrium (--burn-in), the simulation unstable, the force field another?"
