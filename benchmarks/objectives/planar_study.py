"""Five sets in the plane: samples of the learned ladder against true ones, with pictures of both."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row
from benchmarks.objectives.fitting import Fitted, Recipe, fit
from benchmarks.objectives.jobs import Job, key_of, merged
from benchmarks.objectives.planar_sets import standardised
from benchmarks.objectives.text import TextTable, over_seeds
from bgdiff.analysis.transport import transport_distance
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.resampling import effective_size, systematic
from bgdiff.ladder.smc import Plan, Resampler, descend
from bgdiff.progress import Progress
from bgdiff.random import generator_for

__all__ = ["planar_jobs", "planar_tables", "sinkhorn_distance"]


def planar_jobs(
    study: str, settings: dict[str, Any], objectives: Sequence[str] | None, seeds: int
) -> list[Job]:
    """One job per seed, set and objective, the first seed of everything first.

    Objectives of ``more_seeds`` have as many as it says.
    """
    more = settings.get("more_seeds") or {}
    of = {label: more.get(label, seeds) for label in settings["objectives"]}
    return [
        _job(study, settings, name, label, merged(settings["recipe"], changes), seed)
        for seed in range(max(of.values()))
        for name in settings["sets"]
        for label, changes in settings["objectives"].items()
        if seed < of[label] and (objectives is None or label in objectives)
    ]


def _job(
    study: str, settings: dict[str, Any], name: str, objective: str, recipe: dict[str, Any], seed: int
) -> Job:
    regularisation = settings["sinkhorn_regularisation"]
    shared = {key: value for key, value in settings.items() if key in _SHARED}
    own = {"study": study, "set": name, "objective": objective, "seed": seed, "recipe": recipe}
    describes: Row = own | shared

    def run(progress: Progress, folder: Path) -> Row:
        draw, ladder, sampling = standardised(name), settings["ladder"], settings["sampling"]
        sigma = noise_levels(ladder["n_levels"], ladder["sigma_min"], ladder["sigma_max"])
        fitted = fit(lambda n, g: (draw(n, g), None), sigma, torch.ones(2), Recipe(**recipe), seed, progress)
        walks, population, ess = _samples(fitted, sigma, draw, sampling, seed)
        n, generator = sampling["n_samples"], generator_for(settings["truth_seed"], "truth")
        truths = [draw(n, generator).numpy() for _ in range(settings["truths"])]
        result: Row = {"SMC ESS": ess, "CPU s": fitted.seconds, "losses": fitted.losses}
        fewer = settings["sinkhorn_samples"]
        for title, measure in (
            ("W2", lambda a, b: transport_distance(_costs(a, b))),
            ("Sinkhorn", lambda a, b: sinkhorn_distance(a[:fewer], b[:fewer], regularisation)),
        ):
            floors = [measure(one, other) for one, other in itertools.combinations(truths, 2)]
            result[f"{title} floor"] = float(np.mean(floors))
            result[f"{title} floor std"] = float(np.std(floors, ddof=1))
            result[f"{title} walks"] = float(np.mean([measure(true, walks) for true in truths]))
            result[f"{title} SMC"] = float(np.mean([measure(true, population) for true in truths]))
        return result | {"picture": _picture(fitted, sigma, population, settings["grid"], settings["reach"])}

    return Job(key_of(study, name, f"s{seed}", objective), describes, run)


def _samples(
    fitted: Fitted, sigma: Tensor, draw: Any, sampling: dict[str, Any], seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Ends of walks down the ladder; a population of rung 1 by SMC; its smallest ESS on the way."""
    data = draw(sampling["moment_samples"], generator_for(seed, "moments"))
    moments = measure_moments(fitted.model, sigma, data, generator_for(seed, "noise"))
    rungs = noise_levels(sampling["n_rungs"], float(sigma[1]), float(sigma[-1]))
    ladder = Ladder(fitted.model, sigma, moments).at(rungs)
    n = sampling["n_samples"]
    walks = ladder.walk_down(n, generator_for(seed, "walk"))
    plan = Plan(ladder, resampler=Resampler(sampling["resample_below"]))
    low, _ = descend(plan, n, generator_for(seed, "smc"))
    kept = systematic(low.log_weight, generator_for(seed, "resample"))
    lowest = min(record.effective_fraction for record in low.records)
    return walks.z.numpy(), low.state.z[kept].numpy(), min(lowest, effective_size(low.log_weight) / n)


def sinkhorn_distance(a: np.ndarray, b: np.ndarray, regularisation: float) -> float:
    """√⟨P, C⟩ of the entropically regularised coupling P of two samples, C squared distances (POT)."""
    import ot

    uniform = [np.full(len(x), 1 / len(x)) for x in (a, b)]
    value = ot.sinkhorn2(
        *uniform, _costs(a, b), regularisation, method="sinkhorn", numItermax=2000, stopThr=1e-4, warn=False
    )
    return math.sqrt(float(value))


def _costs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(((a[:, None] - b[None]) ** 2).sum(-1))


def _picture(fitted: Fitted, sigma: Tensor, samples: np.ndarray, grid: int, reach: float) -> Row:
    """Samples, and log p̃ at the lowest rung on a grid, rows from below, relative to its largest value."""
    axis = torch.linspace(-reach, reach, grid)
    points = torch.cartesian_prod(axis, axis).flip(1)  # x runs within a row
    with torch.no_grad():
        value = fitted.model.log_density(points, sigma[1:2]).to(torch.float64)
    value = (value - value.max()).reshape(grid, grid)
    return {"log_density": np.round(value.numpy(), 2).tolist(), "samples": np.round(samples, 3).tolist()}


def planar_tables(rows: list[Row]) -> Iterable[TextTable]:
    """Distances of samples to true ones in units of the floor, per objective and set."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    for title, way in ((title, way) for title in ("Sinkhorn", "W2") for way in ("walks", "SMC")):
        table = TextTable(f"{title} / floor, {way}", ["objective", "seeds", *sets, "CPU min"])
        for objective in dict.fromkeys(row["objective"] for row in rows):
            of = [row for row in rows if row["objective"] == objective and "failed" not in row]
            cells = [
                over_seeds(
                    [row[f"{title} {way}"] / row[f"{title} floor"] for row in of if row["set"] == name]
                )
                for name in sets
            ]
            seeds = len({row["seed"] for row in of})
            table.rows.append([objective, str(seeds), *cells, over_seeds([row["CPU s"] / 60 for row in of])])
        yield table


_SHARED = (
    "ladder", "sampling", "truth_seed", "truths", "sinkhorn_regularisation", "sinkhorn_samples", "grid",
    "reach",
)  # fmt: skip
