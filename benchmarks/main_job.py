"""The main job on alanine dipeptide, with the rung classification (DiffCLF) and without it.

Both runs share seed, data and number of steps. The question is what the *learned energy* says about the
weight of the φ basins at the lowest rung: samples of the path are weighted to that energy, and the
free-energy difference is compared with that of the frames it was trained on.
"""

import math
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.harness import Row, main
from bgdiff.analysis.results import read_results
from bgdiff.console import StageProgress
from bgdiff.free_energy.importance import free_energy_difference
from bgdiff.outputs import load_arrays
from bgdiff.run import Run, run_all, start_run

_SYSTEM = "alanine_dipeptide_vacuum"
_QUICK = {
    "training": {"steps": 150},
    "ladder": {"n_rungs": 30, "moment_samples": 512, "pilot_samples": 200},
    "sampling": {"n_samples": 500, "n_held_out": 100},
}


def measure(quick: bool, seed: int, folder: Path, console: Console) -> list[Row]:
    """One row per objective."""
    progress = StageProgress(console)
    rows = []
    for name, objectives in (("score and DiffCLF", {}), ("score alone", {"bi_level": 0})):
        path = folder / name.replace(" ", "_")
        if not (path / "run.json").is_file():
            overrides = {**(_QUICK if quick else {})}
            overrides["training"] = {**overrides.get("training", {}), "objectives": objectives}
            preset = "quick" if quick else "standard"
            start_run(_SYSTEM, path, preset=preset, seed=seed, overrides=overrides)
        rows.append({"objective": name, **basin_error(run_all(path, progress.stage)), **headline(path)})
    return rows


def basin_error(run: Run) -> Row:
    """ΔF of the φ basins in the learned energy at the lowest rung, against the training frames' own."""
    spec = run.system.differences[0]
    arrays = load_arrays(run.file("model.npz"))
    observables = {key.removeprefix("obs_"): value for key, value in arrays.items() if key.startswith("obs_")}
    learned = free_energy_difference(
        arrays["log_weight"],
        run.system.basin(spec.initial, observables),
        run.system.basin(spec.final, observables),
    )
    training, _ = run.data.split(run.config.training.held_out, run.config.seed)
    frames = run.system.observables(training.x)
    counts = [np.count_nonzero(run.system.basin(basin, frames)) for basin in (spec.initial, spec.final)]
    own = -math.log(counts[1] / counts[0])
    return {
        "steps": run.config.training.steps,
        "dF learned / kT": learned.value,
        "std error": learned.std_error,
        "dF of training frames": own,
        "error / kT": learned.value - own,
    }


def headline(path: Path) -> Row:
    """What the run itself reports."""
    results = read_results(path / "results.json")
    difference = results.free_energy_differences[0]
    return {
        "samples": results.n_samples,
        "ESS": results.ess_kish,
        "dF reweighted / kT": difference.value,
        "dF error": difference.std_error,
        "reference": difference.reference,
        "reference error": difference.reference_std_error,
        "train / s": results.timings["train"],
        "sample / s": results.timings["sample"],
    }


if __name__ == "__main__":
    main("main_job", measure, __doc__ or "")
