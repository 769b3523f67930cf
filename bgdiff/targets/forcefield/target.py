"""A molecule's Boltzmann density from force-field tables, evaluated for whole batches."""

import logging
import math
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from bgdiff.errors import SystemDefinitionError
from bgdiff.targets.differentiable import check_conformations, differentiable_energy_and_force
from bgdiff.targets.forcefield.dense import dense_energy
from bgdiff.targets.forcefield.kernel import KernelEvaluator, KernelUnavailable, kernel_status, load_kernel
from bgdiff.targets.forcefield.tables import ForceFieldTables
from bgdiff.targets.openmm import GAS_CONSTANT

__all__ = ["ForceFieldTarget"]

logger = logging.getLogger(__name__)

_DENSE_PAIRS = 2**20  # atom pairs that the torch implementation holds at a time; it needs about 1 kB for each


class ForceFieldTarget:
    """Boltzmann density of a molecule at one temperature: u(x) = U(x)/RT, many conformations at a time.

    The compiled kernel evaluates on the CPU if there is one, the torch implementation otherwise and on other
    devices. Energies and forces are those of OpenMM to 1e-9 kJ/mol (/nm) in float64. Each row is on its own:
    neither the rest of the batch nor the number of threads changes its result in the compiled kernel.

    Conformations ``x`` are ``(..., N, 3)`` in nm, with any number of batch dimensions, strides and float
    dtype. Energies ``(...)`` and forces -du/dx ``(..., N, 3)`` in kT/nm come back in ``dtype``. A row that
    holds a nan or an infinity becomes nan. Gradients flow through energies (exact) and through forces
    (central differences in float64 with the kernel, exact in torch).

    In float32 coordinates are taken relative to the molecule before they are rounded, and sums over atoms are
    accumulated in float64; errors are near 1e-4 kJ/mol for 22 and 1e-2 kJ/mol for 138 atoms. Clashes give
    large finite energies or +inf, never nan: pairs closer than 0.002 nm count as 0.002 nm apart.

    Args:
        tables: from :func:`bgdiff.targets.forcefield.parser.parse_system`.
        temperature: in K.
        dtype: in which to compute and answer, torch.float64 (weights, free energies) or torch.float32
            (sampling; twice as fast or more).
        threads: of the kernel, at most; ``torch.get_num_threads()`` at each call if None.
        engine: "kernel" or "torch" to force one; the kernel if it can be used, if None.

    Raises:
        SystemDefinitionError: the temperature is no positive number.
        KernelUnavailable: ``engine`` is "kernel" and there is none; the message says why.
        ValueError: dtype, threads or engine is none of the above, or the tables have no atom.
    """

    def __init__(
        self,
        tables: ForceFieldTables,
        temperature: float,
        *,
        dtype: torch.dtype = torch.float64,
        threads: int | None = None,
        engine: Literal["kernel", "torch"] | None = None,
    ) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise SystemDefinitionError(
                f"temperature: must be a positive number of kelvin, not {temperature}"
            )
        if engine not in (None, "kernel", "torch"):
            raise ValueError(f'engine: must be "kernel", "torch" or None, not {engine!r}')
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype: must be torch.float32 or torch.float64, not {dtype}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads: must be at least 1, not {threads}")
        if tables.n_atoms < 1:
            raise ValueError("a force field must have at least one atom")
        self.tables = tables
        self.temperature = float(temperature)
        self.dtype = dtype
        self.threads = threads
        self._requested = engine
        self._make_kernel()

    def _make_kernel(self) -> None:
        self._kernel: KernelEvaluator | None = None
        self._precise: KernelEvaluator | None = None  # float64, for second derivatives
        if self._requested == "torch":
            return
        if load_kernel() is None:
            reason = kernel_status().reason
            if self._requested == "kernel":
                raise KernelUnavailable(f"the compiled force-field kernel cannot be used: {reason}")
            _tell_of_torch(str(reason))
            return
        self._kernel = KernelEvaluator(self.tables, self.dtype, self.threads)

    @property
    def engine(self) -> Literal["kernel", "torch"]:
        """What evaluates conformations on the CPU."""
        return "kernel" if self._kernel else "torch"

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.tables.n_atoms, 3

    @property
    def kT(self) -> float:  # noqa: N802
        """Thermal energy R T in kJ/mol."""
        return GAS_CONSTANT * self.temperature

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(...)`` of conformations ``(..., N, 3)``.

        Raises:
            DataError: x has another shape or is not of floating-point numbers.
        """
        check_conformations(x, self.tables.n_atoms)
        if not self._uses_kernel(x):
            return self._dense_energy(x)
        if x.requires_grad and torch.is_grad_enabled():
            return self.energy_and_force(x)[0]
        assert self._kernel is not None
        return self._kernel.energy(x, scale=1 / self.kT)

    def energy_and_force(
        self, x: Tensor, *, out: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(...)`` and forces -du/dx in kT/nm, shaped as ``x``, of conformations ``x``.

        Args:
            x: ``(..., N, 3)`` in nm.
            out: contiguous tensors of this target's dtype to write to, so that a sampler need not allocate;
                the results then carry no gradients.

        Raises:
            DataError: x has another shape or is not of floating-point numbers.
        """
        check_conformations(x, self.tables.n_atoms)
        if out is None and x.requires_grad and torch.is_grad_enabled():
            if not self._uses_kernel(x):
                return self._dense_energy_and_force(x, graph=True)
            return differentiable_energy_and_force(self._evaluate, x, precise=self._evaluate_precisely)
        if self._uses_kernel(x):
            assert self._kernel is not None
            return self._kernel.energy_and_force(x, scale=1 / self.kT, out=out)
        results = self._dense_energy_and_force(x.detach(), graph=False)
        if out is None:
            return results
        for result, place in zip(results, out, strict=True):
            place.copy_(result)
        return out

    def describe(self) -> str:
        """Say in one line what evaluates the energies."""
        precision = str(self.dtype).removeprefix("torch.")
        if self._kernel is None:
            return f"batched engine in torch, {precision}"
        return f"batched engine, compiled kernel {self._kernel.library.variant}, {precision}"

    def _uses_kernel(self, x: Tensor) -> bool:
        return self._kernel is not None and x.device.type == "cpu"

    def _evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self._kernel is not None
        return self._kernel.energy_and_force(x, scale=1 / self.kT)

    def _evaluate_precisely(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.dtype == torch.float64:
            return self._evaluate(x)
        if self._precise is None:
            self._precise = KernelEvaluator(self.tables, torch.float64, self.threads)
        return self._precise.energy_and_force(x, scale=1 / self.kT)

    def _dense_energy(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, *self.event_shape)
        if self.dtype == torch.float32:  # see the class: rounding relative to the molecule
            middle = self.tables.n_atoms // 2
            rows = rows - rows[:, middle : middle + 1].detach()
        size = max(1, _DENSE_PAIRS // self.tables.n_atoms**2)
        parts = [dense_energy(self.tables, part) for part in rows.to(self.dtype).split(size)]
        energy = torch.cat(parts) / self.kT
        finite = torch.isfinite(rows).flatten(1).all(1)
        return torch.where(finite, energy, math.nan).reshape(x.shape[:-2])

    def _dense_energy_and_force(self, x: Tensor, *, graph: bool) -> tuple[Tensor, Tensor]:
        size = max(1, _DENSE_PAIRS // self.tables.n_atoms**2)
        energies, forces = [], []
        with torch.enable_grad():
            # Without a graph each part is let go of before the next.
            whole = x.reshape(-1, *self.event_shape)
            for part in [whole] if graph else whole.split(size):
                leaf = part if graph else part.requires_grad_()
                energy = self._dense_energy(leaf)
                (gradient,) = torch.autograd.grad(energy.sum(), leaf, create_graph=graph)
                finite = torch.isfinite(leaf.detach()).flatten(1).all(1)[:, None, None]
                energies.append(energy if graph else energy.detach())
                forces.append(torch.where(finite, -gradient, math.nan).to(self.dtype))
        return torch.cat(energies).reshape(x.shape[:-2]), torch.cat(forces).reshape(x.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_kernel", "_precise")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_kernel()

    def __repr__(self) -> str:
        return f"ForceFieldTarget({self.tables.n_atoms} atoms, {self.temperature:g} K, {self.describe()})"


@cache
def _tell_of_torch(reason: str) -> None:
    """Once per process."""
    logger.warning("force fields are evaluated in torch, about 20 times slower than compiled: %s", reason)
