"""Score matching: regression of the model's score on an unbiased estimate of the true one."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bgdiff.ladder.wrapped import wrapped_normal_score
from bgdiff.models.base import is_particle_model
from bgdiff.objectives.base import Objective, Options, Problem, Setup
from bgdiff.objectives.mixing import PairMixing
from bgdiff.objectives.reference_batch import ReferenceBatchOptions, source_weights

__all__ = [
    "DenoisingScore",
    "MixedScore",
    "averaged_scores",
    "conditional_score",
    "curvature",
    "mixed_score",
    "weighted_score_loss",
]


def conditional_score(displacement: Tensor, sigma: Tensor, periodic: Tensor) -> Tensor:
    """∇_z log q_σ(z | z_0), the denoising target (Vincent 2011), ``(B, d)``.

    Args:
        displacement: z - z_0 ``(B, d)``, wrapped or not.
        sigma: noise ``(B,)``.
        periodic: bool ``(d,)``, where q_σ is the wrapped normal.
    """
    variance = sigma[:, None] ** 2
    score = -displacement / variance
    if periodic.any():
        angle = wrapped_normal_score(displacement[:, periodic], variance)
        score = score.index_copy(1, torch.nonzero(periodic)[:, 0], angle)
    return score


def curvature(score: Tensor) -> Tensor:
    """c_i = 1/E[(∂_i log p)²] ``(d,)``: the width of the data along each axis, as its forces see it."""
    return 1 / (score.to(torch.float64) ** 2).mean(0)


def mixed_score(
    conditional: Tensor,
    data_score: Tensor | None,
    sigma: Tensor,
    width: Tensor,
    mixing: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """An unbiased estimate of ∇ log p_σ(z) and the weight that evens out its variance, both ``(B, d)``.

    For any λ(σ), E[λ ∇log q(z|z_0) + (1-λ) ∇log p(z_0) | z] = ∇log p_σ(z) (denoising and target score
    matching mixed: De Bortoli et al. 2024). Per axis λ = σ²/(σ² + c) has zero variance for Gaussian
    data of variance c. The weight is σ² + c. Without ``data_score`` λ = 1, and the weight σ².

    Args:
        conditional: from :func:`conditional_score`.
        data_score: ∇log p(z_0) ``(B, d)`` of the density the data were drawn from, or None.
        sigma: noise ``(B,)``.
        width: c ``(d,)``, from :func:`curvature`.
        mixing: applies another λ to vectors ``(B, d)``, a matrix that depends on z and σ alone; see
            :class:`bgdiff.objectives.mixing.PairMixing`.
    """
    variance = sigma[:, None] ** 2
    if data_score is None:
        return conditional, variance.expand_as(conditional)
    weight = variance + width
    if mixing is not None:
        return data_score + mixing(conditional - data_score), weight
    share = variance / weight
    return share * conditional + (1 - share) * data_score, weight


def weighted_score_loss(score: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over the batch and the axes of weight · (score - target)²; dimensionless scalar."""
    return (weight * (score - target) ** 2).mean()


def averaged_scores(problem: Problem, size: int) -> tuple[Tensor, Tensor | None]:
    """:func:`conditional_score` and the data's score, averaged over the sources of each point, ``(P, d)``.

    Their mean given the point is what it is without averaging; see
    :mod:`bgdiff.objectives.reference_batch`. Points of rung 0 have no such scores; theirs mean nothing.

    Args:
        size: data points of a reference batch.
    """
    periodic, scores = problem.model.periodic, problem.batch.data_score
    conditionals, data = [], []
    for point, group, weights in source_weights(problem, size):
        z, clean = problem.points[point], problem.sources[group]
        variance = problem.level[point, None] ** 2
        conditional = (weights @ clean - z) / variance
        for axis in torch.nonzero(periodic)[:, 0].tolist():
            score = wrapped_normal_score(z[:, None, axis] - clean[:, axis], variance)
            conditional[:, axis] = (weights * score).sum(1)
        conditionals.append(conditional)
        if scores is not None:
            data.append(weights @ scores[group, 0])
    return torch.cat(conditionals), torch.cat(data) if data else None


class MixedScore(Objective):
    """Score matching on :func:`mixed_score`, or on the noise alone where the data have no scores.

    For particles the mixing is a :class:`~bgdiff.objectives.mixing.PairMixing`, which is trained with the
    model.
    """

    name = "mixed_score"
    options_class = ReferenceBatchOptions
    options: ReferenceBatchOptions

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__(setup, options)
        self.mixing: PairMixing | None = None
        model = setup.model
        if setup.data_score is not None and is_particle_model(model):
            ends = float(setup.sigma[1]), float(setup.sigma[-1])
            self.mixing = PairMixing(model.event_shape, float(setup.width[0]), *ends)

    def loss(self, problem: Problem) -> Tensor:
        return _score_loss(problem, self.options.reference_batch, self.mixing)


class DenoisingScore(Objective):
    """Score matching on the noise alone (Vincent 2011), whatever is known of the data's forces."""

    name = "denoising_score"
    options_class = ReferenceBatchOptions
    options: ReferenceBatchOptions

    def loss(self, problem: Problem) -> Tensor:
        return _score_loss(problem, self.options.reference_batch, None, forces=False)


def _score_loss(
    problem: Problem, reference_batch: int, mixing: PairMixing | None, *, forces: bool = True
) -> Tensor:
    z, level = problem.points, problem.level
    score = problem.own()[1]
    data_score = problem.batch.data_score
    if reference_batch > 1:
        conditional, data_score = averaged_scores(problem, reference_batch)
    else:
        conditional = conditional_score(problem.displacement, level, problem.model.periodic)
        data_score = None if data_score is None else data_score.flatten(0, 1)
    data_score = data_score if forces else None
    chosen = None if mixing is None else partial(mixing, z, level)
    target, weight = mixed_score(conditional, data_score, level, problem.width, chosen)
    noisy = problem.noisy
    return weighted_score_loss(score[noisy], target[noisy], weight[noisy])
