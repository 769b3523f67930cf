"""Conformations of a run written as they come, so that they are never all in memory."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import DataError
from bgdiff.io import atomic_path

if TYPE_CHECKING:
    import mdtraj

__all__ = ["Append", "conformation_writer", "save_structure"]

Append = Callable[[NDArray[np.float64]], None]
"""Takes the next conformations ``(B, N, D)``."""


@contextmanager
def conformation_writer(
    folder: Path, topology: "mdtraj.Topology | None", n: int, shape: tuple[int, ...]
) -> Iterator[Append]:
    """Yield a function that appends; the file gets its name when the block ends without an error.

    A molecule's conformations, in nm, make ``samples.dcd``; those of other systems the array ``x`` of
    ``samples.npz``, ``(n, N, D)``.

    Args:
        n: how many conformations there will be.
        shape: ``(N, D)``.

    Raises:
        DataError: the number of conformations is another in the end.
        StorageError: the file cannot be written.
    """
    written = 0

    def counted(write: Append) -> Append:
        def append(x: NDArray[np.float64]) -> None:
            nonlocal written
            write(x)
            written += len(x)

        return append

    name = "samples.npz" if topology is None else "samples.dcd"
    with atomic_path(folder / name) as temporary:
        with (_npz if topology is None else _dcd)(temporary, (n, *shape)) as write:
            yield counted(write)
        if written != n:
            raise DataError(f"{folder / name}: {written} conformations were written instead of {n}")


def save_structure(path: Path, x: NDArray[np.float64], topology: "mdtraj.Topology") -> None:
    """Write one conformation ``(N, 3)``, nm, as a PDB file, atomically."""
    import mdtraj

    with atomic_path(path) as temporary:
        mdtraj.Trajectory(x.astype(np.float32), topology).save_pdb(str(temporary))


@contextmanager
def _dcd(path: Path, shape: tuple[int, ...]) -> Iterator[Append]:
    from mdtraj.formats import DCDTrajectoryFile

    with DCDTrajectoryFile(str(path), "w", force_overwrite=True) as stream:

        def append(x: NDArray[np.float64]) -> None:
            stream.write((10 * x).astype(np.float32))  # DCD is in Å

        yield append


@contextmanager
def _npz(path: Path, shape: tuple[int, ...]) -> Iterator[Append]:
    # what np.savez writes, except that it wants the whole array at once
    entry = zipfile.ZipInfo("x.npy")
    with zipfile.ZipFile(path, "w") as archive, archive.open(entry, "w", force_zip64=True) as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)

        def append(x: NDArray[np.float64]) -> None:
            stream.write(np.ascontiguousarray(x, dtype="<f8").tobytes())

        yield append
