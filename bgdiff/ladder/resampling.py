"""Resampling: replace weighted particles by as many equally weighted ones.

Every scheme copies particle i a random number of times whose mean is N W_i (W_i its share of the weight),
which is what keeps averages and log Z unbiased. They differ in how much noise they add: systematic and
residual resampling copy a particle ⌊N W_i⌋ times at least, and systematic ⌈N W_i⌉ times at most.

References: Douc, Cappé & Moulines, Comparison of resampling schemes for particle filtering (2005),
arXiv:cs/0507025; Gerber, Chopin & Whiteley, Ann. Statist. 47, 2236 (2019).
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "SCHEMES",
    "Resampling",
    "effective_size",
    "log_mean_weight",
    "multinomial",
    "residual",
    "shares",
    "stratified",
    "systematic",
]

Resampling = Callable[[Tensor, torch.Generator], Tensor]
"""From log weights ``(N,)`` to the ascending row numbers ``(N,)`` of the particles that live on. A particle
of weight zero never does."""


def shares(log_weight: Tensor) -> Tensor:
    """Weights ``(N,)`` that sum to 1; rows whose log weight is nan or ±inf get 0. One must be finite.

    >>> shares(torch.tensor([0.0, 0.0, -torch.inf])).tolist()
    [0.5, 0.5, 0.0]
    """
    return torch.softmax(_finite(log_weight), 0)


def effective_size(log_weight: Tensor) -> float:
    """Kish's effective number of particles (Σw)²/Σw², between 1 and N.

    >>> round(effective_size(torch.zeros(5)), 6)
    5.0
    """
    return float(1 / shares(log_weight).square().sum())


def log_mean_weight(log_weight: Tensor) -> Tensor:
    """log (1/N) Σ w, a scalar."""
    return torch.logsumexp(_finite(log_weight), 0) - torch.log(torch.tensor(float(len(log_weight))).double())


def multinomial(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """N independent draws: the noisiest scheme, the one for which genealogical variances are exact."""
    uniform = torch.rand(len(log_weight), generator=generator, dtype=torch.float64, device=log_weight.device)
    return _invert(shares(log_weight), uniform.sort().values)


def stratified(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform draw in every N-th of the cumulative weight."""
    n = len(log_weight)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64, device=log_weight.device)
    return _invert(shares(log_weight), (torch.arange(n, device=uniform.device) + uniform) / n)


def systematic(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform draw, repeated at distance 1/N along the cumulative weight."""
    n = len(log_weight)
    uniform = torch.rand(1, generator=generator, dtype=torch.float64, device=log_weight.device)
    return _invert(shares(log_weight), (torch.arange(n, device=uniform.device) + uniform) / n)


def residual(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """⌊N W_i⌋ copies each; what is left is drawn independently in proportion to the fractional parts."""
    n = len(log_weight)
    expected = n * shares(log_weight)
    # rounding may leave N W_i a hair below a whole number; a copy lost there is drawn again below
    copies = expected.floor()
    missing = n - int(copies.sum())
    if missing > 0:
        uniform = torch.rand(missing, generator=generator, dtype=torch.float64, device=expected.device)
        fraction = expected - copies
        drawn = _invert(fraction / fraction.sum(), uniform)
        copies += torch.bincount(drawn, minlength=n)
    return torch.repeat_interleave(torch.arange(n, device=expected.device), copies.long())


SCHEMES: dict[str, Resampling] = {
    "systematic": systematic,
    "residual": residual,
    "stratified": stratified,
    "multinomial": multinomial,
}


def _invert(share: Tensor, position: Tensor) -> Tensor:
    """Index of the particle whose stretch of the cumulative weight holds each position."""
    index = torch.searchsorted(share.cumsum(0), position, right=True)
    # the sum can round to less than a position; that position belongs to the last particle with a weight
    return index.clamp_max(int(torch.nonzero(share)[-1]))


def _finite(log_weight: Tensor) -> Tensor:
    value = log_weight.to(torch.float64)
    return torch.where(torch.isfinite(value), value, -torch.inf)
