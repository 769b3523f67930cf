"""Where ladders and chains on a toy density start: given positions, a structure from a file, at random."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bgdiff.data.trajectories import read_array
from bgdiff.errors import DataError
from bgdiff.targets.base import Target

__all__ = ["RANDOM", "given_starts", "random_starts"]

RANDOM = "random"
_DESCENTS = 300


def given_starts(
    starts: Sequence[list[float] | str], shape: tuple[int, int], folder: Path | None = None
) -> list[Tensor | None]:
    """Positions ``(N, D)`` of each start; None for those that are random.

    Args:
        starts: all coordinates, or those of one particle for all; ``random``; or the name of a ``.npz`` or
            ``.npy`` file whose first conformation it is.
        shape: (N, D).
        folder: where files lie.

    Raises:
        ValueError: a start has another number of coordinates, or its file cannot be read.
    """
    particles, dimensions = shape
    rows: list[Tensor | None] = []
    for start in starts:
        if start == RANDOM:
            rows.append(None)
        elif isinstance(start, str):
            try:
                frames = read_array((folder or Path()) / start, shape)
            except DataError as error:
                raise ValueError(str(error)) from error
            if not len(frames):
                raise ValueError(f"{start}: holds no conformation")
            rows.append(torch.from_numpy(frames[0]).to(torch.float64))
        elif len(start) in (dimensions, particles * dimensions):
            rows.append(torch.tensor(start, dtype=torch.float64).reshape(-1, dimensions).expand(shape))
        else:
            choice = " or ".join(str(n) for n in sorted({dimensions, particles * dimensions}))
            raise ValueError(f"each start needs {choice} numbers, not {len(start)}")
    return rows


def random_starts(
    target: Target, number: int, radius: float, step: float, generator: torch.Generator
) -> Tensor:
    """Conformations ``(number, N, D)`` of particles uniform in a ball, then moved apart where they overlap.

    Steepest descent, each coordinate by at most ``step`` at a time, takes the worst of the energy away.

    Args:
        radius: of the ball.
        step: of the leapfrog integrator that is to follow.
    """
    particles, dimensions = target.event_shape
    x = torch.randn(number, particles, dimensions, generator=generator, dtype=torch.float64)
    depth = torch.rand(number, particles, 1, generator=generator, dtype=torch.float64)
    x *= radius * depth ** (1 / dimensions) / x.norm(dim=2, keepdim=True)
    for _ in range(_DESCENTS):
        x = x + (0.5 * step**2 * target.energy_and_force(x)[1]).clamp(-step, step)
    return x
