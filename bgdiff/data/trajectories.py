"""Coordinates from files: any trajectory mdtraj reads, or NumPy arrays."""

import ctypes
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import DataError

__all__ = [
    "AtomCountError",
    "Frames",
    "check_atoms",
    "check_exists",
    "file_unit",
    "names_atoms",
    "quiet_stdout",
    "read_array",
    "read_frames",
    "read_topology",
    "read_trajectory",
]

log = logging.getLogger(__name__)

_SELF_DESCRIBED = (".pdb", ".cif", ".mmcif", ".pdbx", ".h5", ".hdf5", ".lh5", ".gro", ".gsd", ".mol2")
"""Formats that name their atoms; others are read with the topology of the system."""

_TIMED = (".xtc", ".trr", ".h5", ".hdf5", ".lh5", ".nc", ".ncdf", ".netcdf")
"""Formats that hold the time of every frame; for others mdtraj counts frames."""

_PACKAGES = {".h5": "PyTables (pip install tables)", ".nc": "netCDF4", ".gsd": "gsd"}


class AtomCountError(DataError):
    """A file has another number of atoms than it was read with."""

    def __init__(self, path: Path, found: int, expected: int) -> None:
        hint = "; extract the molecule first (mdtraj: trajectory.atom_slice)" if found > expected else ""
        super().__init__(f"{path}: has {found} atoms, but the system has {expected}{hint}")
        self.found = found


@dataclass(frozen=True)
class Frames:
    """What a trajectory file holds.

    Attributes:
        x: ``(n, M, 3)`` float32, nm if the file is in the unit of its format.
        box: edges of the periodic box ``(n, 3, 3)``, in the same unit; None if there is none.
        time_ps: ``(n,)``, None if the format has no times.
        topology: the atoms that the file names, or those it was read with.
    """

    x: NDArray[np.float32]
    box: NDArray[np.float64] | None
    time_ps: NDArray[np.float64] | None
    topology: Any


def names_atoms(path: Path) -> bool:
    """Whether files of this format name their atoms, so that they need no topology."""
    return path.name.lower().removesuffix(".gz").endswith(_SELF_DESCRIBED)


def read_trajectory(path: Path, topology: Any) -> NDArray[np.float32]:
    """Read coordinates ``(n, N, 3)`` in nm with mdtraj.

    Raises:
        DataError: the file is missing, unreadable, or its atoms are not those of ``topology`` in order.
    """
    frames = read_frames(path, topology)
    if names_atoms(path):
        check_atoms(path, frames.topology, topology)
    return frames.x


def read_frames(path: Path, topology: Any, *, atoms: Sequence[int] | None = None) -> Frames:
    """Read a trajectory with mdtraj, with its box and times.

    Args:
        topology: of the atoms in the file, for formats that name none; the others bring their own.
        atoms: rows of the atoms to keep, in increasing order; default all.

    Raises:
        DataError: the file is missing, unreadable, ends early, or has another number of atoms.
    """
    import mdtraj

    check_exists(path)
    own_topology = names_atoms(path)
    try:
        if path.suffix.lower() == ".dcd":
            return _read_dcd(path, topology, atoms)
        if own_topology:
            trajectory = mdtraj.load(str(path))
            if atoms is not None:
                trajectory = trajectory.atom_slice(atoms)
        else:
            trajectory = mdtraj.load(str(path), top=topology, atom_indices=atoms)
            _check_complete(path, topology.n_atoms, trajectory.n_frames)
    except DataError:
        raise
    except ImportError as error:
        package = _PACKAGES.get(path.suffix.lower(), "another package")
        raise DataError(
            f"{path}: mdtraj needs {package} to read this format; install it, or "
            "convert the file to DCD or XTC"
        ) from error
    except Exception as error:  # each of mdtraj's readers raises what its parser does
        count = None if own_topology else _count_atoms(path)
        if count is not None and count != topology.n_atoms:
            raise AtomCountError(path, count, topology.n_atoms) from error
        raise DataError(f"{path}: mdtraj cannot read it ({error}); is it complete?") from error
    timed = path.name.lower().endswith(_TIMED)
    return Frames(
        np.asarray(trajectory.xyz, dtype=np.float32),
        _box(trajectory.unitcell_lengths, trajectory.unitcell_angles),
        np.asarray(trajectory.time, dtype=np.float64) if timed else None,
        trajectory.topology,
    )


def read_topology(path: Path) -> Any:
    """The atoms that a structure or topology file names: an mdtraj topology.

    Raises:
        DataError: the file is missing, unreadable, or of a format that names no atoms.
    """
    import mdtraj
    from mdtraj.core.trajectory import load_topology

    check_exists(path)
    try:
        topology = load_topology(str(path))
    except Exception as error:  # each of mdtraj's readers raises what its parser does
        raise DataError(
            f"{path}: no topology can be read from it ({error}); give a file that names atoms, such as "
            "PDB, GRO, PRMTOP or PSF"
        ) from error
    assert isinstance(topology, mdtraj.Topology)
    return topology


