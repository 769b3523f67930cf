"""Mixtures of 40 and of two normals in up to 128 dimensions: energies of every level against the truth."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.harness import Row
from benchmarks.objectives.fitting import Recipe, Stream, fit
from benchmarks.objectives.jobs import Job, key_of, merged
from benchmarks.objectives.measures import classify, measure_levels
from benchmarks.objectives.mixtures import IsotropicMixture, gmm40, two_modes
from benchmarks.objectives.preserving import linear_vp_levels
from benchmarks.objectives.text import over_seeds
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


def mixture_tables(rows: list[Row]) -> Iterable[Table]:
    """Per dimension: what each objective reaches, mean and standard deviation over seeds."""
    for dim in dict.fromkeys(row["dim"] for row in rows):
        here = [row for row in rows if row["dim"] == dim]
        good = [row for row in here if "failed" not in row]
        if not good:
            continue
        optimum = good[0]["classification"]
        table = Table(
            "objective", "seeds", "128-way loss", "with best offsets", "lowest ESS", "mean ESS",
            "Fisher / d", "worst mode weight / nat", "CPU min",
            title=f"{good[0]['study']}, d = {dim}: optimum {optimum['optimum']:.3f}, "
            f"chance {optimum['chance']:.3f}",
        )  # fmt: skip
        for name in dict.fromkeys(row["objective"] for row in here):
            of = [row for row in good if row["objective"] == name]
            if not of:
                table.add_row(name, "0", "failed")
                continue
            table.add_row(
                name,
                str(len(of)),
                over_seeds([row["classification"]["loss"] for row in of]),
                over_seeds([row["classification"]["loss_best_offsets"] for row in of]),
                over_seeds([min(row["levels"]["ess"]) for row in of]),
                over_seeds([_mean(row["levels"]["ess"]) for row in of]),
                over_seeds([_mean(row["levels"]["fisher"]) for row in of]),
                over_seeds([max(map(abs, row["levels"]["mode_error"])) for row in of]),
                over_seeds([row["CPU s"] / 60 for row in of]),
            )
        yield table


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
