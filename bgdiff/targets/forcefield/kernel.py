"""The compiled kernel: finding the library that suits this processor, and calling it.

The library is plain C (``src/interface.h``), loaded with ctypes, which releases the interpreter's lock during
a call. It is compiled at installation for several instruction sets. A library that was built from other
sources than the ones beside it is refused, and so is one that this processor cannot run.
"""

import ctypes
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bgdiff.errors import BgdiffError
from bgdiff.targets.differentiable import check_conformations
from bgdiff.targets.forcefield import build
from bgdiff.targets.forcefield.tables import MAX_PERIODICITY, ForceFieldTables

__all__ = [
    "KernelEvaluator",
    "KernelLibrary",
    "KernelStatus",
    "KernelUnavailable",
    "kernel_status",
    "load_kernel",
]

logger = logging.getLogger(__name__)

_ABI = 1  # BGDIFF_ABI of src/interface.h
_REBUILD = "reinstall with: pip install -e . (or pip install --force-reinstall bgdiff)"
_MINIMUM_LEVEL = {"v4": 4, "v3": 3, "v2": 2, "portable": 0}  # of bgdiff_cpu_level


class KernelUnavailable(BgdiffError):  # noqa: N818
    """The compiled kernel was asked for, but it was not built or cannot be used on this machine."""


@dataclass(frozen=True)
class KernelStatus:
    """Which kernel evaluates force fields on this machine.

    ``variant`` is one of v4 (AVX-512), v3 (AVX2 and FMA), v2 (SSE4.2) and portable, or None if there is
    none; then ``reason`` says why. ``usable`` are all variants that could be loaded, best first.
    """

    variant: str | None
    reason: str | None
    usable: tuple[str, ...]

    def __str__(self) -> str:
        return f"kernel {self.variant}" if self.variant else f"torch (no compiled kernel: {self.reason})"


class KernelLibrary:
    """One loaded variant. ``lanes`` is how many conformations it computes on together, by dtype."""

    def __init__(self, path: Path, variant: str) -> None:
        library = ctypes.CDLL(str(path))
        library.bgdiff_abi.restype = ctypes.c_int
        library.bgdiff_sources.restype = ctypes.c_char_p
        if library.bgdiff_abi() != _ABI or library.bgdiff_sources().decode() != build.source_digest():
            raise KernelUnavailable(f"{path.name} was built from other sources; {_REBUILD}")
        library.bgdiff_lanes.argtypes = [ctypes.c_int]
        library.bgdiff_create.restype = ctypes.c_void_p
        library.bgdiff_create.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.bgdiff_destroy.restype = None
        library.bgdiff_destroy.argtypes = [ctypes.c_void_p]
        library.bgdiff_evaluate.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.c_double,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int,
        ]
        self.variant = variant
        self.path = path
        self.lanes = {torch.float32: library.bgdiff_lanes(1), torch.float64: library.bgdiff_lanes(0)}
        self.functions = library

    def __repr__(self) -> str:
        return f"KernelLibrary({self.variant})"


def load_kernel(variant: str | None = None) -> KernelLibrary | None:
    """Return the best variant for this processor, or the named one; None if it cannot be used.

    :func:`kernel_status` says why. A library is loaded once.
    """
    libraries, _ = _load_all()
    if variant is None:
        return next(iter(libraries.values()), None)
    return libraries.get(variant)


def kernel_status() -> KernelStatus:
    """Return which kernel is in use, or why there is none."""
    libraries, reason = _load_all()
    return KernelStatus(next(iter(libraries), None), None if libraries else reason, tuple(libraries))


@cache
def _load_all(directory: Path = build.LIBRARIES) -> tuple[dict[str, KernelLibrary], str]:
    """Every usable variant, best first, and why there is none (or why some are missing)."""
    cpu = directory / build.CPU_LIBRARY
    if not cpu.is_file():
        return {}, f"it was not built, for want of a C++ compiler; install one and {_REBUILD}"
    problems = []
    libraries = {}
    try:
        level = _cpu_level(cpu)
        for variant in build.VARIANTS:
            path = directory / build.library_name(variant)
            if path.is_file() and level >= _MINIMUM_LEVEL[variant]:
                try:
                    libraries[variant] = KernelLibrary(path, variant)
                except (KernelUnavailable, OSError, AttributeError) as error:
                    problems.append(str(error))
    except (OSError, AttributeError) as error:  # made for another system, or damaged
        problems.append(f"{error}; {_REBUILD}")
    if problems:
        logger.warning("compiled force-field kernel: %s", problems[0])
    return libraries, problems[0] if problems else f"no variant runs on this processor; {_REBUILD}"


def _cpu_level(library: Path) -> int:
    return int(ctypes.CDLL(str(library)).bgdiff_cpu_level())


