"""What a user may say about trajectories that are imported."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bgdiff.errors import ConfigError

__all__ = ["ImportOptions", "burn_in_frames"]


@dataclass(frozen=True)
class ImportOptions:
    """What is done with every trajectory.

    Attributes:
        top: file that names the atoms of trajectories which do not.
        atoms: which of them are the system, in mdtraj's language.
        reorder: put atoms in the system's order, if names say how.
        units: of the numbers in the files; None is the unit of the format.
        burn_in: frames left out at the beginning, ``auto``, or a time such as ``100ps`` or ``2ns``.
        stride: keep one frame in so many; ``auto``: as many as the energy's memory allows.
        spacing_ps: time between frames, for files that do not say.
        temperature: K, of the simulation.
    """

    top: Path | None = None
    atoms: str | None = None
    reorder: bool = False
    units: Literal["nm", "angstrom"] | None = None
    burn_in: int | str = 0
    stride: int | str = 1
    spacing_ps: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        wrong = (isinstance(self.burn_in, int) and self.burn_in < 0) or (
            isinstance(self.burn_in, str) and self.burn_in != "auto" and _picoseconds(self.burn_in) is None
        )
        if wrong:
            raise ConfigError(
                f"--burn-in {self.burn_in}: must be a number of frames, auto, or a time such as 100ps or 2ns"
            )
        if self.stride != "auto" and (not isinstance(self.stride, int) or self.stride < 1):
            raise ConfigError(f"--stride {self.stride}: must be a positive number of frames, or 'auto'")


def burn_in_frames(path: Path, burn_in: int | str, spacing: float | None, frames: int) -> int:
    """How many of so many frames to leave out before anything is looked at; 0 for ``auto``.

    Args:
        spacing: ps between frames, if known.

    Raises:
        ConfigError: a time is asked for, but spacing is not known.
    """
    if isinstance(burn_in, int):
        return min(burn_in, frames)
    wanted = _picoseconds(burn_in)
    if wanted is None:
        return 0
    if spacing is None:
        raise ConfigError(
            f"{path}: does not say when its frames were taken, so --burn-in {burn_in} means nothing; add "
            "--spacing-ps, or give a number of frames"
        )
    return min(int(np.ceil(wanted / spacing - 1e-9)), frames)


def _picoseconds(text: str) -> float | None:
    match = re.fullmatch(r"([0-9.eE+]+)\s*(ps|ns|fs)", text.strip())
    if match is None:
        return None
    try:
        return float(match[1]) * {"fs": 1e-3, "ps": 1.0, "ns": 1e3}[match[2]]
    except ValueError:
        return None