def file_unit(path: Path) -> str:
    """The unit of length in which this format holds coordinates: ``nm`` or ``angstrom``."""
    from mdtraj.formats.registry import FormatRegistry

    name = path.name.lower()
    suffix = "".join(path.suffixes[-2:]) if name.endswith(".gz") else path.suffix
    if suffix.lower() in (".dcd", ".pdbx", ".mmcif", ".cif"):  # whose readers do not say, or say nm
        return "angstrom"
    reader = FormatRegistry.fileobjects.get(suffix.lower())
    unit = getattr(reader, "distance_unit", "nanometers")
    return "angstrom" if unit == "angstroms" else "nm"


def _read_dcd(path: Path, topology: Any, atoms: Sequence[int] | None) -> Frames:
    import mdtraj

    with quiet_stdout():
        stream = mdtraj.formats.DCDTrajectoryFile(str(path))
    with stream:
        x, lengths, angles = stream.read(atom_indices=atoms)
    n_atoms = _count_atoms(path) if atoms is not None else x.shape[1]
    if n_atoms != topology.n_atoms:
        raise AtomCountError(path, int(n_atoms or 0), topology.n_atoms)
    claimed = _dcd_frames(path)
    if claimed > len(x):
        raise _ends_early(path, len(x), f"its header says {claimed}")
    # the file is in Å
    box = None if lengths is None or not np.any(lengths) else _box(lengths / np.float32(10), angles)
    return Frames(x / np.float32(10), box, None, topology)


def _dcd_frames(path: Path) -> int:
    """How many frames the header of a DCD file promises; 0 if it does not say."""
    with open(path, "rb") as stream:
        start = stream.read(12)
    order = "<" if start[:1] == b"T" else ">"  # the first record has 84 bytes
    return int(struct.unpack(f"{order}i", start[8:12])[0]) if len(start) == 12 else 0


def _check_complete(path: Path, n_atoms: int, n_frames: int) -> None:
    """Refuse an XYZ file that ends in the middle of a frame, which mdtraj passes over; it tells of others.

    Raises:
        DataError: the file does.
    """
    if path.suffix.lower() != ".xyz":
        return
    with open(path, "rb") as stream:
        lines = sum(1 for line in stream if line.strip())
    if lines not in (n_frames * (n_atoms + 1), n_frames * (n_atoms + 2)):  # a comment may be empty
        raise _ends_early(path, n_frames, "the next one is incomplete")


def _ends_early(path: Path, n_frames: int, why: str) -> DataError:
    return DataError(
        f"{path}: ends early: it holds {n_frames} whole frames, but {why}. Copy the file again; if the "
        "simulation was interrupted, write the whole frames to a new file (mdconvert of mdtraj does)"
    )


def _box(lengths: Any, angles: Any) -> NDArray[np.float64] | None:
    """Edges ``(n, 3, 3)`` of boxes with these lengths and angles (degrees); None without a box."""
    if lengths is None or angles is None or not np.all(np.asarray(lengths) > 0):
        return None
    from mdtraj.utils.unitcell import lengths_and_angles_to_box_vectors

    columns = np.hstack([lengths, angles]).astype(np.float64).T
    return np.stack(lengths_and_angles_to_box_vectors(*columns), axis=1)


def read_array(path: Path, shape: tuple[int, int]) -> NDArray[np.floating[Any]]:
    """Read ``x`` ``(n, N, D)`` from a ``.npz`` file, or the array of a ``.npy`` file; ``(n, N·D)`` will do.

    Integers of a ``.npz`` file that holds ``bits`` stand for multiples of 2⁻ᵇⁱᵗˢ.

    Raises:
        DataError: the file is missing, unreadable, or holds something else.
    """
    check_exists(path)
    try:
        with open(path, "rb") as stream:
            content = np.load(stream, allow_pickle=False)
            x = content if isinstance(content, np.ndarray) else _stored(content)
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


def _stored(content: Any) -> NDArray[Any]:
    x: NDArray[Any] = content["x"]
    if x.dtype.kind == "i" and "bits" in content:
        return np.ldexp(x.astype(np.float32), -int(content["bits"]))
    return x


def check_atoms(path: Path, found: Any, expected: Any) -> None:
    """Compare the atoms of a file with those of the system, in order.

    Elements must agree. Names may follow another convention, which is logged; but the same names in another
    order mean that the atoms are shuffled.

    Raises:
        DataError: naming the first atom that disagrees.
    """
    if found.n_atoms != expected.n_atoms:
        raise AtomCountError(path, found.n_atoms, expected.n_atoms)
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


def _count_atoms(path: Path) -> int | None:
    """Atoms in the first frame, if the file can be read without a topology."""
    import mdtraj

    try:
        with quiet_stdout():
            stream = mdtraj.open(str(path))
        with stream:
            content = stream.read(n_frames=1)
        return int((content[0] if isinstance(content, tuple) else content).shape[1])
    except Exception:  # only to improve a message
        return None


def check_exists(path: Path) -> None:
    """Refuse a path that is no file, or an empty one.

    Raises:
        DataError: the path is missing, a directory, or empty.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a directory; name the files in it")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty")


@contextmanager
def quiet_stdout() -> Iterator[None]:
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