class _CTables(ctypes.Structure):
    """``bgdiff_tables`` of src/interface.h: counts and switches, then pointers, then three numbers."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("n_atoms", "n_bonds", "n_angles", "n_torsions", "n_cmaps")),
        *((name, ctypes.c_int32) for name in ("n_pairs", "n_maps", "map_size")),
        *((name, ctypes.c_int32) for name in ("has_born", "born_rescaled", "born_engulf", "born_necks")),
        *((name, ctypes.c_void_p) for name in ("bond_atoms", "bond_length", "bond_k")),
        *((name, ctypes.c_void_p) for name in ("angle_atoms", "angle", "angle_k")),
        *((name, ctypes.c_void_p) for name in ("torsion_atoms", "torsion_cosine", "torsion_sine")),
        *((name, ctypes.c_void_p) for name in ("cmap_atoms", "cmap_index", "cmap_coefficients")),
        *((name, ctypes.c_void_p) for name in ("pair_atoms", "pair_charge", "pair_c12", "pair_c6")),
        *((name, ctypes.c_void_p) for name in ("born_charge", "born_offset_radius", "born_scaled_radius")),
        *((name, ctypes.c_void_p) for name in ("born_radius", "born_alpha", "born_beta", "born_gamma")),
        *((name, ctypes.c_void_p) for name in ("neck_distance", "neck_strength", "neck_cutoff")),
        *((name, ctypes.c_double) for name in ("born_prefactor", "born_surface", "born_probe")),
    ]


def _c_tables(tables: ForceFieldTables) -> tuple[_CTables, list[np.ndarray]]:
    """The C structure, and the arrays it points to."""
    n = tables.n_atoms
    bonds, angles, torsions, cmaps, pairs = (
        tables.bonds,
        tables.angles,
        tables.torsions,
        tables.cmaps,
        tables.pairs,
    )
    keep: list[np.ndarray] = []

    def pointer(array: np.ndarray, shape: Sequence[int], dtype: type[Any] = np.float64) -> int:
        keep.append(np.ascontiguousarray(array, dtype).reshape(shape))
        return keep[-1].ctypes.data

    def atoms(array: np.ndarray, count: int, width: int) -> int:
        if np.any(np.asarray(array) < 0) or np.any(np.asarray(array) >= n):
            raise ValueError(f"atom indices of the force-field tables must be in 0 ... {n - 1}")
        return pointer(array, (count, width), np.int32)

    n_bonds, n_angles, n_torsions = len(bonds.k), len(angles.k), len(torsions.cosine)
    n_cmaps, n_pairs = len(cmaps.index), len(pairs.c6)
    n_maps = len(cmaps.coefficients) if n_cmaps else 0
    size = cmaps.coefficients.shape[1] if n_cmaps else 0
    if n_cmaps and not (cmaps.index.min() >= 0 and cmaps.index.max() < n_maps):
        raise ValueError(f"map indices of the CMAP table must be in 0 ... {n_maps - 1}")
    harmonics = (n_torsions, MAX_PERIODICITY + 1)
    c = _CTables(
        n_atoms=n,
        n_bonds=n_bonds,
        n_angles=n_angles,
        n_torsions=n_torsions,
        n_cmaps=n_cmaps,
        n_pairs=n_pairs,
        n_maps=n_maps,
        map_size=size,
        bond_atoms=atoms(bonds.atoms, n_bonds, 2),
        bond_length=pointer(bonds.length, (n_bonds,)),
        bond_k=pointer(bonds.k, (n_bonds,)),
        angle_atoms=atoms(angles.atoms, n_angles, 3),
        angle=pointer(angles.angle, (n_angles,)),
        angle_k=pointer(angles.k, (n_angles,)),
        torsion_atoms=atoms(torsions.atoms, n_torsions, 4),
        torsion_cosine=pointer(torsions.cosine, harmonics),
        torsion_sine=pointer(torsions.sine, harmonics),
        cmap_atoms=atoms(cmaps.atoms, n_cmaps, 8),
        cmap_index=pointer(cmaps.index, (n_cmaps,), np.int32),
        cmap_coefficients=pointer(cmaps.coefficients[:n_maps], (n_maps, size, size, 4, 4)),
        pair_atoms=atoms(pairs.atoms, n_pairs, 2),
        pair_charge=pointer(pairs.charge_product, (n_pairs,)),
        pair_c12=pointer(pairs.c12, (n_pairs,)),
        pair_c6=pointer(pairs.c6, (n_pairs,)),
    )
    born = tables.born
    if born is not None:
        c.has_born = 1
        c.born_rescaled, c.born_engulf = int(born.rescaled), int(born.engulf)
        for name in ("charge", "offset_radius", "scaled_radius", "radius", "alpha", "beta", "gamma"):
            setattr(c, f"born_{name}", pointer(getattr(born, name), (n,)))
        c.born_prefactor, c.born_surface, c.born_probe = born.prefactor, born.surface, born.probe
        if born.neck_distance is not None:
            c.born_necks = 1
            for name in ("neck_distance", "neck_strength", "neck_cutoff"):
                setattr(c, name, pointer(getattr(born, name), (n, n)))
    return c, keep


class KernelEvaluator:
    """A molecule's energies and forces by the compiled kernel.

    Args:
        tables: the force field; at least one atom.
        dtype: in which to compute, torch.float64 or torch.float32. In float32 pairs closer than 0.002 nm
            count as 0.002 nm apart; a clash gives a large finite energy (or +inf), never nan.
        threads: at most so many; ``torch.get_num_threads()`` at each call if None. Their number does not
            change a bit of the results.
        library: a variant from :func:`load_kernel`; the best one if None.

    The evaluator may be used by any number of threads at the same time, and after a fork.

    Raises:
        KernelUnavailable: there is no compiled kernel.
        ValueError: the tables name atoms that do not exist, have no atom, or dtype is another one.
    """

    def __init__(
        self,
        tables: ForceFieldTables,
        dtype: torch.dtype = torch.float64,
        threads: int | None = None,
        library: KernelLibrary | None = None,
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype: must be torch.float32 or torch.float64, not {dtype}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads: must be at least 1, not {threads}")
        if tables.n_atoms < 1:
            raise ValueError("a force field must have at least one atom")
        library = library or load_kernel()
        if library is None:
            raise KernelUnavailable(
                f"the compiled force-field kernel cannot be used: {kernel_status().reason}"
            )
        self.tables = tables
        self.dtype = dtype
        self.threads = threads
        self.library = library
        structure, _arrays = _c_tables(tables)
        self._handle = library.functions.bgdiff_create(ctypes.byref(structure), int(dtype == torch.float32))
        if not self._handle:
            raise MemoryError("not enough memory for the tables of the force field")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.library.functions.bgdiff_destroy(self._handle)
            self._handle = None

    def energy(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        """Energies ``(...)`` in kJ/mol (times ``scale``) of conformations ``(..., N, 3)`` in nm."""
        x = self._prepare(x)
        energy = torch.empty(x.shape[:-2], dtype=self.dtype)
        self._evaluate(x, energy, None, scale)
        return energy

    def energy_and_force(
        self, x: Tensor, *, scale: float = 1.0, out: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energies ``(...)`` in kJ/mol and forces ``(..., N, 3)`` in kJ/mol/nm, both times ``scale``.

        Args:
            x: conformations ``(..., N, 3)`` in nm on the CPU, float32 or float64 (other floats are
                converted); any strides. A row that holds a nan or an infinity becomes nan.
            scale: for example 1/kT.
            out: where to put the results: contiguous tensors of this evaluator's dtype on the CPU.

        Raises:
            DataError: x has another shape or is not of floating-point numbers.
            ValueError: ``out`` does not fit.
        """
        x = self._prepare(x)
        if out is None:
            out = torch.empty(x.shape[:-2], dtype=self.dtype), torch.empty(x.shape, dtype=self.dtype)
        else:
            for name, tensor, shape in (("energy", out[0], x.shape[:-2]), ("force", out[1], x.shape)):
                fits = tensor.shape == shape and tensor.dtype == self.dtype and tensor.device.type == "cpu"
                if not fits or not tensor.is_contiguous():
                    raise ValueError(
                        f"out: {name} must be a contiguous {self.dtype} tensor of shape {tuple(shape)} "
                        "on the CPU"
                    )
        self._evaluate(x, *out, scale)
        return out

    def _prepare(self, x: Tensor) -> Tensor:
        check_conformations(x, self.tables.n_atoms)
        if x.device.type != "cpu":
            raise ValueError(f"the compiled kernel needs conformations on the CPU, not on {x.device}")
        if x.dtype not in (torch.float32, torch.float64):
            x = x.to(self.dtype)
        if x.requires_grad:
            x = x.detach()
        return x.contiguous()

    def _evaluate(self, x: Tensor, energy: Tensor, force: Tensor | None, scale: float) -> None:
        rows = math.prod(energy.shape)
        status = self.library.functions.bgdiff_evaluate(
            self._handle,
            x.data_ptr(),
            int(x.dtype == torch.float32),
            rows,
            scale,
            energy.data_ptr(),
            None if force is None else force.data_ptr(),
            self.threads or torch.get_num_threads(),
        )
        if status:
            raise MemoryError(f"not enough memory to evaluate {rows} conformations")

    def __repr__(self) -> str:
        return f"KernelEvaluator({self.tables.n_atoms} atoms, {self.dtype}, {self.library.variant})"
