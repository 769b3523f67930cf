"""A diffusion in a few steps as a sampler of an unnormalised density, with exact path likelihood ratios.

The noising process goes up levels τ_0 < … < τ_T with steps q(x_{t+1}|x_t) = N(x_t, D_t), where
D_t = τ²_{t+1} - τ²_t. The generator comes down from the prior at τ_T with steps
p_φ(x_t|x_{t+1}) = N(x_{t+1} + D_t u_φ(x_{t+1}, τ_{t+1}), v_t). Both are wrapped on periodic axes. For a
density ρ/Z at the bottom the ratio of the noising process P̃, started from ρ/Z, to the generator P^u is

    log dP̃/dP^u = log ρ(x_0) - log Z + Σ_t [log q(x_{t+1}|x_t) - log p_φ(x_t|x_{t+1})] - log p_T(x_T),

exact for these discrete paths, however few and long their steps. In continuous time it is R - D - S of
Richter & Berner 2024 (arXiv 2307.01198) less log Z, which only a discretisation makes computable, at an
error. It is the log weight of :mod:`bgdiff.ladder.paths`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bgdiff.ladder.kernels import NormalStep, Prior

__all__ = ["Control", "log_variance", "path_log_ratio", "reverse_variance", "simulate"]

Control = Callable[[Tensor, Tensor], Tensor]
"""u ``(B, d)`` at points ``(B, d)`` with noise ``(B,)``."""


def reverse_variance(levels: Tensor, width: Tensor) -> Tensor:
    """v_t = D_t (c + τ²_t)/(c + τ²_{t+1}) ``(T, d)``, exact for normal data of variance c.

    Args:
        levels: τ ``(T+1,)`` rising.
        width: c ``(d,)``.
    """
    below, above = levels[:-1, None] ** 2, levels[1:, None] ** 2
    return (above - below) * (width + below) / (width + above)


@torch.no_grad()
def simulate(
    control: Control, levels: Tensor, variance: Tensor, prior: Prior, n: int, generator: torch.Generator
) -> Tensor:
    """n paths of the generator, bottom first, ``(T+1, n, d)`` float64.

    Args:
        levels: τ ``(T+1,)``; ``variance``: v ``(T, d)``; ``prior``: at τ_T.
    """
    path = [prior.sample(n, generator)]
    for t in range(len(levels) - 2, -1, -1):
        step = NormalStep(variance[t].to(torch.float64), prior.periodic)
        path.append(
            step.sample(_centre(control, path[-1], levels[t].expand(n), levels[t + 1].expand(n)), generator)
        )
    return torch.stack(path[::-1])


def path_log_ratio(control: Control, levels: Tensor, variance: Tensor, prior: Prior, path: Tensor) -> Tensor:
    """log dP̃/dP^u without log ρ(x_0) - log Z ``(n,)``, differentiable in the control and in v.

    Args:
        path: ``(T+1, n, d)``, bottom first, from any process; carries no gradient.
    """
    steps, n = len(path) - 1, path.shape[1]
    below, above = path[:-1].flatten(0, 1), path[1:].flatten(0, 1)
    low, high = levels[:-1].repeat_interleave(n), levels[1:].repeat_interleave(n)
    up = NormalStep((high**2 - low**2)[:, None].expand_as(above), prior.periodic)
    down = NormalStep(variance.to(torch.float64).repeat_interleave(n, 0), prior.periodic)
    change = up.log_prob(above, below) - down.log_prob(below, _centre(control, above, low, high))
    return change.reshape(steps, n).sum(0) - prior.log_prob(path[-1])


def log_variance(log_ratio: Tensor, log_density: Tensor) -> Tensor:
    """Var[log dP̃/dP^u] over the reference paths, a scalar; zero if and only if both are the same there.

    The log-variance divergence (Nüsken & Richter 2021; DiffEBM, eq. 10): log Z drops out, and paths may come
    from any reference process, whose own gradient is not needed.

    Args:
        log_ratio: of :func:`path_log_ratio` ``(n,)``.
        log_density: log ρ(x_0) ``(n,)``.
    """
    return (log_ratio + log_density.to(log_ratio)).var()


def _centre(control: Control, above: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where the generator's step from points at the level ``high`` to ``low`` is centred, ``(B, d)``."""
    return above + (high**2 - low**2)[:, None] * control(above, high).to(above.dtype)
