"""Free energies with known or independently computed truths, as ``bgdiff free-energy`` quotes them.

Toy densities are compared with quadrature; solvation, the φ basins and other temperatures of alanine
dipeptide with the references that ship with the systems (parallel tempering; alchemical replica exchange).
Processor time of the runs (data labels, training, sampling, reports) and that of all estimators (mostly of
samples of the rungs, which the quoted ones do without) are given apart. Training runs on one thread, which
wastes least.
"""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Row, main
from bgdiff.analysis.free_energy_results import (
    Average,
    EstimateRecord,
    FreeEnergies,
    Quantity,
    TemperaturePoint,
)
from bgdiff.analysis.results import read_results
from bgdiff.analysis.text import with_error
from bgdiff.console import StageProgress
from bgdiff.free_energies import Request, free_energies
from bgdiff.io import read_json, write_json
from bgdiff.run import Run, run_all, start_run

_VACUUM, _WATER = "alanine_dipeptide_vacuum", "alanine_dipeptide_obc1"
_TEMPERATURES = (280.0, 320.0, 340.0)
_RUNS: dict[str, tuple[str, int]] = {
    "double_well": ("quick", 400_000),
    "many_well_32": ("standard", 20_000),
    _VACUUM: ("standard", 20_000),
    _WATER: ("standard", 40_000),
}
"""Preset, and samples: as many as the rarer basin needs for the error that is asked for."""
_QUICK: dict[str, Any] = {
    "training": {"steps": 30},
    "ladder": {"n_rungs": 20, "n_training_rungs": 32, "moment_samples": 256, "pilot_samples": 100},
    "sampling": {"n_samples": 400, "n_held_out": 100},
}


def measure(quick: bool, seed: int, folder: Path, console: Console) -> list[Row]:
    """One row per quantity, then one per run for its learned normalisers."""
    torch.set_num_threads(1)
    progress = StageProgress(console)
    runs = {name: _trained(folder / name, name, quick, seed, progress) for name in _RUNS}
    rows = []
    for name, run in reversed(runs.items()):  # what the vacuum run needs of the other one is there then
        request = Request(
            rung_samples=0 if quick else Request.rung_samples,
            to=runs[_WATER].path if name == _VACUUM else None,
            temperatures=_TEMPERATURES if name == _WATER else (),
        )
        with _Processor(run.path, "estimating"):
            content, _ = free_energies(run.path, request, progress.stage)
        involved = [run, runs[_WATER]] if name == _VACUUM else [run]
        for quantity in content.quantities:
            used = involved if quantity.kind == "systems" else [run]
            rows.append(_row(name, quantity, [one.path for one in used]))
        rows += _at_temperatures(run, content)
    return rows + [_normalisers(name, run) for name, run in runs.items()]


def _trained(path: Path, system: str, quick: bool, seed: int, progress: StageProgress) -> Run:
    """The finished run; one that is there already is continued or kept."""
    if not (path / "run.json").is_file():
        preset, samples = _RUNS[system]
        overrides = _QUICK if quick else {"sampling": {"n_samples": samples}}
        start_run(system, path, preset="quick" if quick else preset, seed=seed, overrides=overrides)
    with _Processor(path, "run"):
        return run_all(path, progress.stage)


def _row(system: str, quantity: Quantity, runs: list[Path]) -> Row:
    exact = [one for one in quantity.estimates if one.exact and one.problem is None and one.std_error]
    apart = [
        abs(a.value - b.value) / math.hypot(a.std_error or 0.0, b.std_error or 0.0)
        for index, a in enumerate(exact)
        for b in exact[:index]
        if a.value is not None and b.value is not None
    ]
    return {
        "quantity": f"{system}: {quantity.title}",
        "estimator quoted": quantity.judgement.quoted,
        "value / kT": quantity.value,
        "std error": quantity.std_error,
        "reference": quantity.reference,
        "reference error": quantity.reference_std_error,
        "difference": _minus(quantity.value, quantity.reference),
        "combined errors": quantity.z_score,
        "estimators": len(exact),
        "farthest two / combined errors": max(apart, default=None),
        "processor minutes": sum(_minutes(path, "run") for path in runs),
        "processor minutes, all estimators": sum(_minutes(path, "estimating") for path in runs),
    }


