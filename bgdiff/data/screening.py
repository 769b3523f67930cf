"""Frames that cannot be samples of the system: found, named and counted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["TOLERATED", "Defect", "screen"]

TOLERATED = 0.01
"""Fraction of faulty frames that are dropped; more of them, and a data set is refused."""

_STRETCH = 2.0  # bonds longer than this many times their length in the topology file
_ABSURD = (100.0, 5.0)  # kT above the median: a constant, and so much per coordinate


@dataclass(frozen=True)
class Defect:
    """Frames that share a fault; ``frames`` are their indices, ``example`` describes the first."""

    frames: NDArray[np.int64]
    fault: str
    example: str = ""

    def __str__(self) -> str:
        shown = ", ".join(str(frame) for frame in self.frames[:5]) + (", …" if len(self.frames) > 5 else "")
        detail = f"; {self.example}" if self.example else ""
        return f"{len(self.frames)} with {self.fault} (frame {shown}{detail})"


def screen(system: "System", x: Tensor) -> list[Defect]:
    """Find the faulty frames of ``x`` ``(n, N, D)``; each appears under its first fault only.

    Looked for, in this order: coordinates that are not finite; for molecules, bonds of more than twice
    their length in the topology file (broken by periodic images, wrong unit, or shuffled atoms); energies
    that are not finite; energies above the median by 100 kT and 5 kT more per coordinate, which no thermal
    motion reaches.
    """
    good = torch.isfinite(x).all(2).all(1).numpy()
    defects = [Defect(np.flatnonzero(~good), "coordinates that are not finite")]
    if system.topology is not None:
        defects.append(_stretched(system, x, good))
        good[defects[-1].frames] = False
    energy = np.full(len(x), np.nan)
    energy[good] = system.target.energy(x[torch.from_numpy(good)]).numpy()
    broken = good & ~np.isfinite(energy)
    defects.append(Defect(np.flatnonzero(broken), "an energy that is not finite"))
    good &= ~broken
    if good.any():
        with np.errstate(invalid="ignore"):
            excess = energy - np.median(energy[good])
            absurd = np.flatnonzero(good & (excess > _ABSURD[0] + _ABSURD[1] * x[0].numel()))
        example = f"{excess[absurd[0]]:.3g} kT above the median" if len(absurd) else ""
        defects.append(Defect(absurd, "an absurd energy", example))
    return [defect for defect in defects if len(defect.frames)]


def _stretched(system: "System", x: Tensor, good: NDArray[np.bool_]) -> Defect:
    topology = system.topology
    assert topology is not None
    bonds = [(first.index, second.index) for first, second in topology.bonds]
    if not bonds:
        return Defect(np.empty(0, dtype=np.int64), "a broken bond")
    first, second = (list(ends) for ends in zip(*bonds, strict=True))
    usual = np.linalg.norm(system.structure[first] - system.structure[second], axis=1)
    ratio = (x[:, first] - x[:, second]).norm(dim=2).numpy() / usual
    frames = np.flatnonzero(good & (ratio > _STRETCH).any(axis=1))
    example = ""
    if len(frames):
        worst = int(np.argmax(ratio[frames[0]]))
        names = f"{topology.atom(first[worst])} to {topology.atom(second[worst])}"
        example = f"{names} {ratio[frames[0], worst] * usual[worst]:.3g} nm, usually {usual[worst]:.3g} nm"
    return Defect(frames, "a broken bond", example)
