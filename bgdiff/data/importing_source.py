"""One trajectory of a user's, read, put right where that is beyond doubt, and judged frame by frame."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.data.importing_atoms import AtomMap, match_atoms
from bgdiff.data.importing_options import ImportOptions, burn_in_frames
from bgdiff.data.inspection_frames import Findings, Sieve, energy_limit
from bgdiff.data.inspection_geometry import check_order, check_unit, make_whole
from bgdiff.data.inspection_time import Memory, measure_memory
from bgdiff.data.output import sha256_of
from bgdiff.data.trajectories import (
    AtomCountError,
    Frames,
    check_exists,
    file_unit,
    names_atoms,
    read_array,
    read_frames,
    read_topology,
)
from bgdiff.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Conformations", "Source", "read_conformations", "read_source"]

Array = NDArray[np.float64]

_ANGSTROM = 0.1  # nm


@dataclass(frozen=True)
class Source:
    """What was found in a trajectory, and what was done about it; frames are counted from 0 in the file.

    Attributes:
        frames, atoms: of the file; kept: frames that became data.
        burn_in: frames left out at the beginning; suggested_burn_in: what the energy speaks for.
        stride: of the frames that remained, one in so many was kept.
        memory: of the frames after an explicit burn-in.
        spacing_ps: between the frames of the file, if known.
        unit: that its numbers were taken for; boxed: whether it has a periodic box.
        named: whether its atoms are named, by itself or by another file, so that their order was checked.
        left_out, moved, renamed: atoms, see :class:`~bgdiff.data.importing_atoms.AtomMap`.
        whole: frames whose molecule was put together from periodic images.
        findings: about single frames.
    """

    file: str
    sha256: str
    frames: int
    atoms: int
    kept: int
    burn_in: int
    suggested_burn_in: int
    stride: int
    memory: Memory
    spacing_ps: float | None
    unit: str
    findings: Findings
    boxed: bool = False
    named: bool = True
    left_out: dict[str, int] = field(default_factory=dict)
    moved: int = 0
    renamed: tuple[tuple[str, str], ...] = ()
    whole: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For the provenance."""
        content = asdict(self)
        found = content.pop("findings")
        found["dropped"] = [{"fault": fault, "frames": frames} for fault, frames in self.findings.dropped]
        content["memory"]["stride"] = self.memory.stride
        return content | found


@dataclass(frozen=True)
class Conformations:
    """All frames of a file as conformations of the system.

    Attributes:
        x: ``(n, N, D)``, nm and centred for molecules.
        atoms: where its atoms are in the file, which has ``atoms_in_file``.
        unit: that the file's numbers were taken for.
        boxed: whether the file has a periodic box; whole: frames that were mended with it.
        time_ps: ``(n,)``, if the file has times.
    """

    x: Array
    atoms: AtomMap
    atoms_in_file: int
    unit: str
    boxed: bool
    whole: int
    time_ps: Array | None


def read_conformations(system: "System", path: Path, options: ImportOptions) -> Conformations:
    """Read a file, choose and order atoms, and make molecules whole; frames may still be faulty.

    Raises:
        DataError: the file is missing, damaged, empty or of another molecule, or its numbers are in another
            unit.
        ConfigError: an option does not fit the file.
    """
    check_exists(path)
    if system.topology is None or path.suffix in (".npz", ".npy"):
        if options.atoms is not None or options.top is not None:
            raise ConfigError(f"{path}: arrays name no atoms; --top and --atoms are for trajectories")
        x = read_array(path, system.target.event_shape).astype(np.float64)
        frames, atoms, in_file, unit = None, AtomMap(np.arange(x.shape[1])), x.shape[1], "nm"
    else:
        frames, atoms, in_file = _read(system, path, options)
        x, unit = frames.x.astype(np.float64), file_unit(path)
    if len(x) == 0:
        raise DataError(f"{path}: holds no frames")
    factor = 1.0 if options.units in (None, unit) else (_ANGSTROM if unit == "nm" else 1 / _ANGSTROM)
    unit = options.units or unit
    x = np.asarray(x * factor, dtype=np.float64)
    box = None if frames is None or frames.box is None else frames.box * factor
    whole = 0
    if system.topology is not None:
        check_unit(path, system, x, unit)
        x, whole = make_whole(x, box, system.topology)
        check_order(path, system, x)
        x = x - x.mean(axis=1, keepdims=True)
    time = None if frames is None else frames.time_ps
    return Conformations(x, atoms, in_file, unit, box is not None, whole, time)


