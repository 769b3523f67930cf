"""What each way of correcting a trained generator makes of CPU time, against dynamics without a model.

On alanine dipeptide in vacuum, whose shipped data have the φ basins in the wrong proportion. Every method of
correction gets the same CPU time; molecular dynamics and parallel tempering, started from one structure with
φ < 0, get that time *and* the time of training and of making the training data. So the errors of ΔF can be
compared at equal total cost, and the rates with and without what is spent once. With --keep DIR, a
finished run in DIR is used instead of a new one, and methods that are done are not repeated.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.dynamics import data_steps, md_seconds_per_step, molecular_dynamics, parallel_tempering
from benchmarks.harness import Row, main
from benchmarks.ladder_methods import LADDER_METHODS
from benchmarks.outcomes import Outcome, draws_behind
from bgdiff.console import StageProgress
from bgdiff.errors import CorrectionError
from bgdiff.free_energy.estimate import Estimate
from bgdiff.io import make_directory, read_json, write_json
from bgdiff.round_samples import earlier_rounds
from bgdiff.run import Run, stage_train, start_run

_SYSTEM = "alanine_dipeptide_vacuum"
_SECONDS, _QUICK_SECONDS = 150.0, 1.0
_QUICK: dict[str, Any] = {
    "training": {"steps": 60},
    "ladder": {"n_rungs": 15, "moment_samples": 256, "pilot_samples": 100},
    "sampling": {"chunk": 100},
    "correction": {"pilot_particles": 50, "chains": 10},
}


def measure(quick: bool, seed: int, folder: Path, console: Console) -> list[Row]:
    """One row per method."""
    run = _trained(quick, seed, folder, console)
    seconds = _QUICK_SECONDS if quick else _SECONDS
    generator = run.generator()
    system, burn_in = run.system, run.config.correction.burn_in
    once = _spent_once(run, quick, seed)
    training, _ = run.data.split(run.config.training.held_out, run.config.seed)
    z, _ = generator.coordinates.to_z(training.x)
    # the reduced form would otherwise spend most of its time here
    total = seconds if quick else seconds + once["training / CPU s"] + once["data / CPU s"]
    md: dict[str, Any] = {"spacing_ps": 0.05, "walkers": 16} if quick else {}
    pt: dict[str, Any] = {"spacing_ps": 0.05} if quick else {}
    jobs: dict[str, Callable[[], Outcome]] = {
        name: lambda method=method: method(generator, z, seed, seconds)  # type: ignore[misc]
        for name, method in LADDER_METHODS.items()
    }
    jobs["md"] = lambda: molecular_dynamics(system, seed, total, burn_in=burn_in, **md)
    jobs["pt"] = lambda: parallel_tempering(system, seed, total, burn_in=burn_in, **pt)
    done = make_directory(folder / f"correction-seed{seed}")
    rows = []
    for name, job in jobs.items():
        file = done / f"{name}.json"
        if not file.is_file():
            console.print(f"{name} …")
            try:
                write_json(file, asdict(job()))
            except CorrectionError as error:  # a result, too: the others go on
                rows.append({"method": name, "failed": str(error)})
                continue
        outcome = _read(file)
        rows.append(_row(outcome, {} if name in ("md", "pt") else once, run))
    return rows


def _trained(quick: bool, seed: int, folder: Path, console: Console) -> Run:
    """The run in the folder, or a new one, trained."""
    path = folder if (folder / "run.json").is_file() else folder / "run"
    if not (path / "run.json").is_file():
        start_run(
            _SYSTEM,
            path,
            preset="quick" if quick else "standard",
            seed=seed,
            overrides=_QUICK if quick else {},
        )
    if not Run(path).generator_file.is_file():
        before = time.process_time()
        stage_train(path, StageProgress(console).stage)
        write_json(path / "train" / "cpu.json", {"seconds": time.process_time() - before})
    return Run(path)


def _spent_once(run: Run, quick: bool, seed: int) -> dict[str, float]:
    """CPU time and target evaluations of training and of its data, before any method of correction.

    A run that was trained by other means knows the wall-clock time of its training only, which is taken for
    that of one thread.
    """
    cpu, timings = run.path / "train" / "cpu.json", run.timings
    wall = timings.get("train", 0.0) + timings.get("rounds", 0.0)
    training = read_json(cpu)["seconds"] if cpu.is_file() else wall
    rounds = sum(one.target_evaluations for one in earlier_rounds(run))
    steps = data_steps(run.system)
    per_step = md_seconds_per_step(run.system, seed, 0.3 if quick else 5.0)
    return {
        "training / CPU s": float(training),
        "data / CPU s": steps * per_step,
        "training / evaluations": len(run.data.x) + rounds,
        "data / evaluations": steps,
    }


def _row(outcome: Outcome, once: dict[str, float], run: Run) -> Row:
    entry = next(
        item
        for item in run.system.reference["free_energy_differences"]
        if item["name"] == run.system.differences[0].name
    )
    reference, difference = entry["value"], outcome.difference
    seconds = outcome.cpu_seconds + once.get("training / CPU s", 0.0) + once.get("data / CPU s", 0.0)
    evaluations = (
        outcome.evaluations + once.get("training / evaluations", 0) + once.get("data / evaluations", 0)
    )
    row: Row = {
        "method": outcome.method,
        "samples": outcome.samples,
        "target evaluations": outcome.evaluations,
        "CPU s": outcome.cpu_seconds,
        **once,
        "effective samples": outcome.effective,
        "decided by": outcome.slowest,
        "effective fraction": outcome.effective / outcome.samples,
        "effective / evaluation": outcome.effective / outcome.evaluations,
        "effective / CPU s": outcome.effective / outcome.cpu_seconds,
        "CPU s, all included": seconds,
        "effective / evaluation, all included": outcome.effective / evaluations,
        "effective / CPU s, all included": outcome.effective / seconds,
        "chains that saw both basins": outcome.crossed,
        "reference / kT": reference,
        "reference error": entry["std_error"],
    }
    if difference is None:
        return row
    sure = math.isfinite(difference.std_error)
    return row | {
        "dF / kT": difference.value,
        "std error": difference.std_error if sure else None,
        "error / kT": difference.value - reference,
        "z": (difference.value - reference) / math.hypot(difference.std_error, entry["std_error"]),
        "independent draws with that error": draws_behind(difference, reference) if sure else None,
    }


def _read(file: Path) -> Outcome:
    content = read_json(file)
    if content["difference"] is not None:
        content["difference"] = Estimate(**content["difference"])
    return Outcome(**content)


_COMPARED = (
    "effective / evaluation",
    "effective / evaluation, all included",
    "effective / CPU s",
    "effective / CPU s, all included",
    "effective fraction",
    "dF / kT",
    "std error",
    "error / kT",
    "reference error",
)
_WORK = (
    "samples",
    "effective samples",
    "decided by",
    "target evaluations",
    "CPU s",
    "CPU s, all included",
    "chains that saw both basins",
    "independent draws with that error",
)


def tables(rows: list[Row]) -> Iterable[Table]:
    """The numbers that are compared, where they come from, and what went wrong."""
    for title, quantities in (("correction", _COMPARED), ("work", _WORK)):
        table = Table("", *(row["method"] for row in rows), title=title)
        for quantity in quantities:
            table.add_row(quantity, *(_text(row.get(quantity)) for row in rows))
        yield table
    for row in rows:
        if "failed" in row:
            yield Table(row["failed"], title=f"{row['method']} failed")


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main("correction", measure, __doc__ or "", tables)
