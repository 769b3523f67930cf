"""Energies and forces of the batched engine against OpenMM: speed, fraction of the machine's peak, accuracy.

Speed is that of ``energy_and_force`` of both targets as a program uses them, in one process, all of them
taking short turns, the best of which counts; the ratio is to the faster of OpenMM's Reference and CPU
platforms with one thread.
Accuracy is the largest absolute error over 200 conformations of dynamics moved by another 0.005 nm, against
OpenMM's Reference platform in double precision, one force at a time.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.flops import flops_per_conformation
from benchmarks.harness import Row, main
from benchmarks.molecules import MOLECULES, BenchmarkMolecule, conformations, make_molecule
from benchmarks.peak import peak_job
from bgdiff.targets.forcefield import ForceFieldTarget
from bgdiff.targets.forcefield.parser import parse_system
from bgdiff.targets.openmm import OpenMMTarget
from bgdiff.targets.openmm_rows import RowEvaluator
from bgdiff.timing import interleaved_rates

_TEMPERATURE = 300.0
_DTYPES = {"float64": torch.float64, "float32": torch.float32}
_BATCHES = (1, 64, 512, 4096)
_THREADS = (1, 2)
_PLATFORMS = ("Reference", "CPU")
_OPENMM_BATCH = 8  # OpenMM evaluates row by row: a larger batch is no faster
_PERTURBED, _PERTURBATION = 200, 0.005  # conformations, nm


def measure(quick: bool, seed: int, folder: Path, console: Console) -> list[Row]:
    """Rows of ``kind`` speed (one per molecule, dtype, batch and threads) and accuracy (per force)."""
    rows: list[Row] = []
    for name in MOLECULES[:2] if quick else MOLECULES:
        console.print(f"{name} ...")
        molecule = make_molecule(name)
        batches = _BATCHES[:2] if quick else _BATCHES
        frames = 16 if quick else 200
        x = conformations(molecule, frames, max(*batches, frames), seed)
        rows += speed_rows(molecule, x, batches, seconds=2.0 if quick else 40.0, folder=folder)
        noise = np.random.default_rng(seed + 1).normal(scale=_PERTURBATION, size=x[:_PERTURBED].shape)
        rows += accuracy_rows(molecule, x[:_PERTURBED] + noise)
    return rows


def speed_rows(
    molecule: BenchmarkMolecule,
    x: NDArray[np.float64],
    batches: tuple[int, ...],
    *,
    seconds: float,
    folder: Path,
) -> list[Row]:
    """Rates of the engine, of OpenMM and of the machine's multiply-adds, all of them taking turns."""
    tables = parse_system(molecule.system)
    positions = torch.from_numpy(x)
    jobs: dict[str, tuple[Callable[[], object], float]] = {}
    for platform in _PLATFORMS:
        slow = OpenMMTarget(molecule.system, _TEMPERATURE, platform)
        for batch in {min(batch, _OPENMM_BATCH) for batch in batches}:
            jobs[f"{platform} {batch}"] = (_call(slow, positions[:batch]), batch)
    peaks = {}
    for name, dtype in _DTYPES.items():
        loop, flops, peaks[name] = peak_job(dtype, folder)
        jobs[f"peak {name}"] = (loop, flops)
        for threads in _THREADS:
            target = ForceFieldTarget(tables, _TEMPERATURE, dtype=dtype, threads=threads)
            for batch in batches:
                jobs[f"{name} {batch} {threads}"] = (_call(target, positions[:batch].to(dtype)), batch)
    rates = interleaved_rates(jobs, seconds)
    rows = []
    for name in _DTYPES:
        flops = flops_per_conformation(tables, name)
        for threads in _THREADS:
            for batch in batches:
                rate = rates[f"{name} {batch} {threads}"]
                openmm_rates = {key: rates[f"{key} {min(batch, _OPENMM_BATCH)}"] for key in _PLATFORMS}
                fastest = max(openmm_rates, key=lambda key: openmm_rates[key].best)
                openmm_rate = openmm_rates[fastest]
                rows.append(
                    {
                        "row": f"{molecule.name}, {name}, B = {batch}, threads = {threads}",
                        "kind": "speed",
                        "molecule": molecule.name,
                        "atoms": molecule.n_atoms,
                        "dtype": name,
                        "batch": batch,
                        "threads": threads,
                        "conformations / s": rate.best,
                        "conformations / s, median": rate.median,
                        "turns": rate.turns,
                        "OpenMM platform": fastest,
                        "OpenMM conformations / s": openmm_rate.best,
                        "ratio": rate.best / openmm_rate.best,
                        "ratio of medians": rate.median / openmm_rate.median,
                        "ratio to one thread": rate.best / rates[f"{name} {batch} 1"].best,
                        "flops per conformation": flops,
                        "peak / GFLOP/s": threads * rates[f"peak {name}"].best / 1e9,
                        "peak is": peaks[name],
                        "fraction of peak": rate.best * flops / (threads * rates[f"peak {name}"].best),
                    }
                )
    return rows


