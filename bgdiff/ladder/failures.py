"""What can go wrong on the way down a ladder, said so that a user can act on it."""

import torch
from torch import Tensor

from bgdiff.errors import CorrectionError
from bgdiff.ladder.resampling import shares

__all__ = ["check_energies", "check_points", "check_weights"]

_TOO_MANY_BAD = 0.5
_EVERYTHING = 0.99
_ENOUGH_TO_JUDGE = 10


def check_energies(log_density: Tensor, stage: str, whose: str) -> int:
    """Count log densities that are not finite; such particles weigh nothing.

    Args:
        log_density: ``(N,)``.
        stage: the rung, in words.
        whose: ``model`` or ``target``.

    Raises:
        CorrectionError: more than half of them.
    """
    bad = int((~torch.isfinite(log_density)).sum())
    if bad > _TOO_MANY_BAD * len(log_density):
        kind = "nan" if bool(log_density.isnan().any()) else "infinite"
        advice = (
            "the network is damaged or far outside what it was trained on; train again, with a smaller "
            "learning rate if its loss was not finite"
            if whose == "model"
            else "the particles have impossible geometries there; train longer, or check that the data and "
            "the energy belong to the same system"
        )
        raise CorrectionError(
            f"{stage}: the {whose}'s energy is {kind} for {bad} of {len(log_density)} particles; {advice}"
        )
    return bad


def check_points(z: Tensor, stage: str) -> None:
    """Refuse to follow walks that have left the numbers.

    Args:
        z: ``(N, d)``. Rows that are not finite stay so, and end with weight zero.

    Raises:
        CorrectionError: more than half of them are not finite.
    """
    bad = int((~torch.isfinite(z).all(1)).sum())
    if bad > _TOO_MANY_BAD * len(z):
        raise CorrectionError(
            f"{stage}: the steps down from here end nowhere for {bad} of {len(z)} walks, as the model's "
            "score is not finite; the network is damaged or far outside what it was trained on: train again, "
            "with a smaller learning rate if its loss was not finite"
        )


def check_weights(log_weight: Tensor, stage: str) -> None:
    """Refuse to go on with no particle left, or with one.

    Raises:
        CorrectionError: all weights are zero, or one particle carries 99 % of at least ten's weight.
    """
    n = len(log_weight)
    if not bool(torch.isfinite(log_weight).any()):
        raise CorrectionError(
            f"{stage}: all {n} particles have weight zero, so nothing is left to continue with; the "
            "densities of this stage and the one above it do not overlap: train longer, or use more rungs"
        )
    largest = float(shares(log_weight).max())
    if n >= _ENOUGH_TO_JUDGE and largest > _EVERYTHING:
        raise CorrectionError(
            f"{stage}: one of {n} particles carries {100 * largest:.1f} % of the weight, so what follows "
            "would be copies of it; this rung and the one above hardly overlap: use more rungs, more "
            "particles per chunk, moves at the rungs, or train longer"
        )
