"""Famous clusters built from their geometry, with distances between neighbours near 1."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["icosahedron", "mackay_icosahedron", "truncated_octahedron"]


def icosahedron() -> Tensor:
    """A centre and the 12 vertices of an icosahedron, ``(13, 3)`` float64; edges of length 1.05."""
    golden = (1 + math.sqrt(5)) / 2
    vertices = [
        np.roll([0.0, one, two * golden], shift)
        for shift in range(3)
        for one, two in itertools.product((-1, 1), repeat=2)
    ]
    radius = math.sqrt(1 + golden**2)
    return torch.from_numpy(np.array([np.zeros(3), *vertices])) / radius


def mackay_icosahedron() -> Tensor:
    """Two shells about a centre, ``(55, 3)``: 12 vertices, then 12 twice as far and 30 midpoints of edges."""
    inner = icosahedron()[1:]
    edges = [a + b for a, b in itertools.combinations(inner, 2) if float((a - b).norm()) < 1.1]
    return torch.cat([icosahedron(), 2 * inner, torch.stack(edges)])


def truncated_octahedron() -> Tensor:
    """The 38 sites of a face-centred cubic crystal nearest to one of its octahedral holes, ``(38, 3)``."""
    sites = [site for site in itertools.product(range(-3, 4), repeat=3) if sum(site) % 2]
    nearest = [site for site in sites if sum(i * i for i in site) <= 5]
    return torch.tensor(nearest, dtype=torch.float64) / math.sqrt(2)