def _call(target: OpenMMTarget | ForceFieldTarget, x: torch.Tensor) -> Callable[[], object]:
    return lambda: target.energy_and_force(x)


def accuracy_rows(molecule: BenchmarkMolecule, x: NDArray[np.float64]) -> list[Row]:
    """Largest errors of energy (kJ/mol) and force (kJ/mol/nm) of every force alone."""
    rows = []
    for force, system in single_forces(molecule.system):
        energy, forces = RowEvaluator(system, "Reference")(x, forces=True)
        assert forces is not None
        for name, dtype in _DTYPES.items():
            target = ForceFieldTarget(parse_system(system), _TEMPERATURE, dtype=dtype, threads=1)
            found, found_forces = target.energy_and_force(torch.from_numpy(x).to(dtype))
            rows.append(
                {
                    "row": f"{molecule.name}, {name}, {force}",
                    "kind": "accuracy",
                    "molecule": molecule.name,
                    "dtype": name,
                    "force": force,
                    "conformations": len(x),
                    "compared with": f"OpenMM {openmm.__version__}, Reference platform",
                    "max error of U / kJ/mol": float(
                        np.abs(found.double().numpy() * target.kT - energy).max()
                    ),
                    "max error of F / kJ/mol/nm": float(
                        np.abs(found_forces.double().numpy() * target.kT - forces).max()
                    ),
                    "max |F| / kJ/mol/nm": float(np.abs(forces).max()),
                }
            )
    return rows


def single_forces(system: openmm.System) -> Iterator[tuple[str, openmm.System]]:
    """Every force that has an energy, in a System of its own."""
    for force in system.getForces():
        if isinstance(force, openmm.CMMotionRemover):
            continue
        alone = openmm.System()
        for index in range(system.getNumParticles()):
            alone.addParticle(system.getParticleMass(index))
        alone.addForce(openmm.XmlSerializer.clone(force))
        yield type(force).__name__, alone


def tables(rows: list[Row]) -> Iterator[Table]:
    """The rows as they are read: speed by molecule and batch, accuracy by molecule and force."""
    speed = [row for row in rows if row["kind"] == "speed"]
    for molecule in dict.fromkeys(row["molecule"] for row in speed):
        of_molecule = [row for row in speed if row["molecule"] == molecule]
        last = of_molecule[-1]
        table = Table(
            "",
            *(f"B = {batch}" for batch in dict.fromkeys(row["batch"] for row in of_molecule)),
            title=f"{molecule}: thousand conformations/s, ratio to OpenMM ({last['OpenMM platform']}, "
            f"{last['OpenMM conformations / s'] / 1000:.2f} thousand/s), share of peak",
        )
        for dtype in dict.fromkeys(row["dtype"] for row in of_molecule):
            for threads in dict.fromkeys(row["threads"] for row in of_molecule):
                cells = [
                    _cell(row) for row in of_molecule if (row["dtype"], row["threads"]) == (dtype, threads)
                ]
                table.add_row(f"{dtype}, {threads} thread{'s' * (threads > 1)}", *cells)
        yield table
    accuracy = [row for row in rows if row["kind"] == "accuracy"]
    columns = [f"{quantity}, {dtype}" for dtype in _DTYPES for quantity in ("U", "F")]
    table = Table("molecule", "force", *columns, title="largest absolute errors, kJ/mol and kJ/mol/nm")
    for molecule, force in dict.fromkeys((row["molecule"], row["force"]) for row in accuracy):
        of_force = [row for row in accuracy if (row["molecule"], row["force"]) == (molecule, force)]
        errors = [
            row[name]
            for row in of_force
            for name in ("max error of U / kJ/mol", "max error of F / kJ/mol/nm")
        ]
        table.add_row(molecule, force, *(f"{error:.0e}" for error in errors))
    yield table


def _cell(row: Row) -> str:
    return f"{row['conformations / s'] / 1000:.0f}\n{row['ratio']:.3g} ×, {row['fraction of peak']:.0%}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main("forcefield", measure, __doc__ or "", tables)
