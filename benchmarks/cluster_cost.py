"""What a training step and a thousand samples cost against the number of particles.

The network, its weights, the rungs and the functions of pairs in the reverse steps are those of one trained
generator at every size: nothing in them depends on the number of particles. Frames are those of the systems'
data sets, noised to the rungs. Every time is processor time of one thread, the best of short turns that all
jobs take in one process, so that ratios hold on a machine that others use too.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row
from benchmarks.matrix_products import Product, bare, flops, matrix_products
from bgdiff.config import make_config
from bgdiff.generator import make_trainer
from bgdiff.ladder.kernels import NormalStep
from bgdiff.ladder.paths import Ladder
from bgdiff.models import ParticleNetwork
from bgdiff.preparation import prepare
from bgdiff.random import derive_seed, generator_for
from bgdiff.systems import System, load_system
from bgdiff.timing import Rate, interleaved_rates
from bgdiff.training import Trainer

__all__ = ["cost_rows", "growth_exponent"]

_BATCH = 64  # frames of a training step, and walks
_PLACES = 4  # rungs whose reverse steps stand for all
_FRAMES = 2000  # of each data set
_NEVER = 1_000_000
_QUANTITIES = {
    "training": "training step",
    "score": "1000 samples, scores alone",
    "isotropic": "1000 samples, isotropic reverse steps",
    "pairs": "1000 samples, reverse steps of pairs",
}


def cost_rows(trained: Ladder, names: Iterable[str], seed: int, seconds: float) -> list[Row]:
    """One row per system, and one of growth exponents if there are several.

    Args:
        trained: of any cluster, with pairs in its reverse steps.
        names: systems whose data sets ship.
        seconds: about what all measurements may take.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sizes = [_Size.of(load_system(name), trained, seed) for name in names]
        jobs = {f"{size.name} {job}": call for size in sizes for job, call in size.jobs().items()}
        rates = interleaved_rates(jobs, seconds, clock=time.process_time)
    finally:
        torch.set_num_threads(before)
    rows = [_row(size, rates, trained.n_rungs) for size in sizes]
    return rows if len(rows) == 1 else [*rows, _exponents(rows)]


def _exponents(rows: list[Row]) -> Row:
    particles = [row["particles"] for row in rows]
    times = [quantity for quantity in rows[0] if quantity.endswith("/ s")]
    found = {name: growth_exponent(particles, [row[name] for row in rows]) for name in times}
    return {"row": "growth exponent", **found}


def growth_exponent(particles: Iterable[float], seconds: Iterable[float]) -> float:
    """The a of t ∝ N^a, by least squares in log N and log t."""
    slope, _ = np.polyfit(np.log(list(particles)), np.log(list(seconds)), 1)
    return float(slope)


def _row(size: "_Size", rates: dict[str, Rate], rungs: int) -> Row:
    def took(job: str) -> float:
        return 1 / rates[f"{size.name} {job}"].best

    row: Row = {
        "row": f"cost of {size.name}",
        "particles": size.particles,
        "batch": _BATCH,
        "rungs": rungs,
        "parameters": sum(one.numel() for one in size.ladder.model.parameters()),  # type: ignore[attr-defined]
    }
    for job, quantity in _QUANTITIES.items():
        row[f"{quantity} / s"] = took(job) * (1 if job == "training" else 1000 * rungs)
    for job in ("training", "score"):
        quantity, scale = _QUANTITIES[job], 1 if job == "training" else 1000 * rungs
        row[f"{quantity}, products of its layers / s"] = took(f"{job} products") * scale
        row[f"{quantity}, times its layers' products"] = took(job) / took(f"{job} products")
        row[f"{quantity}, layers' products / GFLOP/s"] = (
            flops(size.products[job]) / size.works[job][1] / took(f"{job} products") / 1e9
        )
    row["pairs over isotropic reverse steps"] = took("pairs") / took("isotropic")
    row["median over best time of a training step"] = (
        rates[f"{size.name} training"].best / rates[f"{size.name} training"].median
    )
    return row


