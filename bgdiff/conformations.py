"""Conformations of a run written as they come, so that they are never all in memory."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import DataError
from bgdiff.io import atomic_path

if TYPE_CHECKING:
    import mdtraj

    from bgdiff.systems import System

__all__ = ["Append", "conformation_writer", "in_space", "save_structure", "topology_of"]

Append = Callable[[NDArray[np.float64]], None]
"""Takes the next conformations ``(B, N, D)``."""

_NOBLE = ("Ar", "Kr", "Xe", "Ne", "He", "Rn")


def topology_of(system: "System") -> "mdtraj.Topology | None":
    """Topology under which mdtraj and viewers read a system's conformations; None if it has no such thing.

    Molecules have their own. Particles of a cluster become atoms of argon, each a residue of its own and
    without bonds, those of a second type of krypton, and so on through xenon, neon, helium and radon.
    """
    if system.topology is not None:
        return system.topology
    if system.particle_types is None or system.target.event_shape[1] > 3:
        return None
    import mdtraj

    topology = mdtraj.Topology()
    chain = topology.add_chain()
    kinds = np.unique(system.particle_types.numpy(), return_inverse=True)[1]
    for kind in kinds:
        symbol = _NOBLE[kind % len(_NOBLE)]
        residue = topology.add_residue(symbol.upper(), chain)
        topology.add_atom(symbol.upper(), mdtraj.element.get_by_symbol(symbol), residue)
    return topology


def in_space(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Conformations ``(B, N, D)`` of up to three dimensions as ``(B, N, 3)``; missing coordinates are 0."""
    missing = 3 - x.shape[2]
    return np.pad(x, ((0, 0), (0, 0), (0, missing))) if missing else x


@contextmanager
def conformation_writer(
    folder: Path,
    topology: "mdtraj.Topology | None",
    n: int,
    shape: tuple[int, ...],
    *,
    array: bool | None = None,
) -> Iterator[Append]:
    """Yield a function that appends; files get their names when the block ends without an error.

    With a topology, conformations make ``samples.dcd``, where nm stand for reduced units if the system has
    those, and z is 0 for what lies in a plane. ``samples.npz`` holds the array ``x`` ``(n, N, D)``.

    Args:
        n: how many conformations there will be.
        shape: ``(N, D)``.
        array: whether to write ``samples.npz``; default if there is no topology.

    Raises:
        DataError: the number of conformations is another in the end.
        StorageError: a file cannot be written.
    """
    kinds = {} if topology is None else {"samples.dcd": _dcd}
    if topology is None or array:
        kinds["samples.npz"] = _npz
    with ExitStack() as files:
        temporaries = {name: files.enter_context(atomic_path(folder / name)) for name in kinds}
        written = 0
        with ExitStack() as streams:
            writers = [
                streams.enter_context(kinds[name](path, (n, *shape))) for name, path in temporaries.items()
            ]

            def append(x: NDArray[np.float64]) -> None:
                nonlocal written
                for write in writers:
                    write(x)
                written += len(x)

            yield append
        if written != n:
            names = " and ".join(str(folder / name) for name in kinds)
            raise DataError(f"{names}: {written} conformations were written instead of {n}")


def save_structure(path: Path, x: NDArray[np.float64], topology: "mdtraj.Topology") -> None:
    """Write one conformation ``(N, D)``, nm or reduced units, as a PDB file, atomically."""
    import mdtraj

    with atomic_path(path) as temporary:
        mdtraj.Trajectory(in_space(x[None])[0].astype(np.float32), topology).save_pdb(str(temporary))


@contextmanager
def _dcd(path: Path, shape: tuple[int, ...]) -> Iterator[Append]:
    from mdtraj.formats import DCDTrajectoryFile

    with DCDTrajectoryFile(str(path), "w", force_overwrite=True) as stream:

        def append(x: NDArray[np.float64]) -> None:
            stream.write((10 * in_space(x)).astype(np.float32))  # DCD is in Å

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
