"""Maps between conformations and latents, with log|det|."""

from typing import Any

from torch import Tensor

from bgdiff.coordinates.base import Coordinates
from bgdiff.coordinates.change import LatentChange, change_latents
from bgdiff.coordinates.internal import InternalCoordinates, ZMatrixMap
from bgdiff.coordinates.latent import LatentTarget
from bgdiff.coordinates.mean_free import MeanFreeCoordinates
from bgdiff.coordinates.whitened import WhitenedCoordinates
from bgdiff.coordinates.whitening import Whitening, wrap
from bgdiff.coordinates.zmatrix import ZMatrix
from bgdiff.errors import CheckpointError

__all__ = [
    "Coordinates",
    "InternalCoordinates",
    "LatentChange",
    "LatentTarget",
    "MeanFreeCoordinates",
    "WhitenedCoordinates",
    "Whitening",
    "ZMatrix",
    "ZMatrixMap",
    "change_latents",
    "coordinates_from_state",
    "wrap",
]


def coordinates_from_state(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Coordinates:
    """Rebuild a coordinate map from its ``state()``.

    Raises:
        CheckpointError: the kind is unknown to this version.
    """
    known = (InternalCoordinates, MeanFreeCoordinates, WhitenedCoordinates)
    kinds = {kind.kind: kind for kind in known}
    kind = metadata.get("kind")
    if kind not in kinds:
        raise CheckpointError(f"coordinates of kind {kind!r} are unknown to this version of bgdiff")
    return kinds[kind].from_state(tensors, metadata)
