"""What a model is trained on: latents with what the target says about them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.coordinates import LatentTarget
from bgdiff.errors import DataError
from bgdiff.progress import Progress, silent

__all__ = ["TrainingData", "label"]


@dataclass(frozen=True)
class TrainingData:
    """Latents with what the target says about them.

    Args:
        z: ``(n, d)`` float64.
        log_density: target's unnormalised log density ``(n,)``, nan if it is not known.
        score: its gradient ``(n, d)``, or None to train without forces.
        basin: int64 ``(n,)``, index of the frame's basin, -1 outside all; used in diagnostics only.
    """

    z: Tensor
    log_density: Tensor
    score: Tensor | None
    basin: Tensor

    def to(self, device: str | torch.device, dtype: torch.dtype) -> "TrainingData":
        score = None if self.score is None else self.score.to(device, dtype)
        return TrainingData(
            self.z.to(device, dtype), self.log_density.to(device), score, self.basin.to(device)
        )


def label(
    latent: LatentTarget,
    x: Tensor,
    basin: Tensor,
    *,
    forces: bool = True,
    chunk: int = 4096,
    progress: Progress = silent,
) -> TrainingData:
    """Latents, log densities and scores of conformations x ``(n, N, D)``; one target evaluation each.

    Raises:
        DataError: a frame's geometry or energy is impossible in these coordinates.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in range(0, len(x), chunk):
        z, _ = latent.coordinates.to_z(x[i : i + chunk].to(torch.float64))
        parts.append((z, *latent.log_density_and_score(z)))
        progress(min(i + chunk, len(x)), len(x))
    z, log_density, score = (torch.cat(column) for column in zip(*parts, strict=True))
    good = torch.isfinite(log_density) & torch.isfinite(score).all(-1)
    if not bool(good.all()):
        bad = torch.nonzero(~good)[:, 0]
        raise DataError(
            f"{len(bad)} frames of the data set have no finite energy or force (first: frame {int(bad[0])})"
        )
    return TrainingData(z, log_density, score if forces else None, basin)