def read_source(system: "System", path: Path, options: ImportOptions) -> tuple[Array, Source]:
    """Read a trajectory and leave out what cannot be used: conformations ``(n, N, D)``, and what was found.

    Raises:
        DataError: as :func:`read_conformations`; or more than 1 % of the frames are faulty, or none is left.
        ConfigError: an option does not fit the file.
    """
    read = read_conformations(system, path, options)
    n_frames = len(read.x)
    spacing = options.spacing_ps if read.time_ps is None else _spacing(read.time_ps)
    start = burn_in_frames(path, options.burn_in, spacing, n_frames)
    if start == n_frames:
        raise DataError(
            f"{path}: no frames are left: it holds {n_frames}, and --burn-in {options.burn_in} leaves out all"
        )
    sieve = Sieve(path, read.x[start:], np.arange(start, n_frames), boxed=read.boxed)
    sieve.inspect(system, options.temperature or system.temperature)
    energy = system.target.energy(torch.from_numpy(sieve.x)).numpy()
    observables = system.observables(sieve.x)
    periodic = {name: system.spec.observables[name].periodic for name in observables}
    memory = measure_memory(np.minimum(energy, energy_limit(energy)), observables, periodic)
    suggested = int(sieve.frame[memory.burn_in])
    if options.burn_in == "auto":
        start = suggested
        sieve.skip(memory.burn_in)
        energy = energy[memory.burn_in :]
    sieve.take_outliers(energy)
    stride = options.stride if isinstance(options.stride, int) else memory.stride
    x = sieve.x[::stride]
    source = Source(
        file=path.name,
        sha256=sha256_of(path),
        frames=n_frames,
        atoms=read.atoms_in_file,
        kept=len(x),
        burn_in=start,
        suggested_burn_in=suggested,
        stride=stride,
        memory=memory,
        spacing_ps=spacing,
        unit=read.unit,
        findings=sieve.findings,
        boxed=read.boxed,
        named=options.top is not None or names_atoms(path),
        left_out=read.atoms.left_out,
        moved=read.atoms.moved,
        renamed=read.atoms.renamed,
        whole=read.whole,
    )
    return x, source


def _read(system: "System", path: Path, options: ImportOptions) -> tuple[Frames, AtomMap, int]:
    """The system's atoms of a trajectory, in the system's order, and how many atoms the file has."""
    ours: Any = system.topology
    if names_atoms(path):
        frames = read_frames(path, None)
        found, named_by = frames.topology, path
    elif options.top is not None:
        found, named_by = read_topology(options.top), options.top
    else:
        if options.atoms is not None or options.reorder:
            flag = "--reorder" if options.atoms is None else "--atoms"
            raise ConfigError(f"{path}: names no atoms, which {flag} needs; add --top FILE that does")
        try:
            frames = read_frames(path, ours)
        except AtomCountError as error:
            raise DataError(
                f"{path}: has {error.found} atoms, but the system has {ours.n_atoms}; name the file's atoms "
                "with --top FILE (PDB, GRO, PRMTOP, PSF), so that water and ions can be left out"
            ) from error
        return frames, AtomMap(np.arange(ours.n_atoms)), int(ours.n_atoms)
    atoms = match_atoms(named_by, found, ours, selection=options.atoms, reorder=options.reorder)
    rows = np.sort(atoms.index)
    if not names_atoms(path):
        try:
            frames = read_frames(path, found, atoms=rows.tolist() if len(rows) < found.n_atoms else None)
        except AtomCountError as error:
            raise DataError(
                f"{path}: has {error.found} atoms, but --top {options.top} names {found.n_atoms}; give the "
                "topology that the trajectory was written with"
            ) from error
        x = frames.x
    else:
        x = frames.x[:, rows]
    place = np.searchsorted(rows, atoms.index)
    return Frames(x[:, place], frames.box, frames.time_ps, ours), atoms, int(found.n_atoms)


def _spacing(time_ps: Array) -> float | None:
    """Time between frames, if it is the same for all."""
    steps = np.diff(time_ps)
    even = len(steps) and steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3)
    return float(steps.mean()) if even else None
