"""Mixtures of 40 and of two normals in up to 128 dimensions: energies of every level against the truth."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Row
from benchmarks.objectives.fitting import Recipe, Stream, fit
from benchmarks.objectives.jobs import Job, key_of, merged
from benchmarks.objectives.measures import classify, measure_levels
from benchmarks.objectives.mixtures import IsotropicMixture, gmm40, two_modes
from benchmarks.objectives.preserving import linear_vp_levels
from benchmarks.objectives.text import TextTable, over_seeds
from bgdiff.progress import Progress

__all__ = ["mixture_jobs", "mixture_tables", "stream_of"]

_DENSITIES = {"gmm": gmm40, "modes": two_modes}


def mixture_jobs(
    study: str, settings: dict[str, Any], objectives: Sequence[str] | None, seeds: int
) -> list[Job]:
    """One job per seed, dimension and objective, the first seed of everything first."""
    jobs = []
    for seed in range(seeds):
        for dim in settings["dims"]:
            for name, changes in settings["objectives"].items():
                if objectives is None or name in objectives:
                    recipe = merged(settings["recipe"], settings["by_dim"].get(dim, {}))
                    jobs.append(_job(study, settings, dim, name, merged(recipe, changes), seed))
    return jobs


def _job(study: str, settings: dict[str, Any], dim: int, name: str, recipe: dict[str, Any], seed: int) -> Job:
    describes: Row = {
        "study": study,
        "dim": dim,
        "objective": name,
        "seed": seed,
        "recipe": recipe,
        "n_levels": settings["n_levels"],
        "held_out_per_level": settings["held_out_per_level"],
        "measured_per_level": settings["measured_per_level"],
    }

    def run(progress: Progress, folder: Path) -> Row:
        truth = _DENSITIES[study](dim)
        sigma = linear_vp_levels(settings["n_levels"])
        fitted = fit(stream_of(truth), sigma, truth.width, Recipe(**recipe), seed, progress)
        known = classify(
            fitted.model,
            fitted.offsets,
            sigma,
            truth,
            settings["held_out_per_level"],
            settings["held_out_seed"],
        )
        levels = measure_levels(
            fitted.model, sigma, truth, settings["measured_per_level"], settings["held_out_seed"]
        )
        return {
            "classification": asdict(known),
            "levels": asdict(levels),
            "losses": fitted.losses,
            "CPU s": fitted.seconds,
        }

    return Job(key_of(study, f"d{dim}", f"s{seed}", name), describes, run)


def stream_of(truth: IsotropicMixture) -> Stream:
    """Exact samples with their scores."""

    def stream(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        z = truth.sample(n, generator)
        return z, truth.score(z, torch.zeros(1))

    return stream


def mixture_tables(rows: list[Row]) -> Iterable[TextTable]:
    """Per dimension: what each objective reaches, mean and standard deviation over seeds."""
    for dim in dict.fromkeys(row["dim"] for row in rows):
        here = [row for row in rows if row["dim"] == dim]
        good = [row for row in here if "failed" not in row]
        if not good:
            continue
        known = good[0]["classification"]
        table = TextTable(
            f"{good[0]['study']}, d = {dim}: optimum {known['optimum']:.3f}, chance {known['chance']:.3f}",
            ["objective", "seeds", *_COLUMNS],
        )
        for name in dict.fromkeys(row["objective"] for row in here):
            of = [row for row in good if row["objective"] == name]
            cells = [over_seeds([measure(row) for row in of]) for measure in _COLUMNS.values()]
            table.rows.append([name, str(len(of)), *(cells if of else ["failed"])])
        yield table


_COLUMNS: dict[str, Callable[[Row], float]] = {
    "128-way loss": lambda row: row["classification"]["loss"],
    "above the optimum": lambda row: row["classification"]["excess"],
    "with best offsets": lambda row: row["classification"]["excess_best_offsets"],
    "lowest ESS": lambda row: min(row["levels"]["ess"]),
    "mean ESS": lambda row: _mean(row["levels"]["ess"]),
    "Fisher / d": lambda row: _mean(row["levels"]["fisher"]),
    "worst mode weight / nat": lambda row: max(map(abs, row["levels"]["mode_error"])),
    "CPU min": lambda row: row["CPU s"] / 60,
}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
