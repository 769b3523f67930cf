"""Clusters of particles as the literature uses them: quality of DW4, LJ13 and LJ55, and cost against N.

Each run takes the settings that its system recommends and is corrected twice, by importance sampling of walks
and by sequential Monte Carlo. What it reaches stands beside what was asked of it. With --keep DIR, runs that
are in DIR, under their systems' names, are continued or only read; times and memory are then those that were
recorded when they were made. The cost of a training step and of 1 000 samples is measured apart, for one
network at three sizes (:mod:`benchmarks.cluster_cost`).
"""

import json
import math
import operator
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from benchmarks.cluster_cost import cost_rows
from benchmarks.harness import Row, main
from bgdiff.analysis.comparison import MetricName
from bgdiff.analysis.results import LogZ, Results, read_results
from bgdiff.analysis.text import with_error
from bgdiff.config import Method
from bgdiff.console import StageProgress
from bgdiff.io import atomic_path, read_json, write_json
from bgdiff.outputs import timing_key
from bgdiff.run import Run, stage_reweight, stage_train, start_run

_SYSTEMS = ("dw4", "lj13", "lj55")  # in the order of their memory
_SIZES = ("lj13", "lj38", "lj55")
_METHODS: dict[Method, str] = {"is": "path", "smc": "SMC"}
_COST_SECONDS, _QUICK_COST_SECONDS = 240.0, 1.0
_WALKS, _QUICK_WALKS = 1000, 50  # with isotropic reverse steps
_QUICK: dict[str, Any] = {
    "network": {"particles": {"radial": 12, "scalars": 4, "vectors": 2, "tensors": 1, "width": 16}},
    "training": {"steps": 30, "batch_size": 32},
    "ladder": {"n_rungs": 8, "n_training_rungs": 10, "moment_samples": 128, "pilot_samples": 64},
    "sampling": {"n_samples": 100, "n_held_out": 50, "chunk": 100},
    "correction": {"pilot_particles": 40},
}

_SIGNS: dict[str, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}
_VIRIAL = {f"virial z, {of}": ("≤", 3.0) for of in ("data", *_METHODS.values())}
_ASKED: dict[str, dict[str, tuple[str, float]]] = {
    "dw4": {
        "training / min": ("≤", 60.0),
        "path ESS": ("≥", 0.90),
        "SMC effective fraction": ("≥", 0.97),
        **_VIRIAL,
    },
    "lj13": {
        "training / min": ("≤", 60.0),
        "held-out energy sd / kT": ("≤", 0.25),
        "path ESS": ("≥", 0.20),
        "SMC effective fraction": ("≥", 0.85),
        "energy_w2, best corrected / floor": ("≤", 1.5),
        **_VIRIAL,
    },
    "lj55": {
        "all stages / h": ("≤", 2.5),
        "peak memory / GiB": ("≤", 24.0),
        "best effective fraction": ("≥", 0.10),
        "energy_w2, best uncorrected": ("<", 20.0),
        **_VIRIAL,
    },
}
"""Sizes of numbers are compared: that of a z-score, too."""


def measure(quick: bool, seed: int, folder: Path, console: Console) -> list[Row]:
    """One row per system, then the rows of cost."""
    systems, sizes = (_SYSTEMS[:1], _SIZES[:1]) if quick else (_SYSTEMS, _SIZES)
    runs = {name: _finished(name, quick, seed, folder / name, StageProgress(console)) for name in systems}
    walks = _QUICK_WALKS if quick else _WALKS
    rows = [quality_row(run) | _isotropic(run, walks, StageProgress(console)) for run in runs.values()]
    console.print("cost ...")
    ladder = runs.get("lj13", runs["dw4"]).generator().ladder
    return rows + cost_rows(ladder, sizes, seed, _QUICK_COST_SECONDS if quick else _COST_SECONDS)


def _finished(name: str, quick: bool, seed: int, path: Path, progress: StageProgress) -> Run:
    """The run with results of both methods; what is there is kept."""
    if not (path / "run.json").is_file():
        preset = "quick" if quick else "standard"
        start_run(name, path, preset=preset, seed=seed, overrides=_QUICK if quick else {})
    if not Run(path).generator_file.is_file():
        with _Usage(path, "training"):
            stage_train(path, progress.stage)
    for method in _METHODS:
        kept, results = _results_file(path, method), path / "results.json"
        if kept.is_file():
            continue
        if not (results.is_file() and read_results(results).method == method):
            with _Usage(path, "sampling"):
                stage_reweight(path, progress.stage, method)
        with atomic_path(kept) as temporary:
            shutil.copyfile(results, temporary)
    return Run(path)


