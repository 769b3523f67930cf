"""How much of the denoising target and how much of the data's force, direction by direction."""

import torch
from torch import Tensor, nn

from bgdiff.models.pairs import N_NOISE_FEATURES, PairGeometry, noise_features

__all__ = ["PairMixing"]


class PairMixing(nn.Module):
    """The mixed score identity for particles, with a matrix Λ(z, σ) in place of a number per axis.

    For any matrix Λ that depends on the noisy point alone,

        ∇log p_σ(z) = E[Λ ∇log q(z|z_0) + (1-Λ) ∇log p(z_0) | z],

    and for Gaussian data Λ = σ² (C + σ²)⁻¹ makes the target exact. Particles are stiff along the contacts
    with their neighbours and soft across them, in directions that turn with the conformation. Therefore

        Λ v = σ²/(σ² + c) [v + M v/(1 + σ²)],
        M v = γ v + Σ_{i<j} H(e_i - e_j) ⊗ (α(r_ij) r̂r̂ᵀ + β(r_ij) (1 - r̂r̂ᵀ)) (v_i - v_j),

    with α, β, γ learned functions of the noise. The factor 1/(1 + σ²) is how 1 - Λ falls for data of variance
    1. Without it small errors of Λ at high noise, times forces of variance 1/c and the weight σ², would be
    all of the loss. The score loss is the error of the model plus the variance of the target given z,
    whatever Λ: its minimum over Λ is the target with the least variance, and training both together leaves
    the model's optimum where it is.

    Args:
        event_shape: (N, D).
        width: c, as in :func:`~bgdiff.objectives.score.mixed_score`, the same for all axes.
        sigma_min, sigma_max: noise of the lowest and of the top rung.
    """

    def __init__(
        self,
        event_shape: tuple[int, int],
        width: float,
        sigma_min: float,
        sigma_max: float,
        *,
        radial: int = 32,
        reach: float = 5.5,
        embedding: int = 32,
    ) -> None:
        super().__init__()
        self.width, self.sigma_min, self.sigma_max = width, sigma_min, sigma_max
        self.pairs = PairGeometry(event_shape, radial, reach)
        self.embed = nn.Sequential(
            nn.Linear(N_NOISE_FEATURES, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.leave = nn.Linear(embedding, 1 + 2 * radial)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
        """Λ v ``(B, d)`` of vectors v ``(B, d)`` at noisy points z ``(B, d)``, σ ``(B,)``."""
        with torch.no_grad():
            y = z * (1 + sigma**2).rsqrt()[:, None]
            direction, distance = self.pairs.directions(y)
            radial = self.pairs.radial(distance)
            apart = self.pairs.separations(v)
            along = (apart * direction).sum(-1, keepdim=True) * direction
            across = apart - along
        level = self.leave(self.embed(noise_features(sigma, self.sigma_min, self.sigma_max)))
        alpha, beta = (radial @ level[:, 1:].reshape(len(z), -1, 2)).split(1, -1)
        share = (sigma**2 / (sigma**2 + self.width))[:, None]
        learned = level[:, :1] * v + self.pairs.gather(alpha * along + beta * across)
        mixed: Tensor = share * (v + learned / (1 + sigma**2)[:, None])
        return mixed
