"""Free-energy curves that are known exactly, to draw beside estimates."""

from typing import TYPE_CHECKING

import numpy as np

from bgdiff.analysis.profiles import ExactProfile
from bgdiff.system_spec import DoubleWellSpec, ManyWellSpec

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["exact_profiles"]


def exact_profiles(system: "System") -> dict[str, ExactProfile]:
    """Exact profiles of a system's observables, in kT up to a constant; empty where none is known.

    The coordinates of the double well, and of many, are independent, so each has its part of the energy.
    """
    if not isinstance(system.spec, DoubleWellSpec | ManyWellSpec):
        return {}
    parameters = system.spec.parameters
    # beyond this distance from the origin the energy is more than 30 kT above its minimum
    reach = 3.0 + (30.0 / parameters.c) ** 0.25 + (abs(parameters.b) / parameters.c) ** 0.5
    reach += (abs(parameters.a) / parameters.c) ** (1 / 3)
    x, y = np.linspace(-reach, reach, 4001), np.linspace(-8.0, 8.0, 1601)
    curves = (
        ExactProfile(x, parameters.a * x + parameters.b * x**2 + parameters.c * x**4),
        ExactProfile(y, 0.5 * y**2),
    )
    return {
        name: curves[spec.component[1]]
        for name, spec in system.spec.observables.items()
        if spec.component is not None
    }