def _results_file(path: Path, method: Method) -> Path:
    return path / f"results-{method}.json"


def quality_row(run: Run) -> Row:
    """What both corrections of a finished run report, with what was asked and whether it was reached."""
    found = {method: read_results(_results_file(run.path, method)) for method in _METHODS}
    row: Row = {"row": run.system.name, **_effort(run, found["is"]), **_weights(found)}
    row |= _distances(found) | _virials(found) | _free_energies(found)
    asked = _ASKED.get(run.system.name, {})
    row["asked"] = {quantity: f"{sign} {limit:g}" for quantity, (sign, limit) in asked.items()}
    row["reached"] = {
        quantity: None if row.get(quantity) is None else _SIGNS[sign](abs(row[quantity]), limit)
        for quantity, (sign, limit) in asked.items()
    }
    return row


def _effort(run: Run, results: Results) -> Row:
    training, sampling, timings = _usage(run.path, "training"), _usage(run.path, "sampling"), run.timings
    peaks = [one["peak memory / GiB"] for one in (training, sampling) if one]
    walks = results.n_samples + run.config.sampling.n_held_out
    history = run.training_folder(run.config.rounds.n_rounds) / "history.jsonl"
    records = [json.loads(line) for line in history.read_text().splitlines()]
    spread = [record["held_out_energy_sd"] for record in records if "held_out_energy_sd" in record]
    return {
        "frames": results.n_data,
        "training steps": run.config.training.steps,
        "batch": run.config.training.batch_size,
        "rungs": run.config.ladder.n_rungs,
        "samples": results.n_samples,
        "training / min": (timings["train"] + timings.get("rounds", 0.0)) / 60,
        "training / CPU min": training.get("CPU min"),
        "1000 walks / s": 1000 * timings[timing_key(run.config, "sample", "is")] / walks,
        "all stages / h": sum(timings.values()) / 3600,
        "peak memory / GiB": max(peaks, default=None),
        "held-out energy sd / kT": spread[-1] if spread else None,
    }


def _weights(found: dict[Method, Results]) -> Row:
    walks, smc = found["is"], found["smc"]
    fractions = [walks.ess_kish, smc.effective_fraction]
    return {
        "path ESS": walks.ess_kish,
        "path ESS, forward": walks.ess_forward,
        "path Pareto k": walks.pareto_k,
        "SMC effective fraction": smc.effective_fraction,
        "SMC independent ancestors": smc.surviving_ancestors,
        "SMC resamplings": smc.n_resamplings,
        "best effective fraction": max((one for one in fractions if one is not None), default=None),
    }


def _distances(found: dict[Method, Results]) -> Row:
    """Every distance before correction, after it, and its floor.

    Before it, the target has not been asked: walks, or particles that moved under the model's energy.
    """
    row: Row = {}
    for name in get_args(MetricName):
        ratios, before = [], []
        for method, title in _METHODS.items():
            comparison = found[method].comparison
            metric = (
                next((one for one in comparison.metrics if one.name == name), None) if comparison else None
            )
            if metric is None:
                continue
            row[f"{name}, {title}, uncorrected"] = metric.unweighted
            before += [] if metric.unweighted is None else [metric.unweighted]
            row[f"{name}, {title}"], row[f"{name}, {title}, sd"] = metric.value, metric.value_std
            row[f"{name}, {title}, floor"], row[f"{name}, {title}, n"] = metric.floor, metric.n
            row[f"{name}, {title}, worth"] = metric.n_effective
            row[f"{name}, {title} / floor"] = metric.value / metric.floor
            ratios.append(metric.value / metric.floor)
        row[f"{name}, best corrected / floor"] = min(ratios, default=None)
        row[f"{name}, best uncorrected"] = min(before, default=None)
    return row