@dataclass(frozen=True)
class _Size:
    """One system, ready to be timed.

    Args:
        works: by name, a function and how much it does: steps of training, or one rung of one walk.
        products: by the same names, all matrix products of one call, which are those of the layers: on a
            CPU sums over pairs are none.
    """

    name: str
    particles: int
    ladder: Ladder
    works: dict[str, tuple[Callable[[], object], float]]
    products: dict[str, list[Product]]

    @classmethod
    def of(cls, system: System, trained: Ladder, seed: int) -> "_Size":
        trainer = _trainer(system, trained, seed)
        ladder = resized(trained, system, trainer.model.scale)  # type: ignore[arg-type]
        particles = system.target.event_shape[0]
        walks = _walks(ladder, trainer.data.z.double(), seed)
        generator = generator_for(seed, "cost")

        def scores() -> None:
            for k, z in walks:
                ladder.centre(z, k)

        def steps(ladder: Ladder) -> None:
            for k, z in walks:
                centre, down = ladder.centre(z, k), ladder.down(k, z)
                lower = down.sample(centre, generator)
                ladder.up(k).log_prob(z, lower)
                down.log_prob(lower, centre)

        plain, many = replace(ladder, pairs=None), float(len(walks) * _BATCH)
        works: dict[str, tuple[Callable[[], object], float]] = {
            "training": (trainer.step, 1.0),
            "score": (scores, many),
            "isotropic": (lambda: steps(plain), many),
            "pairs": (lambda: steps(ladder), many),
        }
        products = {job: matrix_products(works[job][0]) for job in ("training", "score")}
        return cls(system.name, particles, ladder, works, products)

    def jobs(self) -> dict[str, tuple[Callable[[], object], float]]:
        """What is timed: the work, and its matrix products alone."""
        jobs = dict(self.works)
        for name, products in self.products.items():
            jobs[f"{name} products"] = (bare(products), self.works[name][1])
        return jobs


def _trainer(system: System, trained: Ladder, seed: int) -> Trainer:
    """At the first step, with the trained network's sizes; it never writes its log."""
    assert isinstance(trained.model, ParticleNetwork)
    shape = trained.model.describe()["shape"]
    settings: dict[str, Any] = {
        "network": {"particles": shape},
        "training": {"batch_size": _BATCH, "steps": _NEVER, "log_every": _NEVER, "evaluate_every": _NEVER},
    }
    data = system.load_data()
    rows = torch.linspace(0, len(data) - 1, min(_FRAMES, len(data))).round().long()
    config = make_config(seed=seed, overrides=settings)
    return make_trainer(
        prepare(system, replace(data, x=data.x[rows], chain=data.chain[rows]), config), config
    )


def resized(trained: Ladder, system: System, scale: float) -> Ladder:
    """The ladder with the same weights for another number of equal particles."""
    model, pairs = trained.model, trained.pairs
    assert isinstance(model, ParticleNetwork)
    assert pairs is not None
    n, dim = system.target.event_shape
    types = torch.zeros(n, dtype=torch.int64)
    other = ParticleNetwork(
        (n, dim), types, scale, model.sigma_min, model.sigma_max, model.shape
    ).requires_grad_(False)
    other.load_state_dict({**other.state_dict(), **dict(model.named_parameters())})
    moments = trained.moments.mean(1, keepdim=True).expand(-1, (n - 1) * dim).contiguous()
    return Ladder(other, trained.sigma, moments, None, replace(pairs, event_shape=(n, dim), types=types))


def _walks(ladder: Ladder, z: Tensor, seed: int) -> list[tuple[int, Tensor]]:
    """Rungs k, evenly spread, and points ``(B, d)`` at rung k+1 from which steps to them start."""
    found = []
    for k in torch.linspace(1, ladder.n_rungs - 1, _PLACES).round().long().tolist():
        generator = generator_for(derive_seed(seed, "cost"), "walks", k)
        frames = z[torch.randint(len(z), (_BATCH,), generator=generator)]
        noise = NormalStep.isotropic(float(ladder.sigma[k + 1]) ** 2, ladder.model.periodic)
        found.append((k, noise.sample(frames, generator)))
    return found
