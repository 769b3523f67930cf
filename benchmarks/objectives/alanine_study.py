"""Alanine dipeptide: what variants of DiffCLF and its neighbours make of the same data and the same steps.

Energies are compared within basins on held-out frames, basins' weights by samples that are weighted to the
*learned* energy, paths by the effective sample size of their weights to the true one.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Row
from benchmarks.main_job import basin_error
from benchmarks.objectives.jobs import Job, key_of, merged
from benchmarks.objectives.text import TextTable, over_seeds
from bgdiff.analysis.results import read_results
from bgdiff.analysis.run_files import read_history
from bgdiff.io import read_json, write_json
from bgdiff.progress import Progress
from bgdiff.run import Run, stage_reweight, stage_sample, stage_train, start_run

__all__ = ["alanine_jobs", "alanine_tables"]


def alanine_jobs(
    study: str, settings: dict[str, Any], objectives: Sequence[str] | None, seeds: int
) -> list[Job]:
    """One job per seed and variant, the first seed of everything first."""
    return [
        _job(study, settings, name, changes, seed)
        for seed in range(seeds)
        for name, changes in settings["objectives"].items()
        if objectives is None or name in objectives
    ]


def _job(study: str, settings: dict[str, Any], name: str, changes: dict[str, Any], seed: int) -> Job:
    overrides = merged(settings["run"], {"training": changes})
    describes: Row = {
        "study": study,
        "system": settings["system"],
        "preset": settings["preset"],
        "objective": name,
        "seed": seed,
        "settings": overrides,
    }

    def run(progress: Progress, folder: Path) -> Row:
        if not (folder / "run.json").is_file():
            start_run(settings["system"], folder, preset=settings["preset"], seed=seed, overrides=overrides)
        spent = folder / "train" / "cpu.json"
        if not Run(folder).generator_file.is_file():
            before = time.process_time()
            stage_train(folder)
            write_json(spent, {"seconds": time.process_time() - before})
        stage_sample(folder)
        done = stage_reweight(folder)
        results = read_results(folder / "results.json")
        difference, record = results.free_energy_differences[0], _evaluated(done)
        return {
            "held-out energy sd / kT": record["held_out_energy_sd"],
            "basin": basin_error(done),
            "ESS": results.ess_kish,
            "dF / kT": difference.value,
            "dF error": difference.std_error,
            "reference / kT": difference.reference,
            "CPU s": read_json(spent)["seconds"] if spent.is_file() else done.timings["train"],
        }

    return Job(key_of(study, f"s{seed}", name), describes, run)


def _evaluated(run: Run) -> dict[str, Any]:
    """The last record of training that looked at held-out frames."""
    history = read_history(run.path / "train" / "history.jsonl")
    return next(record for record in reversed(history) if "held_out_energy_sd" in record)


def alanine_tables(rows: list[Row]) -> Iterable[TextTable]:
    """What each variant reaches, mean and standard deviation over seeds."""
    table = TextTable("alanine dipeptide in vacuum", ["variant", "seeds", *_COLUMNS])
    for name in dict.fromkeys(row["objective"] for row in rows):
        of = [row for row in rows if row["objective"] == name and "failed" not in row]
        cells = [over_seeds([measure(row) for row in of]) for measure in _COLUMNS.values()]
        table.rows.append([name, str(len(of)), *cells])
    yield table


_COLUMNS: dict[str, Callable[[Row], float]] = {
    "held-out energy sd / kT": lambda row: row["held-out energy sd / kT"],
    "learned basin weight off / kT": lambda row: row["basin"]["error / kT"],
    "path ESS": lambda row: row["ESS"],
    "training CPU min": lambda row: row["CPU s"] / 60,
}
