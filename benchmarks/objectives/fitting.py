"""Training on a stream of fresh samples: the objectives of bgdiff on a ladder of any levels.

The library's own trainer draws from a finite data set and has log-uniform levels. Here data are analytic and
cost nothing, so that every step sees new ones and nothing can be memorised; levels are those of the study.
Objectives, networks, offsets, averaging and learning rate are the library's.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.objectives.noise import balanced_noise
from benchmarks.objectives.preserving import preserving
from bgdiff.config import NetworkConfig
from bgdiff.coordinates import WhitenedCoordinates
from bgdiff.coordinates.whitening import Whitening
from bgdiff.errors import ConfigError
from bgdiff.models import Network, make_network
from bgdiff.objectives.base import Problem, Setup
from bgdiff.objectives.batches import Batch
from bgdiff.objectives.diffclf import LOSSES
from bgdiff.objectives.registry import make_objective
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed, generator_for

__all__ = ["Fitted", "Recipe", "Stream", "choose_levels", "fit", "level_positions"]

Stream = Callable[[int, torch.Generator], tuple[Tensor, Tensor | None]]
"""n fresh data points ``(n, d)`` and their scores, where known."""


@dataclass(frozen=True)
class Recipe:
    """What is trained and how.

    Args:
        objectives: terms of the loss and their weights.
        options: of single objectives.
        preserving: DiffCLF in the variance-preserving picture instead of on the ladder.
        forces: give objectives the scores of the data.
        balanced: draw the noise of a group by :func:`balanced_noise`.
        groups, levels: points of a step: groups of one data point each, on so many levels.
        reach: shortest reach of a group, in statistical length.
        gap: longest step of the ladder that is trained on.
        optimiser: ``muon`` (torch 2.9 or newer) for the network's matrices and Adam for the rest, or ``adam``
            for everything.
        network: settings, as for ``network`` in a run.
    """

    objectives: dict[str, float]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    preserving: bool = True
    forces: bool = True
    balanced: bool = True
    steps: int = 1000
    groups: int = 32
    levels: int = 8
    reach: float = 1.0
    gap: float = 1.0
    learning_rate: float = 3e-3
    offset_rate: float = 3.0
    warm_up: int = 100
    ema: float = 0.995
    optimiser: str = "muon"
    gradient_clip: float = 1.0
    network: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """Averaged weights, offsets f ``(K+1,)`` float64 with f_K = 0, mean losses, and CPU time in seconds."""

    model: Network
    offsets: Tensor
    losses: dict[str, list[float]]
    seconds: float


def level_positions(sigma: Tensor, width: Tensor) -> tuple[Tensor, float]:
    """Places of the noisy rungs between 0 and 1, ``(K,)`` float64, rising: half index, half length.

    The length is the Fisher-Rao one of the variances of x = z/√(1+σ²), (c + σ²)/(1 + σ²) per axis; the whole
    of it is returned, too. Where modes are narrow it is all at small noise, on a few rungs; the rungs above
    differ in how modes merge, which it does not know.

    Args:
        sigma: ``(K+1,)``.
        width: c ``(d,)``.
    """
    step = _lengths(sigma, width)
    total = float(step.sum())
    index = torch.full_like(step, 1 / len(step))
    share = 0.5 * index + 0.5 * step / total if total > 0 else index
    return torch.cat([torch.zeros_like(step[:1]), share.cumsum(0)]), total


def refined_levels(sigma: Tensor, width: Tensor, gap: float) -> tuple[Tensor, Tensor]:
    """The ladder with rungs put in between, so that none of its steps is longer than ``gap``.

    Levels that hardly overlap say little of each other. Energies are functions of σ, so that rungs of
    training need not be those of the study.

    Args:
        sigma, width: as for :func:`level_positions`.
        gap: statistical length.

    Returns:
        σ ``(K'+1,)`` and where the given rungs are in it, int64 ``(K+1,)``.
    """
    pieces = (_lengths(sigma, width) / gap).ceil().clamp_min(1).to(torch.int64)
    rungs, at = [sigma[:1]], [0, 1]
    for low, high, n in zip(sigma[1:-1], sigma[2:], pieces.tolist(), strict=True):
        rungs.append(low * (high / low) ** (torch.arange(n, dtype=sigma.dtype) / n))
        at.append(at[-1] + n)
    return torch.cat([*rungs, sigma[-1:]]), torch.tensor(at)


def _lengths(sigma: Tensor, width: Tensor) -> Tensor:
    """Fisher-Rao length between neighbouring noisy rungs in the variance-preserving picture, ``(K-1,)``."""
    square = sigma[1:].to(torch.float64)[:, None] ** 2
    log_variance = ((width.to(torch.float64) + square) / (1 + square)).log()
    return (0.5 * log_variance.diff(dim=0).square().sum(-1)).sqrt()


def choose_levels(
    position: Tensor, n_groups: int, n_levels: int, nearest: float, generator: torch.Generator
) -> Tensor:
    """Distinct rungs of [1, K] for each group, ``(n_groups, n_levels)`` int64, evenly in position.

    The first is any. The others are within a reach of it that is drawn for each group, evenly in its
    logarithm between ``nearest`` and the whole ladder, or among as many nearest ones as twice the levels.
    Neighbours have the least noise in what they tell, but what they tell wrongly adds up along the ladder;
    levels far apart, which overlap little, hold the sums.

    Args:
        position: ``(K,)``, from :func:`level_positions`.
        nearest: shortest reach, between 0 and 1 as positions are.
    """
    step = position.diff()
    rate = 0.5 * (torch.cat([step, step[-1:]]) + torch.cat([step[:1], step]))
    first = torch.multinomial(rate, n_groups, replacement=True, generator=generator)[:, None]
    distance = (position - position[first]).abs()
    enough = min(2 * n_levels, len(position) - 1)
    reach = nearest ** torch.rand(n_groups, 1, generator=generator, dtype=torch.float64)
    reach = torch.maximum(reach, distance.sort(-1).values[:, enough, None])
    # the first arrivals of exponential clocks with these rates: draws without replacement
    arrival = torch.empty(distance.shape, dtype=torch.float64).exponential_(generator=generator) / rate
    arrival = torch.where(distance > reach, 1e9 + arrival, arrival)
    arrival.scatter_(1, first, -1.0)
    return 1 + arrival.topk(n_levels, -1, largest=False).indices


def fit(
    stream: Stream, sigma: Tensor, width: Tensor, recipe: Recipe, seed: int, progress: Progress = silent
) -> Fitted:
    """Train a network of the recipe.

    Args:
        stream: of the data.
        sigma: ``(K+1,)`` noise levels, σ_0 = 0.
        width: c ``(d,)``, variances of the data as their scores see them.

    Raises:
        ConfigError: an objective or the optimiser is not known, or options are wrong.
        FloatingPointError: the loss is not finite.
    """
    started = time.process_time()
    width = width.to(torch.float32) if recipe.forces else torch.ones(len(width))
    sigma, given = refined_levels(sigma, width, recipe.gap)
    top, sigma32 = len(sigma) - 1, sigma.to(torch.float32)
    model = _network(len(width), sigma, recipe, seed)
    average = copy.deepcopy(model).requires_grad_(False)
    increments = torch.zeros(top, requires_grad=True)
    average_increments = torch.zeros(top)
    position, length = level_positions(sigma, width)
    nearest = min(1.0, recipe.reach / length) if length > 0 else 1.0
    some, some_score = _drawn(stream, 4096, generator_for(seed, "setup"), recipe)
    terms = {}
    for name in recipe.objectives:
        setup = Setup(
            model, sigma32, width, some, some_score, recipe.groups * recipe.levels,
            generator_for(seed, "objective", name),
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "initialise", name))
            terms[name] = make_objective(name, setup, recipe.options.get(name))
    own = [parameter for term in terms.values() for parameter in term.parameters()]
    optimisers = _optimisers(model, [increments], own, recipe)
    losses: dict[str, list[float]] = {name: [] for name in terms}
    since: list[list[float]] = []
    for step in range(recipe.steps):
        generator = generator_for(seed, "step", step)
        rungs = choose_levels(position, recipe.groups, recipe.levels, nearest, generator)
        batch = _batch(stream, sigma32, rungs, generator, recipe)
        problem = Problem(model, _offsets(increments), sigma32, width, batch, generator)
        other = preserving(problem) if recipe.preserving else problem
        values = {name: term.loss(other if name in LOSSES else problem) for name, term in terms.items()}
        total = sum(recipe.objectives[name] * value for name, value in values.items())
        rate = recipe.learning_rate * min(1.0, (step + 1) / max(1, recipe.warm_up))
        rate *= 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = group["factor"] * rate
        for optimiser in optimisers:
            optimiser.zero_grad()
        assert isinstance(total, Tensor)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        for optimiser in optimisers:
            optimiser.step()
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            averages = [*average.parameters(), average_increments]
            currents = [p.detach() for p in (*model.parameters(), increments)]
            torch._foreach_lerp_(averages, currents, 1 - decay)
        since.append([value.item() for value in values.values()])
        if not all(map(math.isfinite, since[-1])):
            raise FloatingPointError(f"the loss of {', '.join(terms)} is not finite at step {step + 1}")
        if len(since) == max(1, recipe.steps // 20) or step + 1 == recipe.steps:
            for name, column in zip(terms, zip(*since, strict=True), strict=True):
                losses[name].append(sum(column) / len(column))
            since = []
        progress(step + 1, recipe.steps, f"{sum(v[-1] for v in losses.values() if v):.3f}")
    offsets = _offsets(average_increments.to(torch.float64))
    return Fitted(average, offsets[given], losses, time.process_time() - started)


def _optimisers(
    model: Network, offsets: Sequence[Tensor], own: Sequence[Tensor], recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """The optimisers; a group's ``factor`` is the share of the learning rate that it gets."""
    if recipe.optimiser not in ("muon", "adam"):
        raise ConfigError(f"recipe.optimiser: {recipe.optimiser!r} is neither muon nor adam")
    matrices = [p for p in model.parameters() if p.ndim == 2 and recipe.optimiser == "muon"]
    known = set(map(id, matrices))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in known], "factor": 1.0},
        {"params": list(offsets), "factor": recipe.offset_rate},
        {"params": list(own), "factor": 1.0},
    ]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99))
    if not matrices:
        return [adam]
    # steps of Adam's size, so that both have one learning rate (Liu et al., arXiv 2502.16982, section 2.2)
    muon = torch.optim.Muon(
        [{"params": matrices, "factor": 1.0}], weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    return [adam, muon]


def _network(dim: int, sigma: Tensor, recipe: Recipe, seed: int) -> Network:
    one = torch.ones(dim, dtype=torch.float64)
    coordinates = WhitenedCoordinates(
        Whitening(torch.zeros_like(one), torch.eye(dim), torch.eye(dim)), (1, dim)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialise"))
        return make_network(
            coordinates, None, float(sigma[1]), float(sigma[-1]), NetworkConfig(**recipe.network)
        )


def _batch(stream: Stream, sigma: Tensor, rungs: Tensor, generator: torch.Generator, recipe: Recipe) -> Batch:
    """Groups that start from one data point each, noised to their rungs."""
    clean, score = _drawn(stream, len(rungs), generator, recipe)
    if recipe.balanced:
        noise = balanced_noise(len(rungs), rungs.shape[1], clean.shape[1], generator)
    else:
        noise = torch.randn((*rungs.shape, clean.shape[1]), generator=generator)
    displacement = sigma[rungs][..., None] * noise
    nothing = torch.full(rungs.shape, math.nan)
    expanded = None if score is None else score[:, None].expand_as(displacement)
    return Batch(clean[:, None] + displacement, displacement, expanded, nothing, rungs)


def _drawn(
    stream: Stream, n: int, generator: torch.Generator, recipe: Recipe
) -> tuple[Tensor, Tensor | None]:
    clean, score = stream(n, generator)
    known = recipe.forces and score is not None
    return clean.to(torch.float32), score.to(torch.float32) if known and score is not None else None


def _offsets(increments: Tensor) -> Tensor:
    """f_k = Σ_{j ≥ k} of the increments ``(K,)``, and f_K = 0: ``(K+1,)``."""
    return torch.cat([increments.flip(0).cumsum(0).flip(0), torch.zeros_like(increments[:1])])
