"""Coordinates from files: any trajectory mdtraj reads, or NumPy arrays."""

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import DataError

__all__ = ["check_atoms", "read_array", "read_trajectory"]

log = logging.getLogger(__name__)

_SELF_DESCRIBED = (".pdb", ".cif", ".mmcif", ".pdbx", ".h5", ".hdf5", ".lh5", ".gro", ".gsd", ".mol2")
"""Formats that name their atoms; others are read with the topology of the system."""

_PACKAGES = {".h5": "PyTables (pip install tables)", ".nc": "netCDF4", ".gsd": "gsd"}


def read_trajectory(path: Path, topology: Any) -> NDArray[np.float32]:
    """Read coordinates ``(n, N, 3)`` in nm with mdtraj.

    Raises:
        DataError: the file is missing, unreadable, or its atoms are not those of ``topology`` in order.
    """
    import mdtraj

    _check_exists(path)
    own_topology = path.name.lower().removesuffix(".gz").endswith(_SELF_DESCRIBED)
    try:
        if path.suffix.lower() == ".dcd":
            with _quiet_stdout():
                stream = mdtraj.formats.DCDTrajectoryFile(str(path))
            with stream:
                x = stream.read()[0] / np.float32(10)  # the file is in Å
        elif own_topology:
            trajectory = mdtraj.load(str(path))
            check_atoms(path, trajectory.topology, topology)
            x = trajectory.xyz
        else:
            x = mdtraj.load(str(path), top=topology).xyz
    except DataError:
        raise
    except ImportError as error:
        package = _PACKAGES.get(path.suffix.lower(), "another package")
        raise DataError(
            f"{path}: mdtraj needs {package} to read this format; install it, or "
            "convert the file to DCD or XTC"
        ) from error
    except Exception as error:  # each of mdtraj's readers raises what its parser does
        atoms = None if own_topology else _count_atoms(path)
        if atoms is not None and atoms != topology.n_atoms:
            raise DataError(_wrong_count(path, atoms, topology.n_atoms)) from error
        raise DataError(f"{path}: mdtraj cannot read it ({error}); is it complete?") from error
    if x.shape[1] != topology.n_atoms:
        raise DataError(_wrong_count(path, x.shape[1], topology.n_atoms))
    return np.asarray(x, dtype=np.float32)


def read_array(path: Path, shape: tuple[int, int]) -> NDArray[np.floating[Any]]:
    """Read ``x`` ``(n, N, D)`` from a ``.npz`` file, or the array of a ``.npy`` file; ``(n, N·D)`` will do.

    Raises:
        DataError: the file is missing, unreadable, or holds something else.
    """
    _check_exists(path)
    try:
        with open(path, "rb") as stream:
            content = np.load(stream, allow_pickle=False)
            x = content if isinstance(content, np.ndarray) else content["x"]
    except KeyError as error:
        raise DataError(f"{path}: has no array 'x' of shape (n, {shape[0]}, {shape[1]})") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: is not a NumPy .npz or .npy file, or is truncated ({error})") from error
    except Exception as error:  # zipfile and zlib report damage with types of their own
        raise DataError(f"{path}: is damaged ({error})") from error
    if x.ndim == 2 and x.shape[1] == shape[0] * shape[1]:
        x = x.reshape(len(x), *shape)
    if x.ndim != 3 or x.shape[1:] != shape or x.dtype.kind != "f":
        raise DataError(
            f"{path}: x must hold floating-point numbers of shape (n, {shape[0]}, {shape[1]}), "
            f"not {x.dtype} of shape {x.shape}"
        )
    return np.asarray(x)


def check_atoms(path: Path, found: Any, expected: Any) -> None:
    """Compare the atoms of a file with those of the system, in order.

    Elements must agree. Names may follow another convention, which is logged; but the same names in another
    order mean that the atoms are shuffled.

    Raises:
        DataError: naming the first atom that disagrees.
    """
    if found.n_atoms != expected.n_atoms:
        raise DataError(_wrong_count(path, found.n_atoms, expected.n_atoms))
    pairs = list(zip(found.atoms, expected.atoms, strict=True))
    shuffled = sorted(str(atom) for atom in found.atoms) == sorted(str(atom) for atom in expected.atoms)
    for index, (atom, wanted) in enumerate(pairs):
        if _symbol(atom) != _symbol(wanted) or (shuffled and str(atom) != str(wanted)):
            raise DataError(
                f"{path}: atom {index} is {atom} ({_symbol(atom)}), but the system has {wanted} "
                f"({_symbol(wanted)}) there; put the atoms in the system's order"
            )
    renamed = sum(atom.name != wanted.name for atom, wanted in pairs)
    if renamed:
        log.warning(
            "%s: %d atoms have other names than in the system; elements agree in order", path, renamed
        )


def _symbol(atom: Any) -> str:
    return "?" if atom.element is None else str(atom.element.symbol)


def _wrong_count(path: Path, found: int, expected: int) -> str:
    hint = "; extract the molecule first (mdtraj: trajectory.atom_slice)" if found > expected else ""
    return f"{path}: has {found} atoms, but the system has {expected}{hint}"


def _count_atoms(path: Path) -> int | None:
    """Atoms in the first frame, if the file can be read without a topology."""
    import mdtraj

    try:
        with mdtraj.open(str(path)) as stream:
            content = stream.read(n_frames=1)
        return int((content[0] if isinstance(content, tuple) else content).shape[1])
    except Exception:  # only to improve a message
        return None


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty")


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Drop what C code prints: mdtraj's DCD reader announces every file on standard output."""
    try:
        libc = ctypes.CDLL(None)
        libc.fflush(None)
        saved = os.dup(1)
    except (OSError, TypeError, AttributeError):  # no C library by that name, or standard output is closed
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        yield
    finally:
        libc.fflush(None)
        os.dup2(saved, 1)
        os.close(saved)
        os.close(sink)
