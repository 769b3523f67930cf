"""Time score matching: regression of the energy's derivative along the ladder.

With τ = log σ the time score is ∂_τ log p_σ(z), of the normalised density: the model's is
∂_τ log p̃(z, σ) + f'(τ), with the learned normalisers f_k as values of a smooth f(τ). Since the top rung is
the known prior, the integral of the time score down the ladder is the log density, modes' weights included.
"""

import torch
from torch import Tensor

from bgdiff.ladder.densities import wrapped
from bgdiff.ladder.wrapped import wrapped_normal_log_prob
from bgdiff.models.base import EnergyModel
from bgdiff.objectives.base import Objective, Options, Problem, Setup

__all__ = [
    "ConditionalTimeScore",
    "TimeScore",
    "conditional_time_score",
    "conditional_time_score_loss",
    "interpolated",
    "slope_matrix",
    "time_score",
    "time_score_loss",
]


def conditional_time_score(displacement: Tensor, sigma: Tensor, periodic: Tensor) -> Tensor:
    """∂_τ log q_σ(z | z_0) ``(B,)``.

    Σ_i (δ_i²/σ² - 1) over real axes, and the derivative of the wrapped normal on periodic ones. Its mean
    given z is ∂_τ log p_σ(z) (Yu et al. 2025); its variance is 2 per real axis at any noise.

    Args:
        displacement: δ = z - z_0 ``(B, d)``, wrapped or not.
        sigma: noise ``(B,)``.
        periodic: bool ``(d,)``.
    """
    real = displacement[:, ~periodic]
    value = ((real / sigma[:, None]) ** 2 - 1).sum(1)
    if bool(periodic.any()):
        with torch.enable_grad():
            log_sigma = sigma.detach().log().requires_grad_(True)
            variance = (2 * log_sigma).exp()[:, None]
            angle = wrapped_normal_log_prob(displacement[:, periodic], variance)
            value = value + torch.autograd.grad(angle.sum(), log_sigma)[0]
    return value


def time_score(model: EnergyModel, z: Tensor, log_sigma: Tensor, *, create_graph: bool = True) -> Tensor:
    """∂_τ log p̃(z, e^τ) ``(B,)`` at z ``(B, d)``, τ ``(B,)``."""
    with torch.enable_grad():
        tau = log_sigma.detach().requires_grad_(True)
        value = model.log_density(z.detach(), tau.exp())
        (slope,) = torch.autograd.grad(value.sum(), tau, create_graph=create_graph)
    return slope


def conditional_time_score_loss(score: Tensor, target: Tensor, d: int) -> Tensor:
    """Mean of (s - ∂_τ log q)²/2d: conditional time score matching (Yu et al. 2025, arXiv 2502.02300).

    The weight is the inverse variance of the target, as in their time score normalisation; with
    noise that explodes in log σ it is the same at every rung. At the truth the loss is what the target
    scatters given z, 1 - ρ⁴ for Gaussian data of variance c, with ρ² = σ²/(σ² + c).

    Args:
        score: of the model, offset included ``(B,)``.
        target: from :func:`conditional_time_score` ``(B,)``.
        d: number of axes.
    """
    return ((score - target) ** 2).mean() / (2 * d)


def time_score_loss(score: Tensor, slope: Tensor, first: Tensor, last: Tensor, span: float, d: int) -> Tensor:
    """Mean of (½ s² + ∂_τ s)/2d over the times, plus (E_1[s] - E_K[s])/(2d span) at the ends.

    The time score matching of Choi et al. 2022 (arXiv 2111.11010) with constant λ: ½ (s - ∂_τ log p)²
    integrated by parts, less a constant. The boundary terms are not small print: without them a score that
    drops steeply at the top end makes the loss as negative as it likes. At the truth the loss is
    -E[s²]/4d, for Gaussian data -½ times the mean of ρ⁴ over τ, with ρ² = σ²/(σ² + c).

    Args:
        score, slope: s and ∂_τ s at points of times uniform in τ ``(B,)``.
        first, last: s at points of the lowest and of the top rung ``(B,)``.
        span: τ_K - τ_1.
        d: number of axes.
    """
    inner = (0.5 * score**2 + slope).mean()
    return (inner + (first.mean() - last.mean()) / span) / (2 * d)


