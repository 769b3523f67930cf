"""Which frames of a trajectory are samples of the system: faulty ones are named, and dropped if few."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.data.inspection_geometry import bonds_of, constrained_bonds
from bgdiff.data.inspection_stereo import centres_of, cis_frames, peptide_bonds, relabel, wrong_handed
from bgdiff.data.output import system_argument
from bgdiff.data.screening import TOLERATED, Defect, screen
from bgdiff.errors import DataError

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Findings", "sound_frames"]

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


def sound_frames(
    system: "System", path: Path, x: Array, frame: NDArray[np.int64], *, boxed: bool, temperature: float
) -> tuple[Array, NDArray[np.int64], Findings]:
    """Leave out faulty frames: broken, of the wrong chirality, or of an energy no thermal motion reaches.

    Args:
        x: conformations ``(n, N, D)``.
        frame: their numbers in the file, ``(n,)``.
        boxed: whether the file has a periodic box.
        temperature: K, of the simulation.

    Returns:
        Sound conformations with exchanged labels put right, their numbers, and what was found.

    Raises:
        DataError: more than 1 % of the frames are faulty, or bonds were constrained.
    """
    sieve = _Sieve(path, boxed, x, frame)
    sieve.drop(screen(system, torch.from_numpy(sieve.x)))
    relabelled: dict[str, int] = {}
    stereocentres: tuple[str, ...] = ()
    cis: dict[str, int] = {}
    if system.topology is not None:
        _check_constraints(system, path, sieve.x, temperature)
        centres = centres_of(system.topology)
        sieve.x, relabelled = relabel(system, sieve.x, centres)
        sieve.drop(wrong_handed(system, sieve.x, centres))
        stereocentres = tuple(centre.name for centre in centres if centre.stereogenic)
        bonds = peptide_bonds(system.topology)
        cis = {bond.name: int(cis_frames(sieve.x, bond).sum()) for bond in bonds}
    sieve.drop(_outliers(system.target.energy(torch.from_numpy(sieve.x)).numpy()))
    return sieve.x, sieve.frame, Findings(tuple(sieve.dropped), relabelled, stereocentres, cis)


class _Sieve:
    """Frames that are left, and the faults of those that are not."""

    def __init__(self, path: Path, boxed: bool, x: Array, frame: NDArray[np.int64]) -> None:
        self.path, self.boxed, self.n = path, boxed, len(x)
        self.x, self.frame = x, frame
        self.dropped: list[tuple[str, list[int]]] = []

    def drop(self, defects: Sequence[Defect]) -> None:
        """Leave frames out.

        Raises:
            DataError: they are more than 1 %, together with those before.
        """
        good = np.ones(len(self.x), dtype=bool)
        for defect in defects:
            told = defect.fault + (f" ({defect.example})" if defect.example else "")
            self.dropped.append((told, self.frame[defect.frames].tolist()))
            good[defect.frames] = False
        count = sum(len(frames) for _, frames in self.dropped)
        if count > TOLERATED * self.n:
            faults = [f"{len(frames)} with {fault}, {_shown(frames)}" for fault, frames in self.dropped]
            raise DataError(
                f"{self.path}: {count} of {self.n} frames are faulty: {'; '.join(faults)}. "
                f"At most {TOLERATED:.0%} may be. {_remedy(self.dropped, self.boxed)}"
            )
        self.x, self.frame = self.x[good], self.frame[good]


def _outliers(energy: Array) -> list[Defect]:
    """Frames whose energy is more than ten standard deviations, robustly estimated, above the median."""
    if not len(energy):
        return []
    centre = np.median(energy)
    spread = 1.4826 * np.median(np.abs(energy - centre))
    if spread == 0:
        return []
    frames = np.flatnonzero(energy - centre > _OUTLIER * spread)
    if not len(frames):
        return []
    worst = (energy[frames[0]] - centre) / spread
    return [
        Defect(frames, "an energy far from the others'", f"{worst:.0f} standard deviations above the median")
    ]


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
