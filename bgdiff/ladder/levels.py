"""The noise of each rung."""

import math

import torch
from torch import Tensor

from bgdiff.errors import ConfigError

__all__ = ["noise_levels"]


def noise_levels(n_rungs: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Noise σ_0 = 0, σ_1 = ``sigma_min``, …, σ_K = ``sigma_max``, log-uniform from σ_1; ``(K+1,)`` float64.

    Args:
        n_rungs: K, the number of noisy rungs, at least 2.

    Raises:
        ConfigError: the arguments do not describe a rising ladder.
    """
    if n_rungs < 2:
        raise ConfigError(f"a ladder needs at least 2 noisy rungs, not {n_rungs}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ConfigError(f"noise must rise: 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")
    rising = torch.linspace(math.log(sigma_min), math.log(sigma_max), n_rungs, dtype=torch.float64).exp()
    return torch.cat([torch.zeros(1, dtype=torch.float64), rising])