def slope_matrix(x: Tensor, points: int = 5) -> Tensor:
    """The linear map from values at x ``(K,)`` to derivatives there ``(K, K)``.

    Each derivative is that of the polynomial through the nearest ``points`` nodes. Five make it exact for
    quartics; otherwise the error amid nodes a step h apart is h⁴/30 times the fifth derivative. Log
    normalisers vary over about a unit of log σ, and for as few as 24 rungs from σ = 0.05 to 12 h⁴/30 is 1e-4.
    """
    n = len(x)
    points = min(points, n)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    nodes = x.to("cpu", torch.float64)
    for k in range(n):
        start = min(max(k - points // 2, 0), n - points)
        near = nodes[start : start + points]
        own = k - start
        apart = near[:, None] - near + torch.eye(points, dtype=torch.float64)
        bary = 1 / apart.prod(1)  # barycentric weights (Berrut & Trefethen 2004, section 9.3)
        row = bary / bary[own] / (near[own] - near + torch.eye(points, dtype=torch.float64)[own])
        row[own] = 0
        row[own] = -row.sum()
        matrix[k, start : start + points] = row
    return matrix.to(x.device)


def interpolated(tau: Tensor, x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """Cubic Hermite interpolation at ``tau`` ``(B,)`` of values y and slopes at rising x, all ``(K,)``.

    Continuously differentiable, as integration by parts asks of the time score.
    """
    right = torch.searchsorted(x, tau.detach()).clamp(1, len(x) - 1)
    left = right - 1
    step = x[right] - x[left]
    t = (tau - x[left]) / step
    rise = y[right] - y[left]
    a = slope[left] * step - rise
    b = rise - slope[right] * step
    return (1 - t) * y[left] + t * y[right] + t * (1 - t) * (a * (1 - t) + b * t)


class _AlongTheLadder(Objective):
    """Knows the derivative of the normalisers along the ladder."""

    slopes: Tensor

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__(setup, options)
        self.register_buffer("slopes", slope_matrix(setup.sigma[1:].log()), persistent=False)


class ConditionalTimeScore(_AlongTheLadder):
    """:func:`conditional_time_score_loss` at the batch's own points and rungs."""

    name = "conditional_time_score"

    def loss(self, problem: Problem) -> Tensor:
        chosen = problem.noisy
        z, level = problem.points[chosen], problem.level[chosen]
        periodic = problem.model.periodic
        target = conditional_time_score(problem.displacement[chosen], level, periodic)
        score = time_score(problem.model, z, level.log(), create_graph=problem.create_graph)
        offset = self.slopes.to(problem.offsets) @ problem.offsets[1:]
        return conditional_time_score_loss(score + offset[problem.rungs[chosen] - 1], target, z.shape[1])


class TimeScore(_AlongTheLadder):
    """:func:`time_score_loss` at points noised to random times and to both ends of the ladder.

    Each data point and its noise are used at all three, which makes the boundary terms quieter. Between
    rungs f(τ) is interpolated.
    """

    name = "time_score"

    def loss(self, problem: Problem) -> Tensor:
        model, clean = problem.model, problem.clean
        nodes = problem.sigma[1:].log().to(clean)
        offsets = problem.offsets[1:].to(clean)
        slopes = self.slopes.to(clean) @ offsets
        generator = problem.generator
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
        place = torch.rand(len(clean), generator=generator, dtype=clean.dtype, device=clean.device)
        span = nodes[-1] - nodes[0]

        def points(tau: Tensor) -> Tensor:
            return wrapped(clean + tau.exp()[:, None] * noise, model.periodic)

        with torch.enable_grad():
            tau = (nodes[0] + span * place).requires_grad_(True)
            value = model.log_density(points(tau.detach()), tau.exp())
            value = value + interpolated(tau, nodes, offsets, slopes)
            (score,) = torch.autograd.grad(value.sum(), tau, create_graph=True)
            (slope,) = torch.autograd.grad(
                score.sum(), tau, create_graph=problem.create_graph, retain_graph=True
            )
        ends = [
            time_score(model, points(end), end, create_graph=problem.create_graph) + slopes[index]
            for index, end in ((0, nodes[:1].expand(len(clean))), (-1, nodes[-1:].expand(len(clean))))
        ]
        return time_score_loss(score, slope, ends[0], ends[1], float(span), clean.shape[1])
