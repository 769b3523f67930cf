"""Training steps on analytic ladders, for tests of objectives."""

from collections.abc import Callable
from typing import Any

import torch
from checks import seeded
from torch import Tensor

from bgdiff.models import EnergyModel
from bgdiff.objectives import Batch, Objective, Problem, Setup, make_objective


def problem(
    model: EnergyModel,
    batch: Batch,
    sigma: Tensor,
    width: Tensor,
    *,
    offsets: Tensor | None = None,
    target: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    create_graph: bool = True,
) -> Problem:
    """What an objective sees of a step."""
    if offsets is None:
        offsets = torch.zeros(len(sigma), dtype=torch.float64)
    return Problem(model, offsets, sigma, width, batch, seeded(seed), target, create_graph)


def objective(
    name: str,
    model: EnergyModel,
    sigma: Tensor,
    width: Tensor,
    data: Tensor,
    *,
    data_score: Tensor | None = None,
    n_points: int = 256,
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> Objective:
    """An objective as the trainer makes it, in double precision."""
    setup = Setup(model, sigma, width, data, data_score, n_points, seeded(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make_objective(name, setup, options)
    return made.double()
