"""Were frames drawn with this force field at this temperature? Identities that need no velocities.

For latents z of a density p(z) ∝ exp(-v(z)), integration by parts gives for every real axis

    < z_i ∂_i v > = 1,    < ∂_i v > = 0,

and the second for periodic axes, too (Stein, 1972; the sum over i of the first is the virial theorem). In
whitened coordinates each term of the sum is about the square of a standard normal number, so that a thousand
frames of a small molecule tell its temperature within a few kelvin; in Cartesian coordinates, where stiff
bonds pull at long levers, the same takes hundreds of times as many. At T' instead of T, the harmonic part of
the first becomes T'/T. Both hold within each metastable basin: basins in wrong proportion do no harm.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.analysis.virial import VirialAverage, average_over_blocks, compared
from bgdiff.coordinates import LatentTarget
from bgdiff.preparation import fit_coordinates

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Agreement", "judge_ensemble"]

Array = NDArray[np.float64]

_CHUNK = 4096
_FAR = 5.0  # standard errors that are no chance, among hundreds of axes
_PULL = 0.25  # mean force along an axis that matters, in kT per standard deviation


@dataclass(frozen=True)
class Agreement:
    """What the forces of the system say about frames.

    Attributes:
        virial: sum over real axes of <z_i ∂_i v>, beside their number.
        n_axes: real and periodic.
        n_pulled: axes along which the forces do not average to zero.
        largest_pull: the largest mean force along an axis, kT per standard deviation of the data.
    """

    virial: VirialAverage
    n_axes: int
    n_pulled: int
    largest_pull: float

    @property
    def ratio(self) -> float:
        """Temperature of the data over that of the system, if the force field is the same."""
        return self.virial.value / self.virial.expected

    @property
    def ratio_error(self) -> float:
        return self.virial.std_error / self.virial.expected

    def to_dict(self) -> dict[str, Any]:
        """For the provenance."""
        return asdict(self)


def judge_ensemble(system: "System", x: Array, chain: NDArray[np.integer[Any]]) -> Agreement:
    """Compare frames ``(n, N, D)`` with the system's density.

    Args:
        chain: ``(n,)``, the simulation each frame comes from; frames of one are in the order of time.

    Raises:
        DataError: too few frames for the system's coordinates, or one of these does not vary.
    """
    frames = torch.from_numpy(x)
    coordinates = fit_coordinates(system, frames)
    latent = LatentTarget(system.target, coordinates)
    parts = []
    for rows in frames.split(_CHUNK):
        z, _ = coordinates.to_z(rows)
        parts.append((z, latent.log_density_and_score(z)[1]))
    latents, score = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    real = ~coordinates.periodic.numpy()
    terms = -(latents[:, real] * score[:, real]).sum(axis=1)
    virial = compared(average_over_blocks(terms, chain), int(real.sum()), len(x))
    pulls = [average_over_blocks(column, chain) for column in score.T]
    far = [abs(pull.value) > max(_PULL, _FAR * pull.std_error) for pull in pulls]
    return Agreement(virial, len(real), sum(far), max(abs(pull.value) for pull in pulls))
