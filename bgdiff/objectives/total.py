"""What one training step minimises: score matching and rung classification on the same noised points."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bgdiff.coordinates.whitening import wrap
from bgdiff.models.base import EnergyModel, log_density_and_score
from bgdiff.objectives.diffclf import LOSSES, choose_rungs
from bgdiff.objectives.mixing import PairMixing
from bgdiff.objectives.score import conditional_score, mixed_score, weighted_score_loss

__all__ = ["Batch", "LossTerms", "classification_logits", "draw_batch", "ladder_loss"]


@dataclass(frozen=True)
class Batch:
    """G groups of n points; the points of a group sit on n neighbouring rungs."""

    z: Tensor
    """``(G, n, d)``: noised points"""
    displacement: Tensor
    """``(G, n, d)``: the noise that was added, before wrapping"""
    data_score: Tensor | None
    """``(G, n, d)``: ∇log p(z_0) of the clean points, where forces are known"""
    data_log_density: Tensor
    """``(G, n)``: log p(z_0) of the clean points up to a constant (nan where unknown)"""
    rungs: Tensor
    """int64 ``(G, n)``; rung 0 is the clean data"""


@dataclass(frozen=True)
class LossTerms:
    """The terms before weighting; each a scalar tensor."""

    score: Tensor
    classification: Tensor


def draw_batch(
    z0: Tensor,
    data_score: Tensor | None,
    data_log_density: Tensor,
    sigma: Tensor,
    periodic: Tensor,
    windows: Tensor,
    spacing: Tensor,
    n_groups: int,
    n_levels: int,
    generator: torch.Generator,
    *,
    lowest: int = 1,
) -> Batch:
    """Noise random data points to random neighbouring rungs.

    All points of a group start from the same data point, with noise of their own. What DiffCLF compares is
    one rung's density with another's; with different data points, chance differences between their
    modes would drown it (three times the variance in the learned weight of a mode).

    Args:
        z0: data ``(N, d)``; ``data_score`` ``(N, d)`` or None; ``data_log_density`` ``(N,)``.
        sigma: ``(K+1,)`` noise of the rungs.
        windows, spacing: ``(K+1, 2)`` and ``(K+1,)``, see :func:`bgdiff.objectives.diffclf.choose_rungs`.
        lowest: 0 to include the clean rung (for classification against the target itself), else 1.
    """
    rungs = choose_rungs(windows, spacing, n_groups, n_levels, lowest, generator)
    index = torch.randint(len(z0), (n_groups, 1), generator=generator, device=generator.device)
    index = index.expand_as(rungs)
    noise = torch.randn(
        (*rungs.shape, z0.shape[1]), generator=generator, device=generator.device, dtype=z0.dtype
    )
    displacement = sigma.to(z0)[rungs][..., None] * noise
    z = z0[index] + displacement
    return Batch(
        torch.where(periodic, wrap(z), z),
        displacement,
        None if data_score is None else data_score[index],
        data_log_density[index],
        rungs,
    )


def classification_logits(
    model: EnergyModel,
    offsets: Tensor,
    sigma: Tensor,
    batch: Batch,
    own: Tensor,
    target_log_density: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """ℓ_b(z_a) = log p̃(z_a, σ_b) + f_b for all points and rungs of each group, ``(G, n, n)``.

    Args:
        offsets: f ``(K+1,)``.
        own: log p̃(z_a, σ_a) ``(G, n)``, already known from the score term; entries of rung 0 are not
            used.
        target_log_density: the known log density of rung 0 (unnormalised), needed if the batch has
            points of rung 0; it is called only on the noised points that share a group with one.
    """
    z, rungs = batch.z, batch.rungs
    groups, n, d = z.shape
    point, rung = (~torch.eye(n, dtype=torch.bool, device=z.device)).nonzero(as_tuple=True)
    other_rungs = rungs[:, rung]
    logits = torch.zeros(groups, n, n, dtype=own.dtype, device=z.device)
    level = sigma.to(z)[other_rungs.clamp_min(1)].reshape(-1)
    other = model.log_density(z[:, point].reshape(-1, d), level).reshape(groups, -1).to(own.dtype)
    if target_log_density is not None:
        at_target = other_rungs == 0
        known = torch.zeros_like(other)
        if at_target.any():
            known[at_target] = target_log_density(z[:, point][at_target]).to(own.dtype)
        other = torch.where(at_target, known, other)
        own = torch.where(rungs == 0, batch.data_log_density.to(own.dtype), own)
    diagonal = torch.arange(n, device=z.device)
    logits = logits.index_put((_column(groups, z.device), diagonal, diagonal), own)
    logits = logits.index_put((_column(groups, z.device), point, rung), other)
    return logits + offsets[rungs].to(own.dtype)[:, None, :]


def _column(n: int, device: torch.device) -> Tensor:
    """Indices 0..n-1 as a column, to address every group with ``index_put``."""
    return torch.arange(n, device=device)[:, None]


def ladder_loss(
    model: EnergyModel,
    offsets: Tensor,
    sigma: Tensor,
    width: Tensor,
    batch: Batch,
    *,
    classification: str | None,
    target_log_density: Callable[[Tensor], Tensor] | None = None,
    mixing: PairMixing | None = None,
    create_graph: bool = True,
) -> LossTerms:
    """Score matching over the noisy points and DiffCLF over all points of a batch.

    Args:
        offsets: f ``(K+1,)``, the learned normalisers; f_K is 0.
        width: c ``(d,)`` of the mixed score identity.
        classification: a key of :data:`bgdiff.objectives.diffclf.LOSSES`, or None for score matching alone.
        mixing: instead of one number per axis in the mixed score identity.
    """
    groups, n, d = batch.z.shape
    noisy = (batch.rungs > 0).reshape(-1)
    level = sigma.to(batch.z)[batch.rungs.clamp_min(1)].reshape(-1)
    z = batch.z.reshape(-1, d)
    own, score = log_density_and_score(model, z, level, create_graph=create_graph)
    conditional = conditional_score(batch.displacement.reshape(-1, d), level, model.periodic)
    data_score = None if batch.data_score is None else batch.data_score.reshape(-1, d)
    chosen = None if mixing is None else partial(mixing, z, level)
    target, weight = mixed_score(conditional, data_score, level, width, chosen)
    if bool(noisy.all()):
        score_loss = weighted_score_loss(score, target, weight)
    else:
        score_loss = weighted_score_loss(score[noisy], target[noisy], weight[noisy])
    if classification is None:
        return LossTerms(score_loss, torch.zeros_like(score_loss))
    logits = classification_logits(model, offsets, sigma, batch, own.reshape(groups, n), target_log_density)
    return LossTerms(score_loss, LOSSES[classification](logits))