def _at_temperatures(run: Run, content: FreeEnergies) -> list[Row]:
    """ΔF and averages at other temperatures, against simulations at those that have one."""
    rows = []
    for point in content.temperatures:
        reference = run.system.at_temperature(point.temperature).reference
        known = {item["name"]: item for item in reference.get("free_energy_differences", [])}
        averages = reference.get("averages", {})
        for record in point.differences:
            truth = known.get(record.estimator, {})
            rows.append(_against(run, point, f"ΔF {record.estimator}", record, truth))
        for average in point.averages:
            rows.append(_against(run, point, average.name, average, averages.get(average.name, {})))
    return rows


def _against(
    run: Run, point: TemperaturePoint, name: str, found: EstimateRecord | Average, truth: dict[str, Any]
) -> Row:
    difference, error = _minus(found.value, truth.get("value")), truth.get("std_error")
    combined = None if error is None or found.std_error is None else math.hypot(found.std_error, error)
    return {
        "quantity": f"{run.system.name}: {name} at {point.temperature:g} K",
        "value / kT": found.value,
        "std error": found.std_error,
        "reference": truth.get("value"),
        "reference error": error,
        "difference": difference,
        "combined errors": difference / combined if combined and difference is not None else None,
        "effective samples": point.n_eff,
    }


def _normalisers(name: str, run: Run) -> Row:
    check = read_results(run.file("results.json")).normalisers
    return {
        "quantity": f"{name}: learned normalisers - MBAR, largest",
        "difference": None if check is None else check.largest,
        "std error": None if check is None else check.std_error,
    }


def _minus(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else value - reference


def tables(rows: list[Row]) -> Iterable[Table]:
    """Quantities first, then other temperatures, then what was learned."""
    free = Table(
        "", "quoted", "kT", "reference", "errors apart", "farthest two", "CPU min", title="free energies"
    )
    elsewhere = Table("", "found", "simulated", "errors apart", title="other temperatures")
    learned = Table("", "kT", title="learned normalisers against MBAR, largest difference")
    for row in rows:
        name = str(row["quantity"])
        if "estimators" in row:
            apart = (_number(row["combined errors"]), _number(row["farthest two / combined errors"]))
            minutes = f"{row['processor minutes']:.1f} + {row['processor minutes, all estimators']:.1f}"
            free.add_row(name, row["estimator quoted"] or "none", *_compared(row), *apart, minutes)
        elif "effective samples" in row and row["reference"] is not None:
            elsewhere.add_row(name, *_compared(row), _number(row["combined errors"]))
        elif "learned normalisers" in name:
            learned.add_row(name.split(":")[0], with_error(row["difference"], row["std error"]))
    return free, elsewhere, learned


def _compared(row: Row) -> tuple[str, str]:
    return (
        with_error(row["value / kT"], row["std error"]),
        with_error(row["reference"], row["reference error"]),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


class _Processor:
    """Adds the processor time of a block, all threads, to what the run has used so far for this purpose."""

    def __init__(self, path: Path, purpose: str) -> None:
        self.path, self.purpose = path, purpose

    def __enter__(self) -> None:
        self.before = time.process_time()

    def __exit__(self, *error: object) -> None:
        used = _minutes(self.path, self.purpose)
        write_json(_file(self.path, self.purpose), used + (time.process_time() - self.before) / 60)


def _minutes(path: Path, purpose: str) -> float:
    file = _file(path, purpose)
    return float(read_json(file)) if file.is_file() else 0.0


def _file(path: Path, purpose: str) -> Path:
    return path / f"processor-minutes-{purpose}.json"


if __name__ == "__main__":
    main("free_energies", measure, __doc__ or "", tables)
