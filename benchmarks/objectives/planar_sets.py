"""Five sets of points in the plane on which generative models are compared, as densities to draw from."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["PLANAR_SETS", "standardised"]


def _eight_gaussians(n: int, generator: torch.Generator) -> Tensor:
    """Eight narrow normals on a circle."""
    angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    return 2 * _polar(angle.double()) + 0.15 * _normal(n, generator)


def _grid(n: int, generator: torch.Generator) -> Tensor:
    """Nine narrow normals on a 3×3 grid."""
    centre = torch.randint(-1, 2, (n, 2), generator=generator).double()
    return 2 * centre + 0.15 * _normal(n, generator)


def _two_spirals(n: int, generator: torch.Generator) -> Tensor:
    """Two arms of one and a half turns, points evenly along them, blurred by a little."""
    turn = 3 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64).sqrt()
    side = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    return (side * turn)[:, None] * _polar(turn) / 3 + 0.1 * _normal(n, generator)


def _swiss_roll(n: int, generator: torch.Generator) -> Tensor:
    """One arm of one and a half turns, blurred; two coordinates of the roll in three."""
    turn = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator, dtype=torch.float64))
    return turn[:, None] * _polar(turn) / 5 + 0.08 * _normal(n, generator)


def _checkerboard(n: int, generator: torch.Generator) -> Tensor:
    """Uniform on the eight equal squares of one colour of a 4×4 board."""
    square = torch.randint(8, (n,), generator=generator)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = torch.stack([column, row], -1).double() - 2
    return corner + torch.rand(n, 2, generator=generator, dtype=torch.float64)


PLANAR_SETS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "8 Gaussians": _eight_gaussians,
    "3×3 grid": _grid,
    "two spirals": _two_spirals,
    "swiss roll": _swiss_roll,
    "checkerboard": _checkerboard,
}
"""n draws ``(n, 2)`` float64."""


def standardised(name: str) -> Callable[[int, torch.Generator], Tensor]:
    """Draws of a set, moved and scaled (all axes alike) to mean 0 and mean variance 1 per axis."""
    draw = PLANAR_SETS[name]
    many = draw(200_000, torch.Generator().manual_seed(0))
    mean, scale = many.mean(0), many.var(0).mean().sqrt()
    return lambda n, generator: (draw(n, generator) - mean) / scale


def _polar(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)
