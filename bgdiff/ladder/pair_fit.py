"""The radial functions of :mod:`bgdiff.ladder.pairwise`, fitted to a model.

They are piecewise linear, with knots at quantiles of the distances, and fitted linearly to Hessian-vector
products of the model at noised data. A network's second derivatives are only as good as its training; where
they make reverse steps worse, as they can at high noise, less of them is taken, or nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bgdiff.ladder.kernels import NormalStep
from bgdiff.ladder.pairwise import PairCurvature, Pairs, position
from bgdiff.ladder.torsional import smooth_curvature
from bgdiff.models.base import ParticleModel, log_density_and_score
from bgdiff.progress import Progress, silent

__all__ = ["fit_pairs", "measure_pairs"]

_KNOTS = 16  # of α and β, each
_MOST_COLUMNS = 2048  # of the linear fit; systems of many kinds of pairs get fewer knots
_RARE = 1e-3  # share of distances beyond the first and the last knot
_RIDGES = (1e-9, 1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0, 1e3)
_SHARES = (1.0, 0.5, 0.0)  # of what was fitted, to choose from
_FITTED = 48  # rungs at which functions are fitted; they vary slowly, and are interpolated between
_EQUATIONS = 20_000  # of one fit, about; each point gives one for every coordinate
_FEWEST, _MOST = 128, 1024  # points of one fit
_NUMBERS = 4_000_000  # that are held at a time, about


def measure_pairs(
    model: ParticleModel,
    sigma: Tensor,
    moments: Tensor,
    z: Tensor,
    generator: torch.Generator,
    *,
    progress: Progress = silent,
) -> PairCurvature | None:
    """Fit a :class:`PairCurvature` to a model at all rungs; None for very many kinds of particles.

    Args:
        moments: E[s²] ``(K, d)``, see :func:`bgdiff.ladder.paths.measure_moments`.
        z: data ``(n, d)``, noised afresh at each rung; a few hundred are used.
    """
    if _n_knots(Pairs.of(model.event_shape, model.types)) < 2:
        return None
    count, top = min(max(_EQUATIONS // z.shape[1], _FEWEST), _MOST), len(sigma) - 1
    rungs = sorted({round(k) for k in torch.linspace(1, top, min(_FITTED, top)).tolist()})
    fitted, shares = [], []
    for done, k in enumerate(rungs):
        # below rung 1 there is no energy to compare with: the step from rung 2 stands for the one from there
        levels = sigma[[max(k - 1, 1), max(k, 2)]]
        chosen = torch.randint(len(z), (count,), generator=generator, device=z.device)
        low = NormalStep.isotropic(float(levels[0] ** 2), model.periodic).sample(
            z[chosen].double(), generator
        )
        gap = NormalStep.isotropic(float(levels[1] ** 2 - levels[0] ** 2), model.periodic)
        high = gap.sample(low, generator)
        points = low if k == 1 else high
        own = fit_pairs(model, points, sigma[k], float(moments[k - 1, 0]), generator)
        shares.append(_useful_share(model, own, levels, moments[max(k, 2) - 1], low, high, gap))
        fitted.append(own)
        progress(done + 1, len(rungs))
    known = sigma[[0, *rungs]]
    scale = (1 + known[1:] ** 2)[:, None, None]
    knots = smooth_curvature(known, torch.cat([one.knots for one in fitted]) / scale) * scale
    values = torch.cat([share * one.values for share, one in zip(shares, fitted, strict=True)])
    smooth = smooth_curvature(known, values.flatten(2) / scale) * scale
    return PairCurvature(model.event_shape, model.types, knots, smooth.reshape(values.shape)).at(sigma, known)


def _n_knots(pairs: Pairs) -> int:
    return min(_KNOTS, _MOST_COLUMNS // (2 * len(pairs.members)))


def _useful_share(
    model: ParticleModel,
    fitted: PairCurvature,
    levels: Tensor,
    moment: Tensor,
    low: Tensor,
    high: Tensor,
    gap: NormalStep,
) -> float:
    """Which share of what was fitted makes weights of the step between two levels scatter least.

    Measured on data noised to both, as in :meth:`bgdiff.ladder.paths.Ladder.step_variances`.
    """
    value, score = log_density_and_score(model, high, levels[1:].to(high))
    centre = high + float(levels[1] ** 2 - levels[0] ** 2) * score.to(high)
    with torch.no_grad():
        known = model.log_density(low, levels[:1].to(low)).double() - value.double() + gap.log_prob(high, low)

    def scatter(share: float) -> float:
        step = replace(fitted, values=share * fitted.values).step(0, high, levels, moment)
        return float((known - step.log_prob(low, centre)).var())

    return _least(_SHARES, [scatter(share) for share in _SHARES])


def fit_pairs(
    model: ParticleModel, z: Tensor, sigma: Tensor, moment: float, generator: torch.Generator
) -> PairCurvature:
    """The functions of one rung, from its points z ``(n, d)``.

    Minimises |(M - E[s²]) v + ∇²log p̃ v|² over points and random directions v, with a ridge that predicts one
    half of the points best from the other. So where pairs add nothing, as at high noise, nothing is added.
    """
    width = float(1 + sigma**2) ** 0.5
    pairs = Pairs.of(model.event_shape, model.types)
    n_knots = _n_knots(pairs)
    _, distance = pairs.apart(z)
    knots = torch.stack([_quantiles(distance[:, members] / width, n_knots) for members in pairs.members])
    columns = 2 * knots.numel()
    gram, right = z.new_zeros(2, columns, columns), z.new_zeros(2, columns)
    rows = max(1, min(len(z) // 2, _NUMBERS // (len(pairs.first) * n_knots * model.event_shape[1])))
    for index, part in enumerate(z.split(rows)):
        probe = torch.randn(part.shape, generator=generator, dtype=part.dtype, device=part.device)
        excess = (-_hessian_product(model, part, probe, sigma) - moment * probe) * width**2
        features = _features(pairs, part / width, probe, knots).flatten(0, 1)
        gram[index % 2] += features.T @ features
        right[index % 2] += features.T @ excess.flatten()
    errors = []
    for ridge in _RIDGES:
        halves = [_solve(gram[half], right[half], ridge) for half in (0, 1)]
        # squared error of each half's prediction of the other, but for a constant
        terms = zip(halves, gram.flip(0), right.flip(0), strict=True)
        errors.append(sum(float(w @ g @ w - 2 * w @ r) for w, g, r in terms))
    found = _solve(gram.sum(0), right.sum(0), _least(_RIDGES, errors))
    values = found.reshape(1, len(knots), 2, n_knots)
    return PairCurvature(model.event_shape, model.types, knots[None], values)


def _least(choices: Sequence[float], errors: Sequence[float]) -> float:
    return min(zip(errors, choices, strict=True))[1]


def _solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    own = gram.diagonal()
    return torch.linalg.solve(gram + torch.diag(ridge * own + 1e-10 * own.mean()), right)


def _hessian_product(model: ParticleModel, z: Tensor, probe: Tensor, sigma: Tensor) -> Tensor:
    """∇² log p̃ v at each point, ``(B, d)``."""
    with torch.enable_grad():
        point = z.detach().requires_grad_(True)
        value = model.log_density(point, sigma.to(z).reshape(1)).sum()
        (score,) = torch.autograd.grad(value, point, create_graph=True)
        (product,) = torch.autograd.grad((score * probe.to(score)).sum(), point)
    return product.detach().to(z)


def _features(pairs: Pairs, z: Tensor, probe: Tensor, knots: Tensor) -> Tensor:
    """(∂M/∂value) v for each value of α and β, ``(B, d, C 2 F)``, on the latents' axes."""
    n, dim = pairs.event_shape
    apart, distance = pairs.apart(z)
    change, _ = pairs.apart(probe)
    line = apart / distance[..., None].clamp_min(torch.finfo(z.dtype).tiny)
    along = line * (line * change).sum(-1, keepdim=True)
    n_knots, blocks = knots.shape[1], []
    for members, own in zip(pairs.members, knots, strict=True):
        where, share = position(distance[:, members], own)
        hats = z.new_zeros(*where.shape, n_knots)
        hats.scatter_(-1, where[..., None], (1 - share)[..., None])
        hats.scatter_add_(-1, where[..., None] + 1, share[..., None])
        for motion in (along, change - along):
            push = torch.einsum("bpf,bpd->bpdf", hats, motion[:, members])
            pull = pairs.differences[members].T.to(z) @ push.flatten(2)
            blocks.append(pull.reshape(len(z), (n - 1) * dim, n_knots))
    return torch.cat(blocks, -1)


def _quantiles(distance: Tensor, n_knots: int) -> Tensor:
    """Knots at quantiles of the distances, denser towards both ends; rising."""
    angle = torch.linspace(0, torch.pi, n_knots, dtype=distance.dtype, device=distance.device)
    share = _RARE + (1 - 2 * _RARE) * 0.5 * (1 - torch.cos(angle))
    ordered = distance.flatten().sort().values
    knots = ordered[(share * (len(ordered) - 1)).round().long()]
    # equal distances (two particles, or few points) must not make intervals of no length
    rise = 1e-6 * knots.amax().clamp_min(1e-6) * torch.arange(n_knots, dtype=knots.dtype, device=knots.device)
    return knots + rise
