"""Who descends from whom: what resampling did to the particles, and the variances that follow from it.

Copies of one particle are not independent, so weights after resampling say too little about the error.
The particles that share an ancestor in the first generation form a *family*; families are what is
(nearly) independent. Summing weights within families before any variance is taken gives estimates that are
consistent for a single run, however often it has resampled.

References: Chan & Lai, Ann. Statist. 41, 2877 (2013); Lee & Whiteley, Biometrika 105, 609 (2018).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.ladder.resampling import shares

__all__ = [
    "Genealogy",
    "average_error",
    "effective_fraction",
    "effective_number",
    "family_log_weights",
    "log_z_variance",
]


@dataclass(frozen=True)
class Genealogy:
    """The resamplings of N particles, oldest first.

    Args:
        n: N, the same in all generations.
        parents: for each resampling, the row ``(N,)`` of each particle's parent before it.
        stages: where each resampling took place, in words.
    """

    n: int
    parents: tuple[Tensor, ...] = ()
    stages: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.parents)

    def then(self, parents: Tensor, stage: str) -> "Genealogy":
        """The genealogy after one more resampling."""
        return Genealogy(self.n, (*self.parents, parents), (*self.stages, stage))

    def ancestors(self, generation: int = 0) -> Tensor:
        """Row ``(N,)`` of each particle's ancestor before resampling number ``generation``."""
        device = self.parents[0].device if self.parents else None
        row = torch.arange(self.n, device=device)
        for parents in reversed(self.parents[generation:]):
            row = parents[row]
        return row

    def survivors(self) -> list[int]:
        """How many particles of the population before each resampling have descendants at the end."""
        counts, row = [], torch.arange(self.n)
        for parents in reversed(self.parents):
            row = torch.unique(parents.cpu()[row])
            counts.append(len(row))
        return counts[::-1]


def family_log_weights(log_weight: Tensor, family: Tensor) -> Tensor:
    """Log of the weights summed by family, ``(N,)``; -inf for ancestors without descendants.

    With these in place of log weights, formulas for independent draws hold for log Z and its error.

    Args:
        log_weight: ``(N,)``; the mean of the weights estimates Z.
        family: row of each particle's first ancestor, in 0 … N-1.
    """
    value = torch.where(torch.isfinite(log_weight), log_weight.to(torch.float64), -torch.inf)
    top = value.max()
    total = torch.zeros_like(value).index_add_(0, family, torch.exp(value - top))
    return total.log() + top


def effective_number(log_weight: Tensor, family: Tensor | None = None) -> float:
    """Kish's number (ΣW)²/ΣW² of families: what the draws are worth for whatever families have in common.

    It never exceeds the number of families, nor that of the particles' own weights.
    """
    share = shares(log_weight if family is None else family_log_weights(log_weight, family))
    return float(1 / share.square().sum())


def effective_fraction(log_weight: Tensor, family: Tensor | None = None) -> float:
    """:func:`effective_number` over N."""
    return effective_number(log_weight, family) / len(log_weight)


def log_z_variance(log_weight: Tensor, family: Tensor, independent_resamplings: int = 0) -> float:
    """Relative variance of the estimate Z = mean weight, which is the variance of log Z to first order.

    V = 1 - (N/(N-1))^(r+1) (1 - Σ_e W_e²), where e runs over families and r counts *multinomial* resamplings
    of one population; then Z² V is an unbiased estimate of the variance of Z for every N (Lee & Whiteley,
    theorem 1). For schemes that add less noise r is taken as 0, which errs on the side of larger variances.

    Args:
        log_weight: ``(N,)``.
        family: ``(N,)``, see :func:`family_log_weights`.
    """
    n = len(log_weight)
    if n < 2:
        return float("inf")
    squares = float(shares(family_log_weights(log_weight, family)).square().sum())
    return 1 - (n / (n - 1)) ** (independent_resamplings + 1) * (1 - squares)


def average_error(log_weight: Tensor, values: Tensor, family: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means of ``values`` ``(N, m)`` and their standard errors, both ``(m,)``.

    Var = N/(N-1) Σ_e (Σ_{i in e} W_i (f_i - f̄))²: families in which the observable has become independent
    again count as what they are.
    """
    share = shares(log_weight)
    n = len(share)
    values = torch.where(share[:, None] > 0, values.to(torch.float64), 0.0)
    mean = share @ values
    influence = share[:, None] * (values - mean)
    summed = torch.zeros_like(influence).index_add_(0, family, influence)
    return mean, (n / (n - 1) * summed.square().sum(0)).sqrt()
