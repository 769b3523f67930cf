"""The minimum of energy below a conformation."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.targets.base import Target

__all__ = ["Quenched", "quench"]

_TOLERANCE = 1e-6  # largest component of the force at a minimum, kT per unit of length


@dataclass(frozen=True)
class Quenched:
    """Local minima that conformations lead to."""

    x: NDArray[np.float64]
    """``(B, N, D)``."""
    energy: NDArray[np.float64]
    """``(B,)``."""


def quench(target: Target, x: NDArray[np.floating], steps: int = 2000) -> Quenched:
    """Follow every conformation ``(B, N, D)`` to a minimum of energy by L-BFGS (scipy's).

    Args:
        steps: at most, for each.
    """
    from scipy.optimize import minimize

    shape = target.event_shape

    def function(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        energy, force = target.energy_and_force(torch.from_numpy(flat.copy()).reshape(1, *shape))
        return float(energy[0]), -force.numpy().ravel()

    options = {"maxiter": steps, "maxfun": 2 * steps, "gtol": _TOLERANCE, "ftol": 0.0, "maxcor": 20}
    found = [
        minimize(function, row.astype(np.float64).ravel(), jac=True, method="L-BFGS-B", options=options)
        for row in x
    ]
    return Quenched(
        np.array([result.x for result in found]).reshape(len(x), *shape),
        np.array([result.fun for result in found]),
    )
