"""Points of the model's own density at every rung, which outlive a training step."""

import torch
from torch import Tensor, nn

from bgdiff.ladder.kernels import Prior
from bgdiff.ladder.moves import move_scale
from bgdiff.models.base import EnergyModel, mean_of_equal_axes

__all__ = ["Pool", "widths"]

_MEMORY = 0.9  # of the running moments, per visit of a rung


class Pool(nn.Module):
    """M points at each rung of a ladder, and how long a move there should be.

    Both are saved and restored with the training. The points start as draws of N(0, 1 + σ²) on real axes and
    of the uniform density on periodic ones, which is where networks start too.

    Moves are measured in units of E[s²]^(-1/2) per axis, the width that the model's score s sees. The mean is
    over *data* at the current parameters, not over the pool's points: the moves of the pool then depend on
    the pool through the model alone.

    Args:
        sigma: ``(K+1,)``, noise of the rungs; rung 0 has no points.
        periodic: bool ``(d,)``.
        size: M.
    """

    z: Tensor
    moment: Tensor

    def __init__(self, sigma: Tensor, periodic: Tensor, size: int, generator: torch.Generator) -> None:
        super().__init__()
        points = [Prior(float(level), periodic).sample(size, generator) for level in sigma[1:]]
        self.register_buffer("z", torch.stack([torch.zeros_like(points[0]), *points]))
        self.register_buffer("moment", torch.zeros_like(self.z[:, 0]))

    @property
    def size(self) -> int:
        return self.z.shape[1]

    def measured(self, model: EnergyModel, rung: Tensor, score: Tensor) -> Tensor:
        """The moments ``(K+1, d)``, updated from the model's scores ``(B, d)`` at data on the rungs ``(B,)``.

        Running means over the visits of each rung; 0 where there was none.
        """
        rungs, member = rung.unique(return_inverse=True)
        total = torch.zeros(len(rungs), score.shape[1], dtype=torch.float64, device=score.device)
        total.index_add_(0, member, score.detach().to(torch.float64).square())
        new = mean_of_equal_axes(model, total / member.bincount()[:, None])
        old = self.moment[rungs]
        mean = torch.where(old == 0, new, _MEMORY * old + (1 - _MEMORY) * new)
        return self.moment.index_copy(0, rungs, mean)


def widths(moment: Tensor, rungs: Tensor, sigma: Tensor, periodic: Tensor) -> Tensor:
    """The unit of length of moves at the rungs ``(R,)``, from :meth:`Pool.measured`: ``(R, d)`` float64."""
    return torch.stack([move_scale(moment[k], float(sigma[k]), periodic) for k in rungs.tolist()])
