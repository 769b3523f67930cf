"""Structures of a user's that simulations start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.data.importing_options import ImportOptions
from bgdiff.data.importing_source import read_conformations
from bgdiff.data.inspection_stereo import centres_of, relabel, wrong_handed
from bgdiff.data.output import sha256_of
from bgdiff.errors import DataError

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["StartFiles", "read_starts"]


@dataclass(frozen=True)
class StartFiles:
    """Structures ``x`` ``(S, N, 3)`` nm, and a record of the files they come from."""

    x: NDArray[np.float64]
    files: tuple[dict[str, Any], ...]

    @property
    def origins(self) -> tuple[dict[str, Any], ...]:
        """File and frame of every structure."""
        return tuple(
            {"file": file["sha256"], "frame": frame} for file in self.files for frame in range(file["frames"])
        )


def read_starts(system: "System", paths: Sequence[Path], top: Path | None = None) -> StartFiles:
    """Read every frame of the files as a structure of the system, as ``bgdiff data import`` would.

    Args:
        top: names the atoms of files which do not.

    Raises:
        DataError: a file cannot be used, or a structure has a broken or impossible geometry or the wrong
            chirality; the message names the frame.
    """
    options = ImportOptions(top=top)
    parts, files = [], []
    for path in paths:
        x = read_conformations(system, path, options).x
        broken = np.flatnonzero(~np.isfinite(x).all(axis=(1, 2)))
        if len(broken):
            raise DataError(f"{path}: frame {broken[0]} has coordinates that are not finite; leave it out")
        centres = centres_of(system.topology)
        x, _ = relabel(system, x, centres)
        for defect in wrong_handed(system, x, centres):
            raise DataError(
                f"{path}: frame {defect.frames[0]} has {defect.fault}, compared with the system's topology "
                "file; simulations do not change that: start from another structure"
            )
        parts.append(x)
        files.append({"file": path.name, "sha256": sha256_of(path), "frames": len(x)})
    return StartFiles(np.concatenate(parts), tuple(files))
