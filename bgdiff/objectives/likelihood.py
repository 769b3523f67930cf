"""The loss whose gradient is that of the negative log-likelihood, given samples of the model itself."""

from torch import Tensor

__all__ = ["likelihood_loss"]


def likelihood_loss(data: Tensor, samples: Tensor, weight: Tensor | None = None) -> Tensor:
    """-mean log p̃(data) + Σ_i w_i log p̃(sample_i), a scalar whose gradient, not value, means something.

    -∇ E_data[log p] = -E_data[∇ log p̃] + E_p[∇ log p̃], since ∇ log Z = E_p[∇ log p̃]. Points and weights
    carry no gradient: a sample enters as a place at which the energy is raised.

    Args:
        data: log p̃ at the data ``(B,)``.
        samples: log p̃ at points of the model's own density ``(N,)``.
        weight: of the samples ``(N,)``, summing to 1; equal by default.
    """
    if weight is None:
        return samples.mean() - data.mean()
    return (weight.detach().to(samples) * samples).sum() - data.mean()