def _virials(found: dict[Method, Results]) -> Row:
    row: Row = {}
    for method, title in _METHODS.items():
        for check in found[method].virial:
            of = "data" if check.of == "data" else title
            row[f"virial, {of}"], row[f"virial error, {of}"] = check.value, check.std_error
            row[f"virial z, {of}"], row["virial expected"] = check.z_score, check.expected
    return row


def _free_energies(found: dict[Method, Results]) -> Row:
    row: Row = {}
    for method, title in _METHODS.items():
        estimates: list[tuple[str, Any]] = [
            ("log Z", found[method].log_z or LogZ.model_construct(value=None))
        ]
        estimates += [(f"ΔF {one.name}", one) for one in found[method].free_energy_differences]
        for name, one in estimates:
            if one.value is None:
                continue
            row[f"{name}, {title}"], row[f"{name} error, {title}"] = one.value, one.std_error
            row[f"{name} z, {title}"] = one.z_score
            row[f"{name}, reference"], row[f"{name} error, reference"] = (
                one.reference,
                one.reference_std_error,
            )
    return row


def _isotropic(run: Run, walks: int, progress: StageProgress) -> Row:
    """What walks of the same model on the same rungs are worth without pairs in their reverse steps."""
    file = run.file("isotropic.json")
    if not file.is_file():
        generator = run.generator()
        if generator.ladder.pairs is None:
            return {}
        plain = replace(generator, ladder=replace(generator.ladder, pairs=None))
        with progress.stage("sample with isotropic steps") as report:
            ensemble = plain.sample(walks, seed=run.config.seed, progress=report).reweight()
        write_json(file, {"path ESS, isotropic steps": ensemble.ess, "walks, isotropic steps": walks})
    return dict(read_json(file))


class _Usage:
    """Adds the processor time of a block, all threads, to what the run took so far; and the peak of memory.

    The peak is that of the process since it began, so that smaller systems should come first.
    """

    def __init__(self, path: Path, purpose: str) -> None:
        self.path, self.purpose = path, purpose

    def __enter__(self) -> None:
        self.before = time.process_time()

    def __exit__(self, *error: object) -> None:
        earlier = _usage(self.path, self.purpose)
        unit = 1.0 if sys.platform == "darwin" else 1024.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
        write_json(
            self.path / f"usage-{self.purpose}.json",
            {
                "CPU min": earlier.get("CPU min", 0.0) + (time.process_time() - self.before) / 60,
                "peak memory / GiB": max(earlier.get("peak memory / GiB", 0.0), peak),
            },
        )


def _usage(path: Path, purpose: str) -> dict[str, float]:
    file = path / f"usage-{purpose}.json"
    return dict(read_json(file)) if file.is_file() else {}


def tables(rows: list[Row]) -> Iterable[Table]:
    """Quality with what was asked, distances, free energies, then cost."""
    quality = [row for row in rows if "asked" in row]
    names = [row["row"] for row in quality]
    table = Table("", *names, title="quality (what was asked, and whether it was reached)")
    distances = Table("", *names, title="distances from held-out equilibrium data")
    for quantity in dict.fromkeys(quantity for row in quality for quantity in row):
        if quantity in ("row", "asked", "reached") or quantity.endswith((", sd", ", n", ", worth")):
            continue
        if " error, " in quantity:
            continue
        metric = quantity.startswith(get_args(MetricName))
        (distances if metric else table).add_row(quantity, *(_cell(row, quantity) for row in quality))
    yield table
    yield distances
    cost = [row for row in rows if "asked" not in row]
    table = Table("", *(row["row"] for row in cost), title="cost, processor time of one thread")
    for quantity in [key for key in cost[0] if key != "row"]:
        table.add_row(quantity, *(_number(row.get(quantity)) for row in cost))
    yield table


def _cell(row: Row, quantity: str) -> str:
    value = row.get(quantity)
    error = row.get(_error_of(quantity))
    text = _number(value) if error is None or value is None else with_error(value, error)
    asked = row["asked"].get(quantity)
    return text if asked is None else f"{text} ({asked}: {_VERDICTS[row['reached'][quantity]]})"


_VERDICTS = {None: "not known", True: "reached", False: "missed"}


def _error_of(quantity: str) -> str:
    name, _, of = quantity.rpartition(", ")
    return f"{name} error, {of}"


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main("clusters", measure, __doc__ or "", tables)
